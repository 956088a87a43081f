"""``report.json``: what it holds, and a check of every key.

Keys (accuracies are fractions in [0, 1]; null where something was not measured)

    format             "ddfast.evaluation"
    schema_version     2; the keys marked (2) are not in reports of version 1
    config, protocol   the evaluation's settings; name and description of the recipe
    class_names        list of text; the index is the label
    validation         {name, fingerprint, images, unreadable, per_class, preparation}
    sets               [{key, name, method, source, observer, ipc, images, resolution, sha256, storage, teacher, ...}]
                       storage: {bytes: {images, labels, extras, total}, bits_per_class, real_image_bytes,
                       original_image_bytes, ipc_equivalent} and (2) {parts: [{name, numbers, bytes}], numbers,
                       ipc_by_numbers: {total, without_labels}, bytes_at, bits_per_class_at: {fp32, fp16, int8}}
                       (2) distillation: {iterations, steps, flops, seconds, cpu_seconds, machine, parts: {name:
                       seconds}} or null, what making the set cost
    students           [{name, label}]
    results            one row per set, pictures ("distilled", "random-images", "random-bytes", "full"), labels ("hard",
                       "soft"), augmentation and student: {top1: {mean, std, values}, best_of_test, per_class, curve,
                       loss, image_count, bytes, cost: {steps, flops, seconds}, recipe}; top1 is that of the last epoch.
                       Of students that went through stages, recipe is that of a stage, and there is staged: {mode,
                       momentum, stages: [{images, epochs, lr, top1: {mean, std, values}}]}, top1 at each one's end
    tradeoff           (2) accuracy, storage and training cost of each row with augmentation: [{set, images, labels,
                       student, top1: {mean, std}, image_count, bytes, label_bytes, flops, steps, seconds}]; bytes
                       holds the stored soft labels, label_bytes, where the row was trained with them; flops is of
                       one student, decoding and teacher included
    scores             [{set, student, labels, hlr, ior, lrs, ars}], each {mean, std, values} or null
    cross_architecture [{set, observer, labels, top1: [{mean, std}] one per student}] or null
    notes              list of text
    versions, machine  mappings
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfast._outside import read_json

FORMAT = "ddfast.evaluation"
SCHEMA_VERSION = 2
_Check = Callable[[Any], bool]


def read_report(path: str | Path) -> dict[str, Any]:
    """Reads and checks a report.

    Args:
        path: ``report.json`` or the folder with it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not valid; the message names the file and the key.
    """
    return read_checked(path, validate_report)


def read_checked(path: str | Path, validate: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """``report.json`` at a path, or in the folder there, as ``validate(content, where=...)`` gives it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or ``validate`` refuses it.
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    try:
        content = read_json(file, follow=True)
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    return validate(content, where=str(file))


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """The file's contents; ValueError names the first key that is not valid."""
    validate_report(report)
    return json_bytes(report)


def json_bytes(report: Mapping[str, Any]) -> bytes:
    """A valid report as a file's contents."""
    return (json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def validate_report(report: Any, where: str = "report") -> dict[str, Any]:
    """Checks every key.

    Raises:
        ValueError: names the first key that is missing or wrong, its value and what was expected.
    """
    if not isinstance(report, Mapping):
        raise ValueError(f"{where}: got {type(report).__name__}, expected a mapping")
    if report.get("format") != FORMAT:
        raise ValueError(f"{where}: format: got {report.get('format')!r}, expected {FORMAT!r}")
    version = report.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"{where}: schema_version: got {version}, this version knows {SCHEMA_VERSION}; update ddfast")
    _check_all(where, report, _SCHEMA)
    classes, students = len(report["class_names"]), len(report["students"])
    for name, schema in (("sets", _SET), ("students", _STUDENT), ("results", _RESULT), ("scores", _SCORE)):
        for index, entry in enumerate(report[name]):
            _check_all(f"{where}: {name}[{index}]", entry, schema)
    if isinstance(version, int) and version >= 2:
        _check_accounts(where, report)
    for index, row in enumerate(report["results"]):
        _require_length(f"{where}: results[{index}].per_class", row["per_class"], classes, "class")
        for number, part in enumerate((row.get("staged") or {}).get("stages", ())):
            _check_all(f"{where}: results[{index}].staged.stages[{number}]", part, _STAGE)
    for index, row in enumerate(report["cross_architecture"] or ()):
        _check_all(f"{where}: cross_architecture[{index}]", row, _CROSS)
        _require_length(f"{where}: cross_architecture[{index}].top1", row["top1"], students, "student")
    return dict(report)


