"""Cases for the GPU backends, run by test_triton.py in a process of their own: TRITON_INTERPRET must be set before the
kernels are defined.  On CPU tensors they run interpreted, on a GPU (and then also CUDA C++) for real."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest
import torch
from torch import Tensor

from ddfast import ops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(37, 53), (64, 41), (90, 120)]
BOXES = [(0, 0, 37, 53), (3, 5, 20, 30), (10, 20, 31, 7), (0, 0, 90, 120), (89, 119, 1, 1), (5, 5, 16, 16)]
IMAGES = [0, 0, 1, 2, 2, 1]
Ragged = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def guarded(nbytes: int) -> Tensor:
    """uint8 memory whose last byte is followed by a page that must not be touched (a stray read kills the process)."""
    page = mmap.PAGESIZE
    pages = -(-nbytes // page)
    region = mmap.mmap(-1, (pages + 1) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * page), ctypes.c_size_t(page), 0) == 0
    return torch.frombuffer(region, dtype=torch.uint8, count=pages * page)[pages * page - nbytes :]


def ragged(poison: int | None = None) -> Ragged:
    """Three pictures with gaps between them; ``poison`` fills every byte that belongs to no box."""
    sizes = torch.tensor(SIZES, dtype=torch.int32)
    counts = 3 * sizes[:, 0].long() * sizes[:, 1]
    offsets = torch.cumsum(counts + 13, 0) - counts
    total = int(offsets[-1] + counts[-1])  # the last picture ends where the memory ends
    pixels = guarded(total) if INTERPRETED else torch.empty(total, dtype=torch.uint8)
    pixels.copy_(torch.randint(0, 256, (total,), generator=torch.Generator().manual_seed(1), dtype=torch.uint8))
    if poison is not None:
        used = torch.zeros(total, dtype=torch.bool)
        for (top, left, h, w), image in zip(BOXES, IMAGES, strict=True):
            start, (height, width) = int(offsets[image]), SIZES[image]
            picture = used[start : start + 3 * height * width].view(height, width, 3)
            picture[top : top + h, left : left + w] = True
        pixels[~used] = poison
    boxes = torch.tensor(BOXES, dtype=torch.int32)
    index = torch.tensor(IMAGES, dtype=torch.int32)
    return tuple(t.to(DEVICE) for t in (pixels, offsets, sizes, boxes, index))  # type: ignore[return-value]


def rounding(dtype: torch.dtype) -> float:
    """Relative error of one store; the interpreter truncates bfloat16 instead of rounding it."""
    return torch.finfo(dtype).eps * (1.0 if INTERPRETED else 0.5) if dtype != torch.float32 else 0.0


@pytest.mark.parametrize(
    ("size", "canvas", "channels_last", "dtype"),
    [
        ((17, 23), None, False, torch.float32),
        ((16, 16), (32, 35), True, torch.float32),
        ((19, 50), (40, 50), False, torch.bfloat16),
        ((5, 3), (7, 60), True, torch.float16),
        ((1, 4), None, False, torch.float32),
    ],
)
def test_multi_crop_against_float64(
    size: tuple[int, int], canvas: tuple[int, int] | None, channels_last: bool, dtype: torch.dtype
) -> None:
    options = {"size": size, "canvas": canvas, "channels_last": channels_last, "mean": MEAN, "std": STD}
    options["canvas_value"] = 0.25
    batch = ragged()
    with ops.use_backend("reference"):
        truth = ops.multi_crop(*batch, dtype=torch.float64, **options)
        plain = ops.multi_crop(*batch, dtype=torch.float32, **options)
    with ops.use_backend("triton", ["multi_crop"]):
        result = ops.multi_crop(*batch, dtype=dtype, **options)
    assert result.dtype == dtype
    assert result.stride() == plain.stride()
    allowed = 2 * (plain - truth).abs().max() + 4 * torch.finfo(torch.float32).eps + rounding(dtype) * truth.abs()
    assert bool(((result.double() - truth).abs() <= allowed).all())


def test_multi_crop_reads_its_boxes_and_writes_its_output_only() -> None:
    results = []
    for poison in (0, 255):
        store = torch.full((2, 6 * 3 * 20 * 21 + 64), 7.0, device=DEVICE)
        out = store[1, 32:-32].view(6, 20, 21, 3).permute(0, 3, 1, 2)
        out.fill_(float("nan"))
        with ops.use_backend("triton", ["multi_crop_out"]):
            ops.multi_crop(*ragged(poison), size=(11, 18), canvas=(20, 21), mean=MEAN, std=STD, out=out)
        assert bool((store[0] == 7).all())
        assert bool((store[1, :32] == 7).all())
        assert bool((store[1, -32:] == 7).all())
        results.append(out.clone())
    assert not results[0].isnan().any()
    assert torch.equal(*results)


def test_multi_crop_does_not_follow_wrong_boxes() -> None:
    pixels, offsets, sizes, boxes, index = ragged()
    right = boxes.clone()
    boxes[1] = torch.tensor([30, 0, 8, 8])  # one row too many
    boxes[2] = torch.tensor([0, 0, 0, 5])
    index[3] = 3
    options = {"size": (6, 6), "mean": MEAN, "std": STD, "validate": False}
    with ops.use_backend("triton", ["multi_crop"]):
        result = ops.multi_crop(pixels, offsets, sizes, boxes, index, **options)
        index[3] = 2
        truth = ops.multi_crop(pixels, offsets, sizes, right, index, **options)
    wrong = result.isnan().flatten(1)
    assert wrong.all(1).tolist() == wrong.any(1).tolist() == [False, True, True, True, False, False]
    assert torch.equal(result[[0, 4, 5]], truth[[0, 4, 5]])


def test_empty_batches() -> None:
    pixels, offsets, sizes, boxes, index = ragged()
    none = (pixels, offsets, sizes, boxes[:0], index[:0])
    logits = torch.empty(0, 5, 10, device=DEVICE)
    with ops.use_backend("triton"):
        assert ops.multi_crop(*none, size=(4, 5), mean=MEAN, std=STD).shape == (0, 3, 4, 5)
        assert ops.mosaic(*none, size=8, factor=2).shape == (0, 8, 8, 3)
        assert ops.crop_score(logits, torch.empty(0, dtype=torch.int64, device=DEVICE))[0].shape == (0, 5)


@pytest.mark.parametrize("how", ["nearest", "truncate"])
@pytest.mark.parametrize(("size", "factor"), [(33, 1), (32, 2), (35, 3)])
def test_mosaic_against_reference(size: int, factor: int, how: str) -> None:
    pixels, offsets, sizes, boxes, index = ragged()
    rows = torch.arange(factor * factor, device=DEVICE) % 6
    batch = (pixels, offsets, sizes, boxes[rows], index[rows])
    with ops.use_backend("triton", ["mosaic"]):
        result = ops.mosaic(*batch, size=size, factor=factor, rounding=how)
    with ops.use_backend("reference"):
        truth = ops.mosaic(*batch, size=size, factor=factor, rounding=how)
    wrong = (result.int() - truth.int()).abs()
    # float32 roundings decide values next to a border between two levels: the reference's are as arbitrary as ours
    assert int(wrong.max()) <= 1
    assert float(wrong.float().mean()) < 0.01


@pytest.mark.parametrize("how", ["nearest", "truncate"])
def test_mosaic_keeps_unscaled_pixels(how: str) -> None:
    pixels, offsets, sizes, _, index = ragged()
    boxes = torch.tensor([[5, 5, 16, 16]], dtype=torch.int32, device=DEVICE)
    batch = (pixels, offsets, sizes, boxes, index[2:3])
    with ops.use_backend("triton", ["mosaic"]):
        result = ops.mosaic(*batch, size=16, factor=1, rounding=how)
    with ops.use_backend("reference"):
        truth = ops.mosaic(*batch, size=16, factor=1, rounding=how)
    assert torch.equal(result, truth)


@pytest.fixture(params=["triton", pytest.param("cuda", marks=pytest.mark.skipif(INTERPRETED, reason="needs a GPU"))])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5, 10), (2, 9, 1000), (2, 1, 1), (1, 3, 257)])
def test_crop_score_against_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, literal: bool, backend: str
) -> None:
    n, m, classes = shape
    store = torch.full((n, m, classes + 3), 1e4, dtype=dtype)  # a stray read past the row would be the maximum
    store[:, :, :classes] = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 5
    logits, labels = store.to(DEVICE)[:, :, :classes], (torch.arange(n) * 7 % classes).to(DEVICE)
    with ops.use_backend("reference"):
        truth = ops.crop_score(logits.double(), labels, literal=literal)[0]
        plain = ops.crop_score(logits, labels, literal=literal)[0]
    with ops.use_backend(backend, ["crop_score"]):
        loss, best_loss, best_index = ops.crop_score(logits, labels, literal=literal)
    eps = torch.finfo(torch.float32).eps
    allowed = 2 * (plain - truth).abs().max() + 4 * eps * (1 + truth) if literal else 16 * eps * truth + 1e-30
    assert bool(((loss - truth).abs() <= allowed).all())
    assert torch.equal(best_index, loss.argmin(1))
    assert torch.equal(best_loss, loss.amin(1))


@pytest.mark.parametrize("literal", [False, True])
def test_crop_score_special_values(literal: bool, backend: str) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [[0, 1, 2], [nan, 1, 2], [0, nan, 2], [inf, 1, 2], [1, inf, 2], [inf, inf, 0], [-inf, 1, 2], [1, -inf, -inf],
            [-inf, -inf, -inf], [60, 0, 0], [-200, 0, 0], [0, 0, 0], [0, inf, nan]]  # fmt: skip
    logits = torch.tensor(rows, dtype=torch.float32, device=DEVICE)
    together, apart = logits[None], logits[:, None]
    for batch in (together, apart, together.flip(1)):
        labels = torch.zeros(batch.shape[0], dtype=torch.int64, device=DEVICE)
        with ops.use_backend("reference"):
            wanted = ops.crop_score(batch, labels, literal=literal)
        with ops.use_backend(backend, ["crop_score"]):
            given = ops.crop_score(batch, labels, literal=literal)
        for value, truth in zip(given, wanted, strict=True):
            torch.testing.assert_close(value, truth, equal_nan=True, rtol=1e-5, atol=1e-37)
        if literal:
            assert torch.equal(torch.signbit(given[1].nan_to_num(1)), torch.signbit(wanted[1].nan_to_num(1)))


def test_crop_score_label_out_of_range_is_nan(backend: str) -> None:
    labels = torch.tensor([3, -1, 2], device=DEVICE)
    with ops.use_backend(backend, ["crop_score"]):
        loss, _, index = ops.crop_score(torch.zeros(3, 2, 3, device=DEVICE), labels)
    assert loss.isnan().all(1).tolist() == [True, True, False]
    assert index.tolist() == [0, 0, 0]


@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
def test_large_batches(backend: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 5, 21841, generator=generator).to(DEVICE)
    labels = torch.randint(0, 21841, (40,), generator=generator).to(DEVICE)
    with ops.use_backend("reference"):
        truth = ops.crop_score(logits.double(), labels)
    with ops.use_backend(backend, ["crop_score"]):
        loss, _, index = ops.crop_score(logits, labels)
    torch.testing.assert_close(loss.double(), truth[0], rtol=2e-6, atol=0)
    assert torch.equal(index, truth[2])
