"""A distilled set as a Hugging Face data set: one parquet file, a card with the field's tags, and the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfast.store.about import ABOUT
from ddfast.store.codec import ImageFormat, encode_png
from ddfast.store.distilled import DistilledSet
from ddfast.store.files import EXTRAS_FILE, write_tensors
from ddfast.store.manifest import MANIFEST_FILE, PARQUET_LAYOUT, manifest_bytes
from ddfast.store.whitening import write_whitening

PARQUET = "data/train-00000-of-00001.parquet"


def write_hub(distilled: DistilledSet, out: Path) -> None:
    """``data/train-00000-of-00001.parquet`` and ``README.md``, as ``datasets.load_dataset`` and the Hub read them, with
    ``manifest.json`` and, where the set has such, its tensors (``extras.safetensors``) and ``whitening.safetensors``.

    Columns: ``image`` (lossless PNG), ``label`` (ClassLabel with the class names) and, where the set has them,
    ``soft_logits`` (float16 list).

    Args:
        distilled: the set.
        out: an empty folder.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: a manifest entry is not valid.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("exporting to parquet needs pyarrow: pip install 'ddfast[huggingface]'") from error
    pictures = [
        {"bytes": encode_png(image), "path": f"{index:06d}.png"}
        for index, image in enumerate(distilled.images.cpu().numpy())
    ]
    columns: dict[str, Any] = {
        "image": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(distilled.labels.tolist(), pa.int64()),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(distilled.class_names), "_type": "ClassLabel"},
    }
    if "soft_logits" in distilled.extras:
        logits = distilled.extras["soft_logits"].half().cpu().numpy()
        columns["soft_logits"] = pa.array(list(logits), pa.list_(pa.float16()))
        features["soft_logits"] = {"feature": {"dtype": "float16", "_type": "Value"}, "_type": "List"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    (out / "data").mkdir()
    parquet.write_table(table, out / PARQUET, compression="none")  # PNG does not compress any further
    # looks at the manifest first, which the card quotes
    _write_rest(distilled, out, {str(picture["path"]): len(picture["bytes"]) for picture in pictures})
    (out / "README.md").write_text(card(distilled), "utf-8", "backslashreplace")


def _write_rest(distilled: DistilledSet, out: Path, sizes: Mapping[str, int]) -> None:
    """The manifest, and what has no column."""
    manifest = distilled.described(PARQUET_LAYOUT, ImageFormat("png"), list(sizes), sizes)
    manifest["exported"] = {"to": "huggingface", "left_out": []}
    if (manifest.get("soft_labels") or {}).get("teacher"):  # which is a file of the run
        manifest["soft_labels"] = {**manifest["soft_labels"], "teacher": None}
        manifest["exported"]["left_out"] = ["teacher"]
    if distilled.extras:
        write_tensors(out / EXTRAS_FILE, {name: each.cpu().contiguous() for name, each in distilled.extras.items()})
    if distilled.whitening is not None:
        manifest["whitening"] = write_whitening(out, distilled.whitening)
    (out / MANIFEST_FILE).write_bytes(manifest_bytes(manifest))


def card(distilled: DistilledSet) -> str:
    """The data set's card: tags, a licence to fill in, what it is, how it was made and trained on, how to load it."""
    manifest = distilled.manifest
    source = _one_line((manifest.get("source") or {}).get("name") or "unknown")
    method = _one_line(manifest.get("method") or "unknown method")
    size = _size_tag(len(distilled))
    height, width = distilled.images.shape[1:3]
    rows = "".join(f"| {name} | {_one_line(value)} |\n" for name, value in _facts(distilled) if value)
    return f"""---
# say which, such as cc-by-4.0: the source's pictures have a licence, and so has what was made from them
license: unknown
task_categories:
- image-classification
size_categories:
- {size}
tags:
- dataset-distillation
- dataset-compression
- dataset-condensation
- ipc-{distilled.ipc}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

# {source}, distilled by {method} to {distilled.ipc} images per class

{len(distilled)} images of {len(distilled.class_names)} classes at {height} x {width}.

**Licence: not stated yet.** Whoever publishes this set: name it here and in the first lines of this file. It follows
from that of the source, {source}.

| | |
| --- | --- |
{rows}
`manifest.json` has everything that is known: settings, fingerprints, versions, bytes, and where each image is from.

```python
from datasets import load_dataset

train = load_dataset("USER/NAME", split="train")  # or this folder's path
```
{_tensor_words(distilled)}"""


def _facts(distilled: DistilledSet) -> list[tuple[str, str]]:
    manifest, norm = distilled.manifest, distilled.normalization
    about = ABOUT.get(str(manifest.get("method")))
    source, versions = manifest.get("source") or {}, manifest.get("versions") or {}
    config, recipe = manifest.get("config") or {}, manifest.get("recipe") or {}
    seed = manifest.get("seed")
    return [
        ("method", about.sentence if about else ""),
        ("paper", about.paper if about else ""),
        ("source", f"{source['name']}, fingerprint {source['fingerprint']}" if source else ""),
        ("preset and seed", f"{manifest.get('preset') or 'none'}, {'unknown' if seed is None else seed}"),
        ("base", str(config.get("base") or "")),
        ("observer", str((manifest.get("observer") or {}).get("name") or "")),
        ("normalisation of [0, 1] pixels", f"mean {list(norm.mean)}, std {list(norm.std)}" if norm else "not known"),
        ("recipe for students", ", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)),
        ("rates of the stages", ", ".join(f"{rate:.4g}" for rate in manifest.get("stage_lrs") or () if rate)),
        ("made by", f"ddfast {versions['ddfast']}" if "ddfast" in versions else "ddfast"),
    ]


def _tensor_words(distilled: DistilledSet) -> str:
    """What the columns do not hold."""
    words = []
    if "trained_images" in distilled.extras:
        words.append(
            "Students of this method train on `trained_images` in `extras.safetensors`, floats as they were distilled, "
            "not on the rounded pictures."
        )
    if distilled.manifest.get("space") == "zca":
        words.append(
            "They are whitened (ZCA), and so must test pictures be: `(x - mean) @ matrix` with the tensors of "
            "`whitening.safetensors`, x in [0, 1] flattened in [channel, row, column] order."
            if distilled.whitening is not None
            else "They are whitened (ZCA), and so must test pictures be; the whitening is fitted to the source."
        )
    if distilled.manifest.get("distribution") is not None:
        words.append(
            "The set is a distribution: the pictures are the decoded means, `extras.safetensors` has latents and "
            "decoders."
        )
    return "\n" + "\n".join(words) + "\n" if words else ""


def _one_line(text: object) -> str:
    """Names come from outside: nothing in them ends a line or a cell."""
    return " ".join(str(text).replace("|", "/").split())


def _size_tag(count: int) -> str:
    for limit, text in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if count < limit:
            return text
    return "n>1M"
