"""mosaic: the bytes of the plain-torch definition and of RDED's own steps, cells, ties, memory safety, messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.ops import mosaic, use_backend
from tests.ops.ragged_helpers import (
    BACKENDS,
    Ragged,
    forced,
    odd_batch,
    pack,
    picture,
    random_batch,
    survives_guard_pages,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDINGS = ("nearest", "truncate")
# The order of operations that the C++ backend repeats is that of torch's kernels for these processors.
SAME_BYTES = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}


def assert_same_bytes(got: Tensor, wanted: Tensor, rounding: str) -> None:
    difference = (got.int() - wanted.int()).abs()
    assert difference.max() <= (0 if SAME_BYTES else 1)
    assert (difference > 0).float().mean() < (1e-4 if rounding == "nearest" else 1e-2)


def rded_bytes(batch: Sequence[Tensor], size: int, factor: int) -> Tensor:
    """The published order of steps: resize and normalise each patch, tile, denormalise in two steps, truncate."""
    pixels, offsets, sizes, boxes, image_index = batch
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    inverse = torch.tensor([1 / s for s in STD])[:, None, None]
    side, rest = size // factor, size % factor
    widths = [side + (i < rest) for i in range(factor)]
    patches = []
    for row, image in enumerate(image_index.tolist()):
        height, width = sizes[image].tolist()
        start, (top, left, h, w) = int(offsets[image]), boxes[row].tolist()
        whole = pixels[start : start + 3 * height * width].reshape(height, width, 3).permute(2, 0, 1)
        crop = (whole.float() / 255)[None, :, top : top + h, left : left + w]
        small = F.interpolate(crop, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        patches.append((small - mean) / std)
    canvases = []
    for j in range(len(patches) // factor**2):
        own = patches[j * factor**2 : (j + 1) * factor**2]
        rows = []
        for i in range(factor):
            cells = zip(own[i * factor : (i + 1) * factor], widths, strict=True)
            rows.append(torch.cat([F.interpolate(p, size=(widths[i], w), mode="nearest") for p, w in cells], dim=3))
        normalised = torch.cat(rows, dim=2)[0]
        restored = (normalised - torch.zeros(3, 1, 1)) / inverse
        canvases.append((restored - (-mean)).permute(1, 2, 0) * 255)
    return torch.from_numpy(torch.stack(canvases).numpy().astype(np.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "factor"), [(32, 1), (32, 2), (33, 2), (35, 3), (16, 4), (4, 4), (5, 4), (41, 7)])
def test_truncate_gives_the_bytes_of_the_published_steps(backend: str, size: int, factor: int) -> None:
    batch = random_batch(2 * factor**2, seed=size, square=True)
    with forced(backend):
        got = mosaic(*batch, size=size, factor=factor, rounding="truncate", mean=MEAN, std=STD)
    assert_same_bytes(got, rded_bytes(batch, size, factor), "truncate")


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("size", "factor"), [(64, 1), (224, 2), (75, 2), (113, 3), (226, 7), (448, 2)])
@pytest.mark.usefixtures("poisoned_empty")
def test_same_bytes_as_the_definition(backend: str, rounding: str, size: int, factor: int) -> None:
    batch = random_batch(factor**2, seed=factor, height=211, width=160)
    with use_backend("reference"):
        wanted = mosaic(*batch, size=size, factor=factor, rounding=rounding)
    with forced(backend):
        got = mosaic(*batch, size=size, factor=factor, rounding=rounding)
    assert got.shape == (1, size, size, 3)
    assert got.dtype == torch.uint8
    assert_same_bytes(got, wanted, rounding)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_ties_are_decided_alike(backend: str, rounding: str, shrink: int) -> None:
    """Whole shrink factors put many values exactly between two grey levels."""
    side = 14 * shrink
    batch = pack([picture(side, side, seed) for seed in range(4)], [(0, 0, side, side)] * 4, range(4))
    with use_backend("reference"):
        wanted = mosaic(*batch, size=28, factor=2, rounding=rounding)
    with forced(backend):
        assert_same_bytes(mosaic(*batch, size=28, factor=2, rounding=rounding), wanted, rounding)


@pytest.mark.parametrize("backend", BACKENDS)
def test_flat_patches_keep_their_grey_level(backend: str) -> None:
    levels = np.arange(256, dtype=np.uint8)
    pictures = [np.full((13, 11, 3), v, np.uint8) for v in levels]
    batch = pack(pictures, [(0, 0, 13, 11)] * 256, range(256))
    with forced(backend):
        got = mosaic(*batch, size=6, factor=1)
        dark = mosaic(*batch, size=6, factor=1, rounding="truncate")
    assert (got == torch.from_numpy(levels)[:, None, None, None]).all()
    lost = got.int() - dark.int()
    assert 0 <= lost.min() <= lost.max() == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "factor"), [(8, 2), (7, 2), (11, 3), (9, 5)])
def test_cells_are_row_major_and_first_ones_wider(backend: str, size: int, factor: int) -> None:
    cells = factor**2
    pictures = [np.full((6, 6, 3), v, np.uint8) for v in range(2 * cells)]
    batch = pack(pictures, [(1, 1, 4, 4)] * (2 * cells), range(2 * cells))
    with forced(backend):
        got = mosaic(*batch, size=size, factor=factor)
    widths = [size // factor + (i < size % factor) for i in range(factor)]
    grid = torch.arange(2 * cells).reshape(2, factor, factor)
    repeats = torch.tensor(widths)
    wanted = grid.repeat_interleave(repeats, dim=1).repeat_interleave(repeats, dim=2)
    assert torch.equal(got, wanted[..., None].expand(-1, -1, -1, 3).to(torch.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_error_against_float64_is_rounding_only(backend: str) -> None:
    batch = random_batch(1, seed=12)
    wanted = float64_levels(batch, 48)
    with forced(backend):
        got = mosaic(*batch, size=48, factor=1)[0].double()
    assert (got - wanted).abs().max() <= 0.5 + 1e-2  # float32 filter weights move a level by a few thousandths


def float64_levels(batch: Ragged, side: int) -> Tensor:
    pixels, offsets, sizes, boxes, index = batch
    height, width = sizes[index[0]].tolist()
    start, (top, left, h, w) = int(offsets[index[0]]), boxes[0].tolist()
    whole = pixels[start : start + 3 * height * width].reshape(height, width, 3).permute(2, 0, 1).double()
    crop = whole[None, :, top : top + h, left : left + w]
    return F.interpolate(crop, size=(side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_awkward_boxes_and_empty_batch(backend: str) -> None:
    batch = odd_batch()
    four = (*batch[:3], batch[3][:12], batch[4][:12])
    with use_backend("reference"):
        wanted = mosaic(*four, size=27, factor=2)
    with forced(backend):
        assert_same_bytes(mosaic(*four, size=27, factor=2), wanted, "nearest")
        assert mosaic(*batch[:3], batch[3][:0], batch[4][:0], size=27, factor=2).shape == (0, 27, 27, 3)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_bits_do_not_depend_on_threads(backend: str, rounding: str) -> None:
    batch = random_batch(36, seed=2)
    with forced(backend):
        one = mosaic(*batch, size=45, factor=3, rounding=rounding)
        for threads in (2, 7):
            assert torch.equal(one, mosaic(*batch, size=45, factor=3, rounding=rounding, threads=threads))


def test_bits_do_not_depend_on_instruction_set() -> None:
    batch = random_batch(36, seed=3)
    results = []
    for backend in BACKENDS[1:]:
        with forced(backend):
            results.append([mosaic(*batch, size=45, factor=3, rounding=r) for r in ROUNDINGS])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_reads_stay_inside_pixels(backend: str) -> None:
    pixels, *rest = odd_batch()
    four = (*rest[:2], torch.cat([rest[2][:2], rest[2][10:12]]), torch.cat([rest[3][:2], rest[3][10:12]]))

    def run(inner: Tensor) -> None:
        for rounding in ROUNDINGS:
            mosaic(inner, *four, size=31, factor=2, rounding=rounding)

    with forced(backend):
        assert survives_guard_pages(pixels, run)


def test_opcheck() -> None:
    batch = random_batch(8, seed=6)
    torch.library.opcheck(torch.ops.ddfast.mosaic.default, (*batch, 15, 2, "truncate", list(MEAN), list(STD), 1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": 1}, ValueError, "size: got 1"),
        ({"factor": 0}, ValueError, "factor: got 0"),
        ({"factor": 3}, ValueError, "boxes: got 4 rows"),
        ({"rounding": "floor"}, ValueError, "rounding: got 'floor'"),
        ({"std": (1.0, 1.0, -1.0)}, ValueError, "std: got"),
        ({"threads": 0}, ValueError, "threads: got 0"),
        ({"boxes": torch.full((4, 4), 1000, dtype=torch.int32)}, ValueError, "boxes: row 0"),
        ({"boxes": torch.full((4, 4), 1000, dtype=torch.int32), "validate": False}, ValueError, "boxes: row 0"),
        ({"offsets": torch.zeros(3, dtype=torch.int32)}, TypeError, "offsets: got torch.int32"),
    ],
)
def test_messages(change: dict[str, object], error: type[Exception], message: str) -> None:
    names = ("pixels", "offsets", "sizes", "boxes", "image_index")
    arguments: dict[str, object] = dict(zip(names, random_batch(4, seed=8), strict=True))
    with forced(BACKENDS[1]), pytest.raises(error, match=message):
        mosaic(**{**arguments, "size": 16, "factor": 2, **change})  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_real_pictures(shared_data: Path, rounding: str) -> None:
    from PIL import Image

    files = sorted((shared_data / "imagenet20").rglob("*.JPEG"))[:4]
    pictures = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    sides = [min(p.shape[:2]) * 3 // 4 for p in pictures]
    batch = pack(pictures, [(0, 0, s, s) for s in sides], range(4))
    with use_backend("reference"):
        wanted = mosaic(*batch, size=224, factor=2, rounding=rounding)
    assert_same_bytes(mosaic(*batch, size=224, factor=2, rounding=rounding), wanted, rounding)
