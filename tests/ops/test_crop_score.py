"""crop_score: every CPU backend against float64, the tie and NaN rules, small losses, checks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddfast import _native, ops

EPS = torch.finfo(torch.float32).eps
INF, NAN = float("inf"), float("nan")
# classes 31, 32, 33: one under, on and over the kernel's block
SHAPES = [(4, 5, 10), (3, 1, 1000), (2, 3, 31), (2, 3, 32), (2, 3, 33), (5, 2, 1), (1, 7, 2), (1, 2, 21841), (0, 5, 10)]


@pytest.fixture(params=["reference", "cpp-v3", "cpp-v4"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    name, _, isa = request.param.partition("-")
    if name not in ops.available_backends("crop_score"):
        pytest.skip(f"{name} is not built: {_native.why_missing('_cpu')}")
    if not isa:
        with ops.use_backend(name):
            yield name
        return
    module = _native.cpu()
    assert module is not None
    before = module.isa()
    try:
        module.set_isa(isa)
    except ValueError:
        pytest.skip(f"no {isa} kernels for this processor")
    with ops.use_backend(name, ["crop_score"]):
        yield name
    module.set_isa(before)


def case(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32, scale: float = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    logits = (torch.randn(shape, generator=generator) * scale).to(dtype)
    return logits, torch.randint(0, shape[2], shape[:1], generator=generator)


def truth(logits: Tensor, labels: Tensor, literal: bool = False) -> Tensor:
    with ops.use_backend("reference", ["crop_score"]):
        return ops.crop_score(logits.double(), labels, literal=literal)[0]


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_loss_has_relative_accuracy(shape: tuple[int, int, int], dtype: torch.dtype, backend: str) -> None:
    logits, labels = case(shape, dtype)
    loss, best_loss, best_index = ops.crop_score(logits, labels)
    wanted = truth(logits, labels)
    with ops.use_backend("reference", ["crop_score"]):
        plain = ops.crop_score(logits, labels)[0]
    allowed = 2 * (plain - wanted).abs().max() if backend == "reference" and plain.numel() else 8 * EPS * wanted
    assert loss.dtype == best_loss.dtype == torch.float32
    assert bool(((loss - wanted).abs() <= allowed + 1e-30).all())
    assert torch.equal(best_index, loss.argmin(1))
    assert torch.equal(best_loss, loss.amin(1))


@pytest.mark.parametrize("margin", [10.0, 20.0, 40.0, 80.0])
@pytest.mark.parametrize("offset", [0.0, 3.0, -37.0])
def test_small_losses_do_not_vanish(margin: float, offset: float, backend: str) -> None:
    logits = torch.full((1, 3, 1000), offset)
    logits[0, :, 17] += margin
    logits[0, 1, 18] += 1.5
    labels = torch.tensor([17])
    wanted = truth(logits, labels)
    loss = ops.crop_score(logits, labels)[0]
    assert bool((loss > 0).all())
    assert float(((loss - wanted) / wanted).abs().max()) < 1e-5


def test_wrong_and_confident_crops_are_ranked(backend: str) -> None:
    logits = torch.zeros(1, 4, 3)
    logits[0, :, 0] = torch.tensor([30.0, 31.0, -300.0, 29.0])
    loss, _, index = ops.crop_score(logits, torch.tensor([0]))
    assert index.tolist() == [1]
    assert float(loss[0, 2]) == pytest.approx(300 + float(torch.tensor(2.0).log()))


@pytest.mark.parametrize("shape", SHAPES)
def test_literal_loss(shape: tuple[int, int, int], backend: str) -> None:
    logits, labels = case(shape)
    index = labels[:, None, None].expand(-1, shape[1], 1)
    published = -torch.log(torch.softmax(logits, 2).gather(2, index).squeeze(2))
    wanted = truth(logits, labels, literal=True)
    loss = ops.crop_score(logits, labels, literal=True)[0]
    error = (published - wanted).abs().max() if published.numel() else 0.0
    assert bool(((loss - wanted).abs() <= 2 * error + 4 * EPS * (1 + wanted)).all())


def test_literal_loss_saturates_at_both_ends(backend: str) -> None:
    logits = torch.zeros(1, 4, 1000)
    logits[0, :, 5] = torch.tensor([-120.0, 40.0, 50.0, 2.0])
    loss, best_loss, index = ops.crop_score(logits, torch.tensor([5]), literal=True)
    assert loss[0, 0] == INF
    assert loss[0, 1] == loss[0, 2] == 0
    assert torch.signbit(loss[0, 1:3]).all()
    assert torch.signbit(best_loss).all()
    assert index.tolist() == [1]  # a tie: the lowest index


def test_ties_go_to_the_lowest_index(backend: str) -> None:
    logits, labels = case((3, 1, 10))
    _, _, index = ops.crop_score(logits.repeat(1, 6, 1), labels)
    assert index.tolist() == [0, 0, 0]


@pytest.mark.parametrize("literal", [False, True])
def test_nan_is_larger_than_everything(literal: bool, backend: str) -> None:
    rows = torch.tensor([[NAN, 0, 0], [0, NAN, 0], [-INF, 0, 0], [0, 0, 0]])
    labels = torch.tensor([0])
    loss, best_loss, index = ops.crop_score(rows[None], labels, literal=literal)
    assert loss[0].isnan().tolist() == [True, True, False, False]
    assert loss[0, 2] == INF
    assert index.tolist() == [3]
    assert ops.crop_score(rows[None, :3], labels, literal=literal)[2].tolist() == [2]
    _, best_loss, index = ops.crop_score(rows[None, :2], labels, literal=literal)
    assert index.tolist() == [0]
    assert best_loss.isnan().all()


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("own", [-INF, -1.0, INF, NAN])
@pytest.mark.parametrize(
    "rivals", [(0.0, 1.0), (-INF, 2.0), (-INF, -INF), (INF, 0.0), (NAN, 0.0), (INF, NAN), (INF, INF)]
)
def test_infinite_logits_as_in_float64(own: float, rivals: tuple[float, float], literal: bool, backend: str) -> None:
    logits, labels = torch.tensor([[[rivals[0], own, rivals[1]]]]), torch.tensor([1])
    wanted = truth(logits, labels, literal)
    loss = ops.crop_score(logits, labels, literal=literal)[0]
    torch.testing.assert_close(loss, wanted.float(), equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.parametrize("literal", [False, True])
def test_strided_logits(literal: bool, backend: str) -> None:
    logits, labels = case((6, 4, 50))
    wanted = ops.crop_score(logits, labels, literal=literal)
    crop_major = logits.transpose(0, 1).contiguous().transpose(0, 1)
    inner = torch.full((6, 4, 50, 2), 1e4)
    inner[..., 0] = logits
    padded = torch.full((6, 4, 57), 1e4)
    padded[..., :50] = logits
    for view in (crop_major, inner[..., 0], padded[..., :50]):
        assert not view.is_contiguous()
        assert all(
            torch.equal(a, b) for a, b in zip(ops.crop_score(view, labels, literal=literal), wanted, strict=True)
        )


def test_threads_do_not_change_the_result() -> None:
    logits, labels = case((700, 5, 1000))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = ops.crop_score(logits, labels)
        torch.set_num_threads(3)
        shared = ops.crop_score(logits, labels)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_float64_stays_float64() -> None:
    logits, labels = case((3, 2, 10))
    loss, best_loss, _ = ops.crop_score(logits.double(), labels)
    assert loss.dtype == best_loss.dtype == torch.float64
    plain = torch.nn.functional.cross_entropy(
        logits.double().view(6, 10), labels.repeat_interleave(2), reduction="none"
    )
    torch.testing.assert_close(loss.view(-1), plain)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_are_checked(label: int, backend: str) -> None:
    with pytest.raises(ValueError, match=rf"labels: got {label}, expected 0 <= label < 10"):
        ops.crop_score(torch.zeros(2, 3, 10), torch.tensor([0, label]))


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2), TypeError, "labels: got torch.float32"),
        (torch.zeros(2, 3, 4), torch.zeros(3, dtype=torch.int64), ValueError, r"labels: got shape \(3,\)"),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), ValueError, "logits: got shape"),
        (torch.zeros(2, 3, 4, dtype=torch.int32), torch.zeros(2, dtype=torch.int64), TypeError, "logits: got"),
        (torch.zeros(2, 0, 4), torch.zeros(2, dtype=torch.int64), ValueError, "at least one crop"),
        (torch.zeros(2, 3, 0), torch.zeros(2, dtype=torch.int64), ValueError, "at least one crop"),
    ],
)
def test_arguments_are_checked(logits: Tensor, labels: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.crop_score(logits, labels)


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(dtype: torch.dtype, literal: bool) -> None:
    logits, labels = case((3, 2, 10), dtype)
    torch.library.opcheck(torch.ops.ddfast.crop_score.default, (logits, labels, literal))
