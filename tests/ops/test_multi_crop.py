"""multi_crop: every backend against float64 truth, placement, repeatable bits, memory safety, messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import _native
from ddfast.ops import BackendError, multi_crop, use_backend
from tests.ops.ragged_helpers import (
    BACKENDS,
    forced,
    odd_batch,
    pack,
    picture,
    random_batch,
    survives_guard_pages,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORM = {"mean": MEAN, "std": STD}
SIZES = [(16, 16), (7, 9), (33, 5), (1, 1)]
EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float64: 2.0**-52}


def truth(batch: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Written out once more from torch alone, in float64."""
    pixels, offsets, sizes, boxes, image_index = batch
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    out = []
    for (top, left, h, w), image in zip(boxes.tolist(), image_index.tolist(), strict=True):
        height, width = sizes[image].tolist()
        start = int(offsets[image])
        whole = pixels[start : start + 3 * height * width].reshape(height, width, 3).permute(2, 0, 1)
        crop = whole[None, :, top : top + h, left : left + w].double() / 255
        small = F.interpolate(crop, size=size, mode="bilinear", antialias=True, align_corners=False)
        out.append((small[0] - mean) / std)
    return torch.stack(out)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("poisoned_empty")
def test_matches_truth(backend: str, dtype: torch.dtype, channels_last: bool, size: tuple[int, int]) -> None:
    batch = odd_batch()
    wanted = truth(batch, size)
    with use_backend("reference"):
        allowed = 2 * (multi_crop(*batch, size=size, dtype=dtype, **NORM).double() - wanted).abs().max()
    with forced(backend):
        got = multi_crop(*batch, size=size, dtype=dtype, channels_last=channels_last, **NORM)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert (got.double() - wanted).abs().max() <= allowed + 4 * EPS[dtype]


