"""``manifest.json``: what a distilled set is, where every patch came from, and how many bytes it takes.

Keys (all are there but those that may be absent; null where nothing is known)

    format            "ddfast.distilled"
    schema_version    1
    method, preset    text
    config            mapping, the method's resolved configuration
    source            {name, fingerprint}
    class_names       list of text; the index is the label
    observer          mapping (name, weights, ...)
    seed              integer
    versions          {package: version}
    normalization     {mean: [3], std: [3]} for pixels in [0, 1], what students should use
    resolution        [height, width] in pixels
    ipc               images per class, the largest if classes differ
    storage           {layout: "folder" | "safetensors", image_format: {kind, quality, subsampling}}; "parquet" in a set
                      exported to Hugging Face
    bytes             {images, labels, extras, manifest, per_class: [...]}; labels are 0 where folders say them
    images            one entry an image, in the set's order: {file, label, cells: [{sample, box, score}]}
                      box is [top, left, height, width] in pixels of the source image; score is the observer's loss, a
                      number or "inf", "-inf", "nan"
    formation         {factor, kind, cap} of images that are decoded before students train on them; may be absent
    stages            of a progressive set: the stage of each image, from 0, in the set's order; may be absent, as are
    stage_lrs         the rate that students train at in each stage, on its images and all before, and
    stage_momentum    "carried" where the optimiser's momentum goes on from stage to stage, and
    stage_pictures    how many real pictures each stage saw, where easy ones were discarded
    distribution      of a set of latent priors (D3): {storage, blocks: [{decoder, classes, rows, batch}]}, see
                      ddfast.train.latent; the images are its means decoded; may be absent
    space             of a set with the tensor trained_images: "normalized" or "zca", what that is; may be absent
    whitening         {file, bytes, sha256} of the whitening (ZCA) that students see pictures through, safetensors with
                      mean [D] and matrix [D, D]; its bytes are not among ``bytes``; may be absent
    exported          {to, left_out} of a set written for other programs: the layout, and tensors and entries that have
                      no place in it; may be absent
    failures          [{label, sample, reason}], source files that were skipped
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddfast._outside import as_text, is_safe_path, read_json
from ddfast.store.manifest_parts import (
    OPTIONAL,
    Check,
    is_box,
    is_config,
    is_count,
    is_failure,
    is_image_format,
    is_integer,
    is_mapping,
    is_normalization,
    is_observer,
    is_score,
    is_side,
    is_source,
    is_text,
    list_of,
    or_null,
)

FORMAT = "ddfast.distilled"
SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
LAYOUTS = ("folder", "safetensors")
PARQUET_LAYOUT = "parquet"  # of an export to Hugging Face, which `load` does not read
_PER_LINE = ("images", "failures")
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The file's contents: JSON, one line per key and per image; ``bytes.manifest`` is set to its own length.

    Raises:
        TypeError, ValueError: a value is not JSON, or the manifest is not valid (the message names the key).
    """
    validate_manifest(manifest)
    content = {**manifest, "bytes": dict(manifest["bytes"])}
    text = _render(content)
    while content["bytes"]["manifest"] != len(text):
        content["bytes"]["manifest"] = len(text)
        text = _render(content)
    return text


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read and validate a manifest file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not valid; the message names the file and the key.
    """
    file = Path(path)
    try:
        content = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    return validate_manifest(content, where=str(file))


def validate_manifest(manifest: Any, where: str = "manifest") -> dict[str, Any]:
    """Check every key.

    Args:
        manifest: what was read or is to be written.
        where: begins the message.

    Returns:
        The manifest; keys that this version does not know are kept.

    Raises:
        ValueError: names the first key that is missing or wrong, its value and what was expected.
    """
    if not isinstance(manifest, Mapping):
        raise ValueError(f"{where}: got {type(manifest).__name__}, expected a mapping")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{where}: format: got {manifest.get('format')!r}, expected {FORMAT!r}")
    version: Any = manifest.get("schema_version")
    if is_count(version) and version > SCHEMA_VERSION:
        raise ValueError(f"{where}: schema_version: got {version}, this version knows {SCHEMA_VERSION}; update ddfast")
    for key, check, expected in _SCHEMA:
        _require(where, manifest, key, check, expected)
    for key, check, expected in OPTIONAL:
        if manifest.get(key) is not None:
            _verify(where, key, manifest[key], check, expected)
    _check_labels(where, manifest)
    return dict(manifest)


def current_versions() -> dict[str, str]:
    """Versions of what decides the bytes of a set: Python, ddfast, torch, numpy, Pillow and its libjpeg-turbo."""
    from PIL import features

    versions = {"python": platform.python_version()}
    for package in ("ddfast", "torch", "numpy", "pillow"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"  # used from a source tree, not installed
    versions["libjpeg_turbo"] = features.version_feature("libjpeg_turbo") or "none"
    return versions


def score_to_json(score: float) -> float | str:
    """A score as JSON: float32 values with the nine digits that read back the same, others in full; text if not finite.

    Args:
        score: any float.
    """
    value = float(score)
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float(f"{value:.9g}") if float(np.float32(value)) == value else value


def score_from_json(value: float | str) -> float:
    """The inverse of `score_to_json` (to within float32 where the score was one)."""
    return _NON_FINITE[value] if isinstance(value, str) else float(value)


def _render(content: Mapping[str, Any]) -> bytes:
    lines = []
    for key, value in content.items():
        if key in _PER_LINE and value:
            body = "[\n" + ",\n".join(json.dumps(entry, allow_nan=False, ensure_ascii=False) for entry in value) + "\n]"
        else:
            body = json.dumps(value, allow_nan=False, ensure_ascii=False)
        lines.append(f"{json.dumps(key)}: {body}")
    # names of files need not be valid Unicode; what is not is written as JSON's own escapes
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode(errors="backslashreplace")


def _require(where: str, manifest: Mapping[str, Any], key: str, check: Check, expected: str) -> None:
    value: Any = manifest
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{where}: {key}: missing, expected {expected}")
        value = value[part]
    _verify(where, key, value, check, expected)


def _verify(where: str, key: str, value: Any, check: Check, expected: str) -> None:
    if not check(value):
        raise ValueError(f"{where}: {key}: got {as_text(value)}, expected {expected}")


def _check_labels(where: str, manifest: Mapping[str, Any]) -> None:
    classes = len(manifest["class_names"])
    sizes = len(manifest["bytes"]["per_class"])
    if sizes != classes:
        raise ValueError(
            f"{where}: bytes.per_class: got {sizes} entries, expected one for each of {classes} class_names"
        )
    label = f"a label from 0 to {classes - 1}"
    needs_file = manifest["storage"]["layout"] == "folder"
    for index, entry in enumerate(manifest["images"]):
        key = f"images[{index}]"
        _verify(where, key, entry, lambda value: isinstance(value, Mapping), "a mapping with file, label and cells")
        _verify(where, f"{key}.label", entry.get("label"), lambda value: is_count(value) and value < classes, label)
        if needs_file or entry.get("file") is not None:
            _verify(where, f"{key}.file", entry.get("file"), is_safe_path, "a relative path that stays in the folder")
        _check_cells(where, key, entry.get("cells"))
    for index, entry in enumerate(manifest["failures"]):
        _verify(where, f"failures[{index}]", entry, is_failure, "a mapping with label, sample and reason")


def _check_cells(where: str, key: str, cells: Any) -> None:
    _verify(where, f"{key}.cells", cells, lambda value: isinstance(value, list), "a list")
    for number, cell in enumerate(cells):
        place = f"{key}.cells[{number}]"
        _verify(where, place, cell, lambda value: isinstance(value, Mapping), "a mapping with sample, box and score")
        _verify(where, f"{place}.sample", cell.get("sample"), is_text, "text")
        _verify(where, f"{place}.box", cell.get("box"), is_box, "[top, left, height, width] in pixels")
        _verify(where, f"{place}.score", cell.get("score"), is_score, "a number, 'inf', '-inf' or 'nan'")


_SCHEMA: tuple[tuple[str, Check, str], ...] = (
    ("schema_version", lambda value: is_count(value) and value >= 1, "a version number from 1"),
    ("method", or_null(is_text), "text or null"),
    ("preset", or_null(is_text), "text or null"),
    ("config", is_config, "a mapping whose factor, iterations and observer, where it has them, are numbers and text"),
    ("source", or_null(is_source), "a mapping with the texts name and fingerprint, or null"),
    ("class_names", list_of(is_text), "a list of text, one name per label"),
    ("observer", or_null(is_observer), "a mapping, or null"),
    ("seed", or_null(is_integer), "an integer or null"),
    ("versions", lambda value: is_mapping(value) and all(map(is_text, value.values())), "a mapping of texts"),
    ("normalization", or_null(is_normalization), "a mapping with mean and std of three numbers each, or null"),
    ("resolution", list_of(is_side, 2), "[height, width] in pixels"),
    ("ipc", is_count, "a number of images per class"),
    ("storage.layout", lambda value: value in (*LAYOUTS, PARQUET_LAYOUT), "'folder', 'safetensors' or 'parquet'"),
    ("storage.image_format", or_null(is_image_format), "a mapping with kind, quality and subsampling, or null"),
    ("bytes.images", is_count, "a number of bytes"),
    ("bytes.labels", is_count, "a number of bytes"),
    ("bytes.extras", is_count, "a number of bytes"),
    ("bytes.manifest", is_count, "a number of bytes"),
    ("bytes.per_class", list_of(is_count), "a list of numbers of bytes"),
    ("images", lambda value: isinstance(value, list), "a list"),
    ("failures", lambda value: isinstance(value, list), "a list"),
)
