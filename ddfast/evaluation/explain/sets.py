"""A distilled set in words, from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfast._outside import parse_json, path_inside
from ddfast.evaluation.explain.explanation import Explanation, as_mapping, plural, size_text
from ddfast.evaluation.explain.methods import ABOUT, method_words
from ddfast.evaluation.explain.snippets import code
from ddfast.evaluation.explain.training import command, recipe_words
from ddfast.store.files import EXTRAS_FILE, IMAGES_FILE
from ddfast.store.hub import PARQUET
from ddfast.store.manifest import PARQUET_LAYOUT

_FEW = 0.6  # an observer that is right on fewer of the source's pictures
_MANY_HEADER_BYTES = 1 << 26
Manifest = Mapping[str, Any]


def explain_set(folder: Path, manifest: Manifest) -> Explanation:
    """The set in ``folder`` that ``manifest`` describes; its images are not read."""
    found = Explanation("distilled set", str(folder))
    tensors = stored_tensors(folder, manifest)
    recipe, training = recipe_words(manifest)
    height, width = manifest["resolution"]
    found.facts = _facts(manifest, recipe, tensors)
    found.say("images", _count_words(manifest))
    found.say("method", *method_words(manifest))
    found.say("source", *_source_words(manifest))
    found.say("observer", *_observer_words(manifest))
    found.say("values", *_value_words(manifest, tensors))
    found.say("labels", *_label_words(manifest, tensors))
    found.say("stages", _stage_words(manifest))
    found.say("bytes", _byte_words(manifest, tensors))
    found.say("students", *training)
    found.say("versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()))
    if height == width:
        found.command = command(folder, manifest)
        found.code = code(folder, manifest, tensors)
    found.missing = _missing(manifest)
    found.warnings = _warnings(folder, manifest, tensors)
    return found


def stored_tensors(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Name and shape of the tensors beside (or of) the images, from the file's head; none where there is no file."""
    layout = manifest["storage"]["layout"]
    path = path_inside(folder, IMAGES_FILE if layout == "safetensors" else EXTRAS_FILE, str(folder))
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MANY_HEADER_BYTES:
            raise ValueError(f"{path}: damaged, its head says {size} bytes")
        try:
            head = parse_json(file.read(size))
        except ValueError as error:
            raise ValueError(f"{path}: damaged, its head is no JSON ({error}); copy the set anew") from error
    if not isinstance(head, dict) or not all(isinstance(entry, dict) for entry in head.values()):
        raise ValueError(f"{path}: damaged, its head is no table of tensors")
    return {
        name: list(entry.get("shape") or ()) for name, entry in head.items()
        if name not in ("__metadata__", "images", "labels")
    }  # fmt: skip


def _facts(manifest: Manifest, recipe: str, tensors: Mapping[str, list[int]]) -> dict[str, Any]:
    about = ABOUT.get(str(manifest.get("method")))
    kept = ("preset", "config", "source", "observer", "seed", "normalization", "space", "formation", "stage_lrs",
            "bytes", "storage", "resolution", "ipc", "versions", "soft_labels", "distribution", "whitening",
            "exported")  # fmt: skip
    return {
        "method": manifest.get("method"), "paper": about.paper if about else None,
        "images": len(manifest["images"]), "classes": len(manifest["class_names"]),
        **{name: manifest.get(name) for name in kept},
        "class_names": manifest["class_names"], "recipe": recipe, "recipe_values": manifest.get("recipe"),
        "stages": len(set(manifest["stages"])) if manifest.get("stages") else None,
        "tensors": dict(tensors), "skipped_files": len(manifest["failures"]),
    }  # fmt: skip


def _count_words(manifest: Manifest) -> str:
    count, classes = len(manifest["images"]), len(manifest["class_names"])
    height, width = manifest["resolution"]
    shown = ", ".join(manifest["class_names"][:5]) + (" ..." if classes > 5 else "")
    each = "" if count == manifest["ipc"] * classes else "at most "
    return (
        f"{plural(count, 'image')} of {plural(classes, 'class')} ({shown}), {each}{manifest['ipc']} per class (IPC), "
        f"{height} x {width} pixels."
    )


def _source_words(manifest: Manifest) -> list[str]:
    source = manifest.get("source")
    words = [f"Made from {source['name']} (fingerprint {source['fingerprint'][:12]})." if source else ""]
    words.append(f"Preset {manifest['preset']}." if manifest.get("preset") else "")
    words.append("" if manifest.get("seed") is None else f"Seed {manifest['seed']}.")
    return words


def _observer_words(manifest: Manifest) -> list[str]:
    observer = manifest.get("observer")
    if not observer:
        return []
    check = as_mapping(observer.get("class_check"))
    right = ""
    if isinstance(check.get("top1"), float):
        right = f"It is right on {100 * check['top1']:.1f} % of {check.get('images')} pictures of the source."
    return [f"{observer.get('name') or 'unnamed'}, weights: {observer.get('weights') or 'unknown'}.", right]


