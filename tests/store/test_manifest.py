"""The manifest: round trip, provenance, and messages that name the key."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.store import (
    Cell,
    ImageFormat,
    assemble_manifest,
    class_files,
    class_record,
    image_name,
    manifest_bytes,
    read_manifest,
    validate_manifest,
)
from ddfast.store.manifest import score_from_json, score_to_json
from ddfast.store.provenance import normalization_from_json

NAMES = ("n01440764 tench", "../../etc", 'a/b\\c:\n"ü"')


def records() -> list[dict[str, Any]]:
    made = []
    for label in (2, 0, 1):
        images = torch.full((2, 8, 8, 3), 40 * label, dtype=torch.uint8)
        cells = [[Cell(f"s{label}{image}{cell}", (0, 1, 5, 5), 0.1 * cell) for cell in range(4)] for image in range(2)]
        failures = [(f"bad{label}", "truncated file")] if label == 1 else []
        made.append(class_record(label, class_files(label, images), cells, failures))
    return made


def manifest(**changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "class_names": NAMES,
        "resolution": (8, 8),
        "method": "rded",
        "preset": "imagenet-1k",
        "config": {"factor": 2, "scale": [0.08, 1.0]},
        "source": {"name": "demo", "fingerprint": "ab12"},
        "observer": {"name": "resnet18"},
        "seed": 42,
        "normalization": IMAGENET,
    }
    return assemble_manifest(records(), **{**options, **changes})


def test_assembled_in_label_order_with_bytes_and_failures() -> None:
    made = manifest()
    assert [entry["file"] for entry in made["images"]] == [image_name(c, i) for c in range(3) for i in range(2)]
    assert [entry["label"] for entry in made["images"]] == [0, 0, 1, 1, 2, 2]
    assert made["images"][3]["cells"][2] == {"sample": "s112", "box": [0, 1, 5, 5], "score": 0.2}
    sizes = [sum(map(len, class_files(c, np.full((2, 8, 8, 3), 40 * c, np.uint8)).values())) for c in range(3)]
    assert made["bytes"]["per_class"] == sizes
    assert made["bytes"]["images"] == sum(sizes)
    assert made["failures"] == [{"label": 1, "sample": "bad1", "reason": "truncated file"}]
    assert made["ipc"] == 2
    assert made["versions"]["pillow"]
    assert normalization_from_json(made["normalization"]) == IMAGENET


def test_records_survive_json_unchanged() -> None:
    """They travel through the ledger's done records."""
    for record in records():
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_order_of_records_does_not_matter() -> None:
    options: dict[str, Any] = {"class_names": NAMES, "resolution": (8, 8)}
    assert manifest_bytes(assemble_manifest(records(), **options)) == manifest_bytes(
        assemble_manifest(records()[::-1], **options)
    )


@pytest.mark.parametrize("padding", range(12))
def test_manifest_counts_its_own_bytes(padding: int, tmp_path: Path) -> None:
    """Also where the number itself changes the number of digits."""
    data = manifest_bytes({**manifest(), "padding": "x" * (padding + 10_000 - 2170)})
    assert json.loads(data)["bytes"]["manifest"] == len(data)
    (tmp_path / "manifest.json").write_bytes(data)
    assert read_manifest(tmp_path / "manifest.json")["padding"].startswith("x")


def test_bytes_do_not_change_the_argument_and_are_stable(tmp_path: Path) -> None:
    made = manifest()
    before = copy.deepcopy(made)
    data = manifest_bytes(made)
    assert made == before
    (tmp_path / "m.json").write_bytes(data)
    assert manifest_bytes(read_manifest(tmp_path / "m.json")) == data
    assert read_manifest(tmp_path / "m.json")["class_names"] == list(NAMES)


@pytest.mark.parametrize("score", [0.0, -0.0, 1e-30, 3.14159, math.inf, -math.inf, math.nan])
def test_float32_scores_are_exact(score: float) -> None:
    value = np.float32(score)
    text = json.dumps(score_to_json(float(value)), allow_nan=False)
    back = np.float32(score_from_json(json.loads(text)))
    assert back.tobytes() == value.tobytes() or (np.isnan(back) and np.isnan(value))


def test_many_float_scores_are_exact() -> None:
    rng = np.random.default_rng(0)
    for value in np.exp(rng.normal(0, 10, 500)).astype(np.float32):
        assert np.float32(score_to_json(float(value))) == value
    for value in rng.normal(0, 10, 100):
        assert score_to_json(value) == value


