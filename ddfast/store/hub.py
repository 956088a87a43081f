"""A distilled set as a Hugging Face data set: one parquet file and a card with the field's tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddfast.store.codec import encode_png
from ddfast.store.distilled import DistilledSet

PARQUET = "data/train-00000-of-00001.parquet"


def write_hub(distilled: DistilledSet, out: Path) -> None:
    """``data/train-00000-of-00001.parquet`` and ``README.md``, as ``datasets.load_dataset`` and the Hub read them.

    Columns: ``image`` (lossless PNG), ``label`` (ClassLabel with the class names) and, where the set has them,
    ``soft_logits`` (float16 list).

    Args:
        distilled: the set.
        out: an empty folder.

    Raises:
        ImportError: pyarrow is missing.
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
    (out / "README.md").write_text(card(distilled), "utf-8", "backslashreplace")


def card(distilled: DistilledSet) -> str:
    """The data set's card: tags, what it is, how to load it, and the manifest's normalisation."""
    manifest = distilled.manifest
    source = (manifest.get("source") or {}).get("name") or "unknown"
    method = manifest.get("method") or "unknown method"
    size = _size_tag(len(distilled))
    height, width = distilled.images.shape[1:3]
    norm = distilled.normalization
    scaled = f"mean {list(norm.mean)}, std {list(norm.std)}" if norm is not None else "not known"
    return f"""---
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
Normalisation of [0, 1] pixels that students should use: {scaled}.

```python
from datasets import load_dataset

train = load_dataset("path/to/this/folder", split="train")
```
"""


def _size_tag(count: int) -> str:
    for limit, text in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if count < limit:
            return text
    return "n>1M"