def _check_accounts(where: str, report: Mapping[str, Any]) -> None:
    """What version 2 added."""
    _check_all(where, report, _SCHEMA_2)
    for index, entry in enumerate(report["sets"]):
        _check_all(f"{where}: sets[{index}]", entry, _SET_2)
        for number, part in enumerate(entry["storage"]["parts"]):
            _check_all(f"{where}: sets[{index}].storage.parts[{number}]", part, _PART)
    keys = {entry["key"] for entry in report["sets"]}
    for index, point in enumerate(report["tradeoff"]):
        _check_all(f"{where}: tradeoff[{index}]", point, _POINT)
        if point["set"] not in keys:
            raise ValueError(f"{where}: tradeoff[{index}]: set: got {point['set']!r}, expected the key of a set")


def _check_all(where: str, value: Any, schema: Sequence[tuple[str, _Check, str]]) -> None:
    for key, check, expected in schema:
        found = value
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise ValueError(f"{where}: {key}: missing, expected {expected}")
            found = found[part]
        if not check(found):
            raise ValueError(f"{where}: {key}: got {repr(found)[:80]}, expected {expected}")


def _require_length(where: str, values: Sequence[Any], length: int, unit: str) -> None:
    if len(values) != length:
        raise ValueError(f"{where}: got {len(values)} entries, expected one for each {unit}, {length}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_size(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_per_precision(value: Any) -> bool:
    return _is_mapping(value) and all(_is_size(value.get(name)) for name in ("fp32", "fp16", "int8"))


def _or_null(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


def _summary_of(check: _Check) -> _Check:
    def valid(value: Any) -> bool:
        if not isinstance(value, Mapping) or not {"mean", "std", "values"} <= set(value):
            return False
        return check(value["mean"]) and _or_null(_is_number)(value["std"]) and _list_of(check)(value["values"])

    return valid


_ACCURACY = "a mapping with mean, std and values, fractions in [0, 1]"
_VALUES = "a mapping with mean, std and values, or null"
_SCHEMA: tuple[tuple[str, _Check, str], ...] = (
    ("schema_version", lambda value: _is_count(value) and value >= 1, "a version number from 1"),
    ("config", _is_mapping, "a mapping"),
    ("protocol.name", _is_text, "text"),
    ("protocol.about", _is_text, "text"),
    ("class_names", _list_of(_is_text), "a list of text, one name per label"),
    ("validation.name", _is_text, "text"),
    ("validation.fingerprint", _is_text, "text"),
    ("validation.images", _is_count, "a number of pictures"),
    ("validation.unreadable", _is_count, "a number of pictures"),
    ("validation.preparation", _is_text, "text"),
    ("sets", lambda value: _list_of(_is_mapping)(value) and len(value) > 0, "a list of one set or more"),
    ("students", lambda value: _list_of(_is_mapping)(value) and len(value) > 0, "a list of one student or more"),
    ("results", _list_of(_is_mapping), "a list of mappings"),
    ("scores", _list_of(_is_mapping), "a list of mappings"),
    ("cross_architecture", _or_null(_list_of(_is_mapping)), "a list of mappings, or null"),
    ("notes", _list_of(_is_text), "a list of text"),
    ("versions", lambda value: _is_mapping(value) and all(map(_is_text, value.values())), "a mapping of texts"),
    ("machine", _is_mapping, "a mapping"),
)
_SET: tuple[tuple[str, _Check, str], ...] = (
    ("key", _is_text, "text"),
    ("name", _is_text, "text"),
    ("method", _or_null(_is_text), "text or null"),
    ("source", _or_null(_is_text), "text or null"),
    ("observer", _or_null(_is_text), "text or null"),
    ("ipc", _is_count, "a number of images per class"),
    ("images", _is_count, "a number of images"),
    ("resolution", lambda value: _list_of(_is_count)(value) and len(value) == 2, "[height, width] in pixels"),
    ("sha256", _is_text, "text"),
    ("storage.bytes.total", _is_count, "a number of bytes"),
    ("storage.bits_per_class", _is_number, "a number"),
    ("storage.ipc_equivalent", _or_null(_is_number), "a number or null"),
    ("teacher", _or_null(_is_mapping), "a mapping or null"),
)
_SCHEMA_2: tuple[tuple[str, _Check, str], ...] = (
    ("tradeoff", _list_of(_is_mapping), "a list of mappings"),
    ("machine.name", _is_text, "text"),
)
_SIZES = "a mapping with fp32, fp16 and int8, numbers from 0"
_SET_2: tuple[tuple[str, _Check, str], ...] = (
    ("storage.parts", _list_of(_is_mapping), "a list of mappings"),
    ("storage.numbers", _is_count, "how many numbers"),
    ("storage.ipc_by_numbers.total", _is_size, "a number from 0"),
    ("storage.ipc_by_numbers.without_labels", _is_size, "a number from 0"),
    ("storage.bytes_at", _is_per_precision, _SIZES),
    ("storage.bits_per_class_at", _is_per_precision, _SIZES),
    ("distillation", _or_null(_is_mapping), "a mapping or null"),
)
_PART: tuple[tuple[str, _Check, str], ...] = (
    ("name", _is_text, "text"),
    ("numbers", _is_count, "how many numbers"),
    ("bytes", _is_count, "a number of bytes"),
)
_STUDENT: tuple[tuple[str, _Check, str], ...] = (("name", _is_text, "text"), ("label", _is_text, "text"))
_RESULT: tuple[tuple[str, _Check, str], ...] = (
    ("set", _is_text, "text"),
    ("images", lambda value: value in ("distilled", "random-images", "random-bytes", "full"), "a kind of pictures"),
    ("labels", lambda value: value in ("hard", "soft"), "'hard' or 'soft'"),
    ("augmented", lambda value: isinstance(value, bool), "true or false"),
    ("student", _is_text, "text"),
    ("top1", _summary_of(_is_fraction), _ACCURACY),
    ("best_of_test", _or_null(_summary_of(_is_fraction)), _ACCURACY + ", or null"),
    ("per_class", _list_of(_or_null(_is_fraction)), "a list of fractions"),
    ("curve.epochs", _list_of(_is_count), "a list of epochs"),
    ("curve.mean", _list_of(_is_fraction), "a list of fractions"),
    ("loss", _list_of(_is_number), "a list of numbers"),
    ("image_count", _is_number, "a number of images"),
    ("bytes", _is_number, "a number of bytes"),
    ("cost.steps", _is_count, "a number of steps"),
    ("cost.flops", _or_null(_is_mapping), "a mapping or null"),
    ("cost.seconds", _summary_of(_is_number), "a mapping with mean, std and values"),
    ("recipe", _is_mapping, "a mapping"),
)
_POINT: tuple[tuple[str, _Check, str], ...] = (
    *_RESULT[:3],
    ("student", _is_text, "text"),
    ("top1.mean", _is_fraction, "a fraction"),
    ("top1.std", _or_null(_is_size), "a number from 0, or null"),
    ("image_count", _is_size, "a number of images"),
    ("bytes", _is_size, "a number of bytes"),
    ("label_bytes", _is_count, "a number of bytes"),
    ("flops", _or_null(_is_count), "a number of operations, or null"),
    ("steps", _is_count, "a number of steps"),
    ("seconds", _is_size, "a number of seconds"),
)
_STAGE: tuple[tuple[str, _Check, str], ...] = (
    ("images", _is_number, "a number of images"),
    ("epochs", _is_count, "a number of epochs"),
    ("lr", _is_number, "a rate"),
    ("top1", _summary_of(_is_fraction), _ACCURACY),
)
_SCORE: tuple[tuple[str, _Check, str], ...] = (
    ("set", _is_text, "text"),
    ("student", _is_text, "text"),
    ("hlr", _or_null(_summary_of(_is_number)), _VALUES),
    ("ior", _or_null(_summary_of(_is_number)), _VALUES),
    ("lrs", _or_null(_summary_of(_is_fraction)), _VALUES),
    ("ars", _or_null(_summary_of(_is_fraction)), _VALUES),
)
_CROSS: tuple[tuple[str, _Check, str], ...] = (
    ("set", _is_text, "text"),
    ("observer", _is_text, "text"),
    ("top1", lambda value: isinstance(value, list), "a list"),
)
