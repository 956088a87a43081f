"""augment_batch: every backend against float64 truth, exact mixing, repeatable bits, memory safety, messages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddfast.ops import augment_batch, use_backend
from tests.ops.augment_helpers import MEAN, NORM, STD, Draws, draws, pictures, truth
from tests.ops.ragged_helpers import BACKENDS, forced, survives_guard_pages

EPS = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# (height, width) of the set and of a view: enlarged, shrunk much and little, odd, one pixel, as large as the picture
SHAPES = [
    ((24, 36), (16, 20), 2), ((24, 36), (40, 61), 3), ((25, 35), (25, 35), 5), ((90, 64), (17, 19), 2),
    ((6, 4), (1, 1), 2), ((1, 1), (3, 2), 1), ((48, 66), (48, 66), 1),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "size", "factor"), SHAPES)
@pytest.mark.usefixtures("poisoned_empty")
def test_matches_truth(
    backend: str, dtype: torch.dtype, channels_last: bool, shape: tuple[int, int], size: tuple[int, int], factor: int
) -> None:
    images = pictures(4, *shape)
    for mixup in (False, True):
        draw = draws(9, images, factor, size=size, shift=3, seed=mixup)
        wanted = truth(images, draw, size, mixup)
        options = {"size": size, "mixup": mixup, "dtype": dtype, **NORM}
        with use_backend("reference"):
            allowed = 2 * (augment_batch(images, *draw.args(), **options).double() - wanted).abs().max()
        with forced(backend):
            got = augment_batch(images, *draw.args(), channels_last=channels_last, **options)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert (got.double() - wanted).abs().max() <= allowed + 4 * EPS[dtype]


@pytest.mark.usefixtures("poisoned_empty")
def test_float64_is_computed_in_float64() -> None:
    images, size = pictures(3, 18, 22), (13, 27)
    draw = draws(7, images, 2, size=size, shift=2)
    for mixup in (False, True):
        got = augment_batch(images, *draw.args(), size=size, mixup=mixup, dtype=torch.float64, **NORM)
        assert (got - truth(images, draw, size, mixup)).abs().max() < 1e-13


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_whole_pictures_are_copied_exactly(backend: str, channels_last: bool) -> None:
    images = pictures(5, 32, 33)
    draw = draws(8, images, size=(32, 33), crop=False, shift=2)
    unit = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, "size": (32, 33)}
    with forced(backend):
        got = augment_batch(images, *draw.args(), channels_last=channels_last, **unit)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    levels = (truth(images, draw, (32, 33)) * std + mean) * 255
    assert (got - levels).abs().max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.usefixtures("poisoned_empty")
def test_mixed_pixels_are_those_of_the_views(
    backend: str, dtype: torch.dtype, channels_last: bool, factor: int
) -> None:
    images, size = pictures(4, 48, 70), (48, 70)
    for seed in range(6):
        draw = draws(11, images, factor, size=size, crop=factor > 1, seed=seed)
        options = {"size": size, "dtype": dtype, "channels_last": channels_last, **NORM}
        with forced(backend):
            mixed = augment_batch(images, *draw.args(), **options)
            draw.mix_box = torch.zeros(4, dtype=torch.int32)
            own = augment_batch(images, *draw.args(), **options)
        draw = draws(11, images, factor, size=size, crop=factor > 1, seed=seed)
        top, left, height, width = draw.mix_box.tolist()
        window = (..., slice(top, top + height), slice(left, left + width))
        wanted = own.clone()
        wanted[window] = own[draw.partner][window]
        assert torch.equal(mixed, wanted)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("mixup", [False, True])
def test_bits_do_not_depend_on_threads_or_order(backend: str, mixup: bool) -> None:
    images, size = pictures(4, 60, 62), (280, 260)  # large enough for a thread a sample
    draw = draws(6, images, 2, size=size, seed=3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with forced(backend):
        one = augment_batch(images, *draw.args(), size=size, mixup=mixup, **NORM)
        for threads in (2, 5, 64):
            again = augment_batch(images, *draw.args(), size=size, mixup=mixup, threads=threads, **NORM)
            assert torch.equal(one, again)
        moved = draw.take(order)
        moved.partner = order.argsort()[moved.partner]
        assert torch.equal(augment_batch(images, *moved.args(), size=size, mixup=mixup, **NORM), one[order])


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bits_do_not_depend_on_instruction_set(dtype: torch.dtype, channels_last: bool, mixup: bool) -> None:
    images = pictures(3, 72, 96)
    results = []
    for backend in BACKENDS[1:]:
        found = []
        for size in ((72, 96), (20, 24), (31, 57), (96, 130), (9, 7)):
            draw = draws(20, images, 2, size=size, shift=2, seed=size[0])
            options = {"size": size, "dtype": dtype, "channels_last": channels_last, "mixup": mixup, **NORM}
            with forced(backend):
                found.append(augment_batch(images, *draw.args(), **options))
        results.append(found)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch_and_empty_set(backend: str) -> None:
    images = pictures(2, 8, 8)
    draw = draws(0, images, 2, size=(5, 4))
    with forced(backend):
        for some in (images, images[:0]):
            for mixup in (False, True):
                out = augment_batch(some, *draw.args(), size=(5, 4), mixup=mixup, **NORM)
                assert out.shape == (0, 3, 5, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_draws(backend: str) -> None:
    images, size = pictures(3, 12, 14), (9, 10)
    draw = draws(8, images, 2, size=size)
    doubled = [torch.stack([t, t], dim=-1)[..., 0] for t in draw.args()[:8]]
    assert not doubled[3].is_contiguous()
    with forced(backend):
        wanted = augment_batch(images, *draw.args(), size=size, **NORM)
        assert torch.equal(augment_batch(images, *doubled, draw.share, size=size, **NORM), wanted)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_reads_stay_inside_the_set(backend: str) -> None:
    images = pictures(2, 20, 22)

    def run(inner: Tensor) -> None:
        whole = inner.view(2, 20, 22, 3)
        for size in ((20, 22), (7, 9), (40, 41)):
            for seed in range(4):
                draw = draws(12, images, 1 + seed % 2, size=size, crop=seed > 1, shift=4 * (seed % 2), seed=seed)
                augment_batch(whole, *draw.args(), size=size, channels_last=bool(seed % 2), **NORM)

    with forced(backend):
        assert survives_guard_pages(images.flatten(), run)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_but_the_result_is_written(
    monkeypatch: pytest.MonkeyPatch, backend: str, dtype: torch.dtype, channels_last: bool, mixup: bool
) -> None:
    images = pictures(2, 20, 24)
    for size in ((20, 24), (21, 45), (5, 3)):
        draw = draws(5, images, 2, size=size, crop=size[0] > 20)
        store = torch.full((5 * 3 * size[0] * size[1] + 128,), 7.0, dtype=dtype)
        shape = (5, *size, 3) if channels_last else (5, 3, *size)
        out = store[64:-64].view(shape).permute(0, 3, 1, 2) if channels_last else store[64:-64].view(shape)
        out.fill_(float("nan"))
        with forced(backend), monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *_, out=out, **__: out)
            augment_batch(
                images, *draw.args(), size=size, mixup=mixup, dtype=dtype, channels_last=channels_last, **NORM
            )
        assert not out.isnan().any()
        assert (torch.cat([store[:64], store[-64:]]) == 7).all()


def test_opcheck() -> None:
    images = pictures(3, 12, 14)
    draw = draws(5, images, 2, size=(9, 10), shift=1)
    op = torch.ops.ddfast.augment_batch.default
    tail = ([9, 10], list(MEAN), list(STD))
    torch.library.opcheck(op, (images, *draw.args(), *tail, False, torch.float32, True, 1))
    torch.library.opcheck(op, (images, *draw.args(), *tail, True, torch.bfloat16, False, 1))


def _change(draw: Draws, name: str, value: object) -> Draws:
    tensor = getattr(draw, name).clone()
    tensor[3 if name == "mix_box" else 1] = torch.tensor(value, dtype=tensor.dtype)
    setattr(draw, name, tensor)
    return draw


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index", -1), ("index", 3), ("partner", -1), ("partner", 5), ("columns", [0, 2]), ("rows", [-1, 0]),
        ("boxes", [0, 0, 13, 4]), ("boxes", [0, 11, 4, 4]), ("boxes", [-1, 0, 4, 4]), ("boxes", [0, 0, 0, 4]),
        ("boxes", [0, 2**31 - 1, 1, 2]), ("mix_box", 11), ("mix_box", -1),
    ],
)  # fmt: skip
def test_refuses_draws_out_of_range(name: str, value: object) -> None:
    images = pictures(3, 12, 14)
    draw = _change(draws(5, images, 2, size=(9, 10)), name, value)
    with pytest.raises(ValueError, match=f"{name}: "):
        augment_batch(images, *draw.args(), size=(9, 10), **NORM)
    with forced(BACKENDS[1]), pytest.raises(ValueError, match=f"{name}: "):
        augment_batch(images, *draw.args(), size=(9, 10), validate=False, **NORM)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": (0, 4)}, ValueError, "size: got"),
        ({"size": (4, 4, 4)}, ValueError, "size: got"),
        ({"mean": (0.5, 0.5)}, ValueError, "mean: got"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "std: got"),
        ({"threads": 0}, ValueError, "threads: got 0"),
        ({"dtype": torch.int32}, TypeError, "dtype: got"),
        ({"share": 1.5}, ValueError, "share: got 1.5"),
        ({"images": torch.zeros(3, 12, 14, 3)}, TypeError, "images: got torch.float32"),
        ({"images": torch.zeros(3, 12, 14, 4, dtype=torch.uint8)[..., :3]}, ValueError, "images: got strides"),
        ({"images": torch.zeros(3, 13, 14, 3, dtype=torch.uint8)}, ValueError, "columns: got 2 strips"),
        ({"flip": torch.zeros(5, dtype=torch.uint8)}, TypeError, "flip: got"),
        ({"rows": torch.zeros(5, 3, dtype=torch.int32)}, ValueError, "rows: got shape"),
        ({"index": torch.zeros(4, dtype=torch.int64)}, ValueError, "columns: got shape"),
        ({"mix_box": torch.zeros(4, dtype=torch.int32, device="meta")}, ValueError, "mix_box: is on meta"),
    ],
)
def test_messages(change: dict[str, object], error: type[Exception], message: str) -> None:
    images = pictures(3, 12, 14)
    draw = draws(5, images, 2, size=(4, 4))
    arguments: dict[str, object] = {"images": images, **vars(draw), "size": (4, 4), **NORM}
    with pytest.raises(error, match=message):
        augment_batch(**{**arguments, **change})  # type: ignore[arg-type]