@pytest.mark.usefixtures("poisoned_empty")
def test_float64_is_computed_in_float64() -> None:
    batch = odd_batch()
    got = multi_crop(*batch, size=(8, 11), dtype=torch.float64, **NORM)
    assert (got - truth(batch, (8, 11))).abs().max() < 1e-13


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("size", [(112, 112), (40, 64), (224, 224)])
def test_equals_torch_float_resize(backend: str, size: tuple[int, int]) -> None:
    batch = random_batch(12, seed=5, height=161, width=203)
    pixels_only = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    with use_backend("reference"):
        wanted = multi_crop(*batch, size=size, **pixels_only)
    with forced(backend):
        got = multi_crop(*batch, size=size, **pixels_only)
    assert (got - wanted).abs().max() <= 1e-6


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("shape", [(1500, 40), (40, 1500), (900, 901)])
@pytest.mark.parametrize("size", [(3, 3), (3, 112), (112, 3)])
def test_extreme_scales(backend: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    batch = pack([picture(*shape, seed=9)], [(0, 0, *shape)], [0])
    wanted = truth(batch, size)
    with use_backend("reference"):
        allowed = 2 * (multi_crop(*batch, size=size, **NORM).double() - wanted).abs().max()
    with forced(backend):
        got = multi_crop(*batch, size=size, **NORM)
    assert (got.double() - wanted).abs().max() <= allowed + 4 * EPS[torch.float32]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("canvas", [(16, 16), (17, 20), (40, 16), (16, 33)])
@pytest.mark.usefixtures("poisoned_empty")
def test_canvas_frames_the_same_crop(backend: str, channels_last: bool, canvas: tuple[int, int]) -> None:
    batch, size = odd_batch(), (16, 16)
    for dtype in (torch.float32, torch.bfloat16):
        options = {"size": size, "dtype": dtype, "channels_last": channels_last, **NORM}
        with forced(backend):
            bare = multi_crop(*batch, **options)
            framed = multi_crop(*batch, canvas=canvas, canvas_value=-1.25, **options)
        top, left = (canvas[0] - 16) // 2, (canvas[1] - 16) // 2
        wanted = torch.full((len(bare), 3, *canvas), -1.25, dtype=dtype)
        wanted[:, :, top : top + 16, left : left + 16] = bare
        assert torch.equal(framed, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("canvas", [None, (11, 14)])
def test_out_is_filled_and_nothing_else(
    backend: str, dtype: torch.dtype, channels_last: bool, canvas: tuple[int, int] | None
) -> None:
    batch, size = odd_batch(), (7, 9)
    count, (height, width) = len(batch[3]), canvas or size
    guard = torch.full((count + 2, 5, height * width, 3), 77.0, dtype=dtype)  # whole pictures between and around
    room = guard[1 : count + 1, 1]
    plane = height * width
    strides = (1, 3 * width, 3) if channels_last else (plane, width, 1)
    out = room.as_strided((count, 3, height, width), (room.stride(0), *strides), room.storage_offset())
    out.fill_(float("nan"))
    with forced(backend):
        wanted = multi_crop(*batch, size=size, canvas=canvas, dtype=dtype, **NORM)
        returned = multi_crop(*batch, size=size, canvas=canvas, out=out, **NORM)
    assert returned is out
    assert torch.equal(out, wanted)
    room.fill_(77.0)
    assert (guard == 77.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend: str) -> None:
    batch = random_batch(0, seed=1)
    none = (torch.empty(0, dtype=torch.uint8), batch[1][:0], batch[2][:0], batch[3], batch[4])
    with forced(backend):
        for args in (batch, none):
            assert multi_crop(*args, size=(4, 5), canvas=(8, 8), **NORM).shape == (0, 3, 8, 8)
            out = torch.empty(0, 3, 4, 5)
            assert multi_crop(*args, size=(4, 5), out=out, **NORM) is out


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_bits_do_not_depend_on_threads_or_order(backend: str) -> None:
    batch = random_batch(23, seed=2)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    with forced(backend):
        one = multi_crop(*batch, size=(24, 20), **NORM)
        for threads in (2, 5, 64):
            assert torch.equal(one, multi_crop(*batch, size=(24, 20), threads=threads, **NORM))
        shuffled = multi_crop(*batch[:3], batch[3][order], batch[4][order], size=(24, 20), **NORM)
    assert torch.equal(shuffled, one[order])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bits_do_not_depend_on_instruction_set(dtype: torch.dtype, channels_last: bool) -> None:
    batch = random_batch(40, seed=3, height=150, width=170)
    options = {"dtype": dtype, "channels_last": channels_last, **NORM}
    # Widths that shrink much, by 2 to 3, by less than 2, and that grow; all but 64 leave a part of a vector over.
    sizes = [(24, 24), (61, 13), (160, 31), (20, 57), (21, 64), (9, 101), (40, 203)]
    results = []
    for backend in BACKENDS[1:]:
        with forced(backend):
            results.append([multi_crop(*batch, size=s, **options) for s in sizes])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_index_tensors(backend: str) -> None:
    batch = random_batch(9, seed=4)
    strided = (batch[0], *(torch.stack([t, t], dim=-1)[..., 0] for t in batch[1:]))
    assert not strided[3].is_contiguous()
    with forced(backend):
        assert torch.equal(multi_crop(*strided, size=(8, 8), **NORM), multi_crop(*batch, size=(8, 8), **NORM))


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_reads_stay_inside_pixels(backend: str) -> None:
    pixels, *rest = odd_batch()
    # The first and last pixel of the buffer, narrow and wide boxes at both ends.
    sizes, last = rest[1].tolist(), len(rest[1]) - 1
    height, width = sizes[last]
    boxes = [(0, 0, 1, 1), (0, 0, *sizes[0]), (0, 0, height, width), (height - 1, width - 1, 1, 1)]
    boxes += [(height - 9, width - w, 9, w) for w in (2, 5, 7, 11, 21, 22, 43)]
    index = torch.tensor([0, 0] + [last] * (len(boxes) - 2), dtype=torch.int32)
    where = torch.tensor(boxes, dtype=torch.int32)

    def run(inner: Tensor) -> None:
        for size in ((5, 5), (40, 40)):
            for channels_last in (False, True):
                multi_crop(inner, *rest[:2], where, index, size=size, channels_last=channels_last, **NORM)

    with forced(backend):
        assert survives_guard_pages(pixels, run)


def test_opcheck() -> None:
    batch = random_batch(4, seed=6)
    tail = ([6, 7], list(MEAN), list(STD))
    op, op_out = torch.ops.ddfast.multi_crop.default, torch.ops.ddfast.multi_crop_out.default
    torch.library.opcheck(op, (*batch, *tail, [9, 9], 0.5, torch.float32, True, 1))
    torch.library.opcheck(op, (*batch, *tail, None, 0.0, torch.bfloat16, False, 1))
    torch.library.opcheck(op_out, (*batch, *tail, 0.5, 1, torch.zeros(4, 3, 9, 9)))


def test_backend_choice() -> None:
    batch = random_batch(2, seed=7)
    if _native.cpu() is None:
        pytest.skip(_native.why_missing("_cpu"))
    with use_backend("cpp"), pytest.raises(BackendError, match="float64"):
        multi_crop(*batch, size=(4, 4), dtype=torch.float64, **NORM)
    assert multi_crop(*batch, size=(4, 4), dtype=torch.float64, **NORM).dtype == torch.float64


BAD_BOXES = [
    (-1, 0, 4, 4),
    (0, -1, 4, 4),
    (0, 0, 0, 4),
    (0, 0, 4, 0),
    (87, 0, 4, 4),
    (0, 117, 4, 4),
    (2**31 - 1, 0, 5, 5),
]


@pytest.mark.parametrize("box", BAD_BOXES)
def test_refuses_boxes_outside(box: tuple[int, int, int, int]) -> None:
    pixels, offsets, sizes, boxes, index = random_batch(3, seed=8)
    boxes[1] = torch.tensor(box, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"boxes: row 1 is"):
        multi_crop(pixels, offsets, sizes, boxes, index, size=(4, 4), **NORM)
    with forced(BACKENDS[1]), pytest.raises(ValueError, match=r"boxes: row 1 does not lie inside"):
        multi_crop(pixels, offsets, sizes, boxes, index, size=(4, 4), validate=False, **NORM)


@pytest.mark.parametrize("validate", [True, False])
def test_refuses_pictures_outside(validate: bool) -> None:
    pixels, offsets, sizes, boxes, index = random_batch(3, seed=8)
    with forced(BACKENDS[1]):
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match="image_index"):
                multi_crop(
                    pixels, offsets, sizes, boxes, torch.full_like(index, wrong), size=(4, 4), validate=validate, **NORM
                )
        for shift in (-1, 1, 2**62):
            with pytest.raises(ValueError, match="pixels"):
                multi_crop(
                    pixels, offsets + shift, sizes, boxes, torch.arange(3, dtype=torch.int32),
                    size=(4, 4), validate=validate, **NORM,
                )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": (0, 4)}, ValueError, "size: got"),
        ({"size": (4, 4, 4)}, ValueError, "size: got"),
        ({"canvas": (3, 9)}, ValueError, "canvas: got"),
        ({"mean": (0.5, 0.5)}, ValueError, "mean: got"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "std: got"),
        ({"threads": 0}, ValueError, "threads: got 0"),
        ({"dtype": torch.int32}, TypeError, "dtype: got"),
        ({"out": torch.zeros(3, 3, 4, 5)}, ValueError, "out: got shape"),
        ({"out": torch.zeros(3, 3, 4, 4), "dtype": torch.float16}, TypeError, "out: got torch.float32"),
        ({"out": torch.zeros(3, 3, 4, 4, dtype=torch.int32)}, TypeError, "out: got"),
        ({"out": torch.zeros(3, 3, 4, 8)[..., ::2]}, ValueError, "out: got strides"),
        ({"out": torch.zeros(1, 3, 4, 4).expand(3, -1, -1, -1)}, ValueError, "out: got strides"),
        ({"out": torch.zeros(3, 3, 4, 4, device="meta")}, ValueError, "out: is on meta"),
        ({"pixels": torch.zeros(64800, dtype=torch.float32)}, TypeError, "pixels: got torch.float32"),
        ({"pixels": torch.zeros(2 * 97200, dtype=torch.uint8)[::2]}, ValueError, "pixels: got stride 2"),
        ({"sizes": torch.zeros(3, 3, dtype=torch.int32)}, ValueError, "sizes: got shape"),
        ({"boxes": torch.zeros(3, 4)}, TypeError, "boxes: got"),
        ({"image_index": torch.zeros(2, dtype=torch.int32)}, ValueError, "image_index: got shape"),
    ],
)
def test_messages(change: dict[str, object], error: type[Exception], message: str) -> None:
    names = ("pixels", "offsets", "sizes", "boxes", "image_index")
    arguments: dict[str, object] = {**dict(zip(names, random_batch(3, seed=8), strict=True)), "size": (4, 4), **NORM}
    with pytest.raises(error, match=message):
        multi_crop(**{**arguments, **change})  # type: ignore[arg-type]


@pytest.mark.data
def test_real_pictures(shared_data: Path) -> None:
    from PIL import Image

    files = sorted((shared_data / "imagenet20").rglob("*.JPEG"))[:3]
    pictures = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    sides = [min(p.shape[:2]) for p in pictures]
    boxes = [(0, 0, s // d, s // d) for s in sides for d in (1, 2)]
    batch = pack(pictures, boxes, [i for i in range(len(pictures)) for _ in range(2)])
    wanted = truth(batch, (112, 112))
    with use_backend("reference"):
        allowed = 2 * (multi_crop(*batch, size=(112, 112), **NORM).double() - wanted).abs().max()
    got = multi_crop(*batch, size=(112, 112), **NORM)
    assert (got.double() - wanted).abs().max() <= allowed + 4 * EPS[torch.float32]