def test_a_cell_with_an_infinite_score_is_valid() -> None:
    record = class_record(0, class_files(0, np.zeros((1, 4, 4, 3), np.uint8)), [[Cell("s", (0, 0, 1, 1), math.inf)]])
    made = assemble_manifest([record], class_names=("a",), resolution=(4, 4))
    assert json.loads(manifest_bytes(made))["images"][0]["cells"][0]["score"] == "inf"


def change(made: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    place: Any = made
    for part in path:
        place = place[int(part)] if part.isdecimal() else place[part]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if last.isdecimal() else last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "format: got 'other'"),
        ("format", KeyError, "format: got None"),
        ("schema_version", 2, "schema_version: got 2, this version knows 1; update ddfast"),
        ("schema_version", "1", "schema_version: got '1'"),
        ("schema_version", 0, "schema_version: got 0"),
        ("method", 3, "method: got 3, expected text or null"),
        ("config", None, "config: got None, expected a mapping"),
        ("source", {"name": "x"}, "source: got"),
        ("class_names", ["a", 2, "c"], "class_names: got"),
        ("class_names", ["a", "b"], "bytes.per_class: got 3 entries, expected one for each of 2"),
        ("seed", 1.5, "seed: got 1.5"),
        ("versions", {"torch": 2}, "versions: got"),
        ("resolution", [8], "resolution: got"),
        ("resolution", [8, 0], "resolution: got"),
        ("ipc", -1, "ipc: got -1"),
        ("ipc", KeyError, "ipc: missing, expected a number of images per class"),
        ("storage.layout", "zip", "storage.layout: got 'zip'"),
        ("storage", [], "storage.layout: missing"),
        ("storage.image_format", {"kind": "gif"}, "storage.image_format: got"),
        ("bytes.images", "12", "bytes.images: got '12'"),
        ("bytes.labels", KeyError, "bytes.labels: missing"),
        ("bytes.images", True, "bytes.images: got True"),
        ("images", {}, "images: got"),
        ("images.1", 5, r"images\[1\]: got 5"),
        ("images.1.label", 3, r"images\[1\]\.label: got 3, expected a label from 0 to 2"),
        ("images.1.file", "../x.jpg", r"images\[1\]\.file: got '../x.jpg'"),
        ("images.1.file", "/etc/passwd", r"images\[1\]\.file: got '/etc/passwd'"),
        ("images.1.file", "a\\b.jpg", r"images\[1\]\.file"),
        ("images.1.file", None, r"images\[1\]\.file: got None"),
        ("images.2.cells", None, r"images\[2\]\.cells: got None"),
        ("images.2.cells.0.box", [0, 0, 0, 4], r"images\[2\]\.cells\[0\]\.box: got"),
        ("images.2.cells.0.box", [0, 0, 4], r"cells\[0\]\.box"),
        ("images.2.cells.0.score", "many", r"cells\[0\]\.score: got 'many'"),
        ("images.2.cells.0.sample", 7, r"cells\[0\]\.sample: got 7, expected text"),
        ("failures.0", {"label": 1}, r"failures\[0\]: got"),
        ("normalization", 1, "normalization: got 1"),
    ],
)
def test_validation_names_the_key(key: str, value: Any, message: str) -> None:
    made = manifest()
    validate_manifest(made)
    change(made, key, value)
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        validate_manifest(made, where="here")


def test_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: not JSON"):
        read_manifest(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="got list, expected a mapping"):
        read_manifest(tmp_path / "manifest.json")


def test_missing_and_double_records() -> None:
    with pytest.raises(ValueError, match="label 2 occurs twice"):
        assemble_manifest([*records(), records()[0]], class_names=NAMES, resolution=(8, 8))
    with pytest.raises(ValueError, match=r"got labels \[0, 2\]"):
        assemble_manifest(records()[:2], class_names=NAMES, resolution=(8, 8))
    with pytest.raises(ValueError, match="cells: got 1 entries for 2 files"):
        class_record(0, class_files(0, np.zeros((2, 4, 4, 3), np.uint8)), [[]])


def test_class_files() -> None:
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    files = class_files(7, torch.from_numpy(images), ImageFormat("png"))
    assert list(files) == [f"00007/class00007_id0000{i}.png" for i in range(3)]
    assert list(class_files(99999, images)) == [f"99999/class99999_id0000{i}.jpg" for i in range(3)]
    strided = torch.from_numpy(np.repeat(images, 2, axis=2))[:, :, ::2]
    assert class_files(7, strided, ImageFormat("png")) == files
    assert class_files(0, images[:0]) == {}
    with pytest.raises(ValueError, match="label: got 100000"):
        class_files(100_000, images)
    with pytest.raises(TypeError, match="images: got float32"):
        class_files(0, images.astype(np.float32))
    with pytest.raises(ValueError, match=r"images: got shape \(4, 5, 3\)"):
        class_files(0, images[0])
