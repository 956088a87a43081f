"""DALI: pixel for pixel the default decoder on the CPU; on a GPU close to it, with the same boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.data import dali_stream
from ddfast.data.batches import CropRequest
from ddfast.data.chunks import read_samples
from ddfast.data.dali_stream import DaliStream, dali_missing
from ddfast.data.decode import DEFAULT_OPTIONS, decode_image
from ddfast.data.folder import FolderSource
from ddfast.data.sources import open_source
from ddfast.data.streams import open_stream
from tests.data.data_helpers import DrawRRC, encode, make_class_folders, picture

needs_dali = pytest.mark.skipif(bool(dali_missing()), reason=dali_missing() or "present")
REQUEST = CropRequest((32, 32), 2, IMAGENET)


@needs_dali
@pytest.mark.data
def test_cpu_pixels_equal_on_shared_photos(shared_data: Path) -> None:
    source = open_source(f"{shared_data / 'imagenet20'}:val")
    decoder = dali_stream._Decoder(50, 1, torch.device("cpu"))
    worst = compared = 0
    for label in range(0, 20, 3):
        packed, failures = decoder(list(read_samples(source, label, np.arange(50), DEFAULT_OPTIONS)))
        assert not failures
        for i in range(50):
            expected = decode_image(source.load(label, i)).reshape(-1)
            start = int(packed.offsets[i])
            difference = packed.arena[start : start + expected.size].numpy().astype(int) - expected
            worst = max(worst, int(np.abs(difference).max()))
            compared += 1
    assert compared == 350
    assert worst == 0


@needs_dali
@pytest.mark.parametrize("workers", [0, 3])
def test_cpu_crops_equal_those_of_threads(tmp_path: Path, workers: int) -> None:
    make_class_folders(tmp_path, {"a": 9, "b": 3})
    (tmp_path / "a" / "a_001.JPEG").write_bytes(encode(picture(31, 47), "PNG"))
    (tmp_path / "a" / "a_002.JPEG").write_bytes(encode(picture(31, 47).convert("CMYK")))
    (tmp_path / "a" / "a_003.JPEG").write_bytes(encode(picture(31, 47).convert("L"), progressive=True))
    source = FolderSource(tmp_path)
    stream = open_stream("dali", workers=workers)
    assert stream.exact
    groups = [(0, range(9)), (1, [2, 0])]
    collected = []
    for engine in (stream, open_stream("threads", workers=0)):
        batches = engine.crops(source, groups, REQUEST, DrawRRC(2), batch_images=4)
        collected.append([(b.label, b.positions.tolist(), b.boxes.tolist(), b.last, b.crops.clone()) for b in batches])
    for ours, theirs in zip(*collected, strict=True):
        assert ours[:4] == theirs[:4]
        torch.testing.assert_close(ours[4], theirs[4], rtol=0, atol=0)


def test_without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_stream, "dali_missing", lambda: "the package nvidia-dali-cuda130 is not installed")
    with pytest.raises(ModuleNotFoundError, match="stream 'dali': the package nvidia-dali-cuda130 is not installed"):
        DaliStream(1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["threads", "torch", pytest.param("dali", marks=needs_dali)])
def test_crops_on_a_gpu(tmp_path: Path, name: str) -> None:
    source = FolderSource(make_class_folders(tmp_path, {"a": 20}))
    groups = [(0, range(20))] * 3
    there = open_stream(name, workers=2, device="cuda")
    assert there.exact is (name != "dali")
    here = open_stream("threads", workers=0)
    pairs = zip(
        there.crops(source, groups, REQUEST, DrawRRC(2), batch_images=8),
        here.crops(source, groups, REQUEST, DrawRRC(2), batch_images=8),
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.crops.is_cuda
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        gap = (ours.crops.cpu() - theirs.crops).abs()
        # nvJPEG differs by a few grey levels at edges; one level is 0.0175 here
        assert gap.max() < (1e-4 if there.exact else 0.5)
        assert gap.mean() < (1e-5 if there.exact else 0.02)
    ragged = there.decode(source, 0, [3, 1])
    assert not ragged.pixels.is_cuda  # whole pictures stay in host memory
    expected = here.decode(source, 0, [3, 1])
    assert torch.equal(ragged.pixels, expected.pixels)