def _value_words(manifest: Manifest, tensors: Mapping[str, list[int]]) -> list[str]:
    norm, image_format = manifest.get("normalization"), manifest["storage"]["image_format"]
    kept = "raw pixels (safetensors)" if image_format is None else f"{image_format['kind']} files"
    kept += " in a table" if manifest["storage"]["layout"] == PARQUET_LAYOUT else ""
    words = [f"uint8 RGB from 0 to 255, kept as {kept}."]
    if norm and manifest.get("space") != "zca":
        mean, std = (", ".join(f"{value:.4g}" for value in norm[name]) for name in ("mean", "std"))
        words.append(f"Students see (x / 255 - mean) / std with mean ({mean}) and std ({std}).")
    if manifest.get("space") == "zca":
        words.append(
            "They were trained whitened (ZCA, fitted to the real set); the pixels are for viewing, students train on "
            "the tensor trained_images and are tested on pictures whitened alike"
            + (f", by {manifest['whitening']['file']}." if manifest.get("whitening") else ".")
        )
    elif "trained_images" in tensors:
        words.append("The tensor trained_images holds them as they were trained, unrounded and normalised.")
    formation = manifest.get("formation") or {}
    if formation.get("factor", 1) > 1:
        words.append(
            f"Each is decoded into {formation['factor'] ** 2} ({formation['factor']} x {formation['factor']} tiles, "
            f"each enlarged; {formation.get('kind')}) before students see it; ddfast.load(...).decoded() does so."
        )
    blocks = (manifest.get("distribution") or {}).get("blocks")
    if isinstance(blocks, list) and blocks:
        kinds = ", ".join(sorted({str(as_mapping(as_mapping(block).get("decoder")).get("kind")) for block in blocks}))
        words.append(
            f"{plural(len(blocks), 'block')} of classes, decoder {kinds}; students train on the means and on fresh "
            "samples of each (recipe d3), a plain loader gives the means alone."
        )
    return words


def _label_words(manifest: Manifest, tensors: Mapping[str, list[int]]) -> list[str]:
    if "soft_logits" not in tensors:
        return ["Hard: the class of each image."]
    made = manifest.get("soft_labels") or {}
    by = f" by {made['teacher']} in the folder" if made.get("teacher") else ""
    return [f"The class of each image, and soft labels (tensor soft_logits, logits over all classes{by})."]


def _stage_words(manifest: Manifest) -> str:
    stages = manifest.get("stages")
    if not stages:
        return ""
    counts = [count for _, count in sorted(Counter(stages).items())]
    rates = ", ".join(f"{rate:.4g}" for rate in manifest.get("stage_lrs") or () if rate is not None)
    return (
        f"{len(counts)} stages of {', '.join(map(str, counts))} images; students train on the first stage's, then on "
        f"those of the first two, and so on" + (f", at the rates {rates}." if rates else ".")
    )


def _byte_words(manifest: Manifest, tensors: Mapping[str, list[int]]) -> str:
    sizes, count = manifest["bytes"], max(len(manifest["images"]), 1)
    parts = [f"images {size_text(sizes['images'])}", f"labels {size_text(sizes['labels'])}"]
    kinds = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
    parts += [f"other tensors ({kinds}) {size_text(sizes['extras'])}"] if sizes["extras"] else []
    total = sum(sizes[name] for name in ("images", "labels", "extras"))
    if beside := manifest.get("whitening"):
        parts[-1] += f"; beside them, not counted, the whitening: {size_text(beside['bytes'])}"
    note = " Its distribution is the set; the images beside it are for viewing." * bool(manifest.get("distribution"))
    return f"{size_text(total)}, {size_text(total / count)} an image: {', '.join(parts)}.{note}"


def _missing(manifest: Manifest) -> list[str]:
    unknown = {
        "method": "the method", "source": "the source", "seed": "the seed",
        "normalization": "the normalisation (ddfast takes ImageNet's)",
    }  # fmt: skip
    return [words for key, words in unknown.items() if manifest.get(key) is None]


def _warnings(folder: Path, manifest: Manifest, tensors: Mapping[str, list[int]]) -> list[str]:
    observer, found = manifest.get("observer") or {}, []
    if observer.get("random_weights"):
        found.append("The observer had random weights: such a set is for timing, not for training.")
    check = as_mapping(observer.get("class_check"))
    if isinstance(check.get("top1"), float) and check["top1"] < _FEW:
        found.append(f"The observer is right on only {100 * check['top1']:.0f} % of the source's pictures.")
    if str(observer.get("weights") or "").startswith("trained on"):
        found.append("The observer is a small network that was trained briefly for this run, not a published one.")
    if failures := manifest["failures"]:
        found.append(f"{plural(len(failures), 'source file')} could not be read, such as {failures[0]['sample']}.")
    if manifest["config"].get("parity"):
        found.append("Made to repeat the reference implementation's files byte for byte.")
    if manifest.get("space") == "zca" and "trained_images" not in tensors:
        found.append("The set was trained whitened, but its tensor trained_images is not here.")
    if gone := _gone(folder, manifest):
        found.append(f"Not here: {plural(len(gone), 'file')} that the manifest names, such as {gone[0]}.")
    return found


def _gone(folder: Path, manifest: Manifest) -> list[str]:
    layout = manifest["storage"]["layout"]
    single = {"safetensors": IMAGES_FILE, PARQUET_LAYOUT: PARQUET}.get(layout)
    files = [entry["file"] for entry in manifest["images"]] if single is None else [single]
    files += [manifest["whitening"]["file"]] if manifest.get("whitening") else []
    return [file for file in files if not (folder / file).is_file()]
