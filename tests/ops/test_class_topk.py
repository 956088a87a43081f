"""class_topk: every backend against sorting by hand, ties, NaN, order and batching, checks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddfast import _native, ops

INF, NAN = float("inf"), float("nan")
BACKENDS = ("reference", "cpp")


@pytest.fixture(params=["reference", "cpp-v3", "cpp-v4"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    name, _, isa = request.param.partition("-")
    if name not in ops.available_backends("class_topk"):
        pytest.skip(f"{name} is not built: {_native.why_missing('_cpu')}")
    module = _native.cpu()
    before = module.isa() if module is not None else ""
    if isa:
        try:
            module.set_isa(isa)  # type: ignore[union-attr]
        except ValueError:
            pytest.skip(f"no {isa} kernels for this processor")
    with ops.use_backend(name, ["class_topk"]):
        yield name
    if isa:
        module.set_isa(before)  # type: ignore[union-attr]


def by_hand(samples: list[tuple[float, int, int]], classes: int, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """Python's own sort of (score, label, key) per class; samples with a NaN score are left out."""
    scores, keys = [], []
    for label in range(classes):
        rows = sorted((s, key) for s, own, key in samples if own == label and s == s)[:k]
        rows += [(INF, ops.EMPTY_KEY)] * (k - len(rows))
        scores.append([s for s, _ in rows])
        keys.append([key for _, key in rows])
    return scores, keys


def tensors(samples: list[tuple[float, int, int]], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    scores, labels, keys = zip(*samples, strict=True) if samples else ((), (), ())
    numbers = [torch.tensor(v, dtype=torch.int64) for v in (labels, keys)]
    return torch.tensor(scores, dtype=dtype), numbers[0], numbers[1]


def random_samples(n: int, classes: int, seed: int) -> list[tuple[float, int, int]]:
    rng = np.random.default_rng(seed)
    scores = np.float32(rng.integers(0, 40, n) / 8)  # many equal scores
    scores[rng.random(n) < 0.05] = np.nan
    scores[rng.random(n) < 0.05] = np.inf
    scores[rng.random(n) < 0.05] = -0.0
    return list(zip(scores.tolist(), rng.integers(0, classes, n).tolist(), rng.permutation(n).tolist(), strict=True))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "classes", "k"), [(500, 7, 5), (30, 7, 50), (1, 1, 1), (0, 3, 2), (300, 1, 1), (9, 0, 4)]
)
def test_against_sorting_by_hand(n: int, classes: int, k: int, dtype: torch.dtype, backend: str) -> None:
    samples = random_samples(n if classes else 0, max(classes, 1), n + k)
    table = ops.class_topk(*tensors(samples, dtype), *ops.empty_topk(classes, k, dtype=dtype))
    scores, keys = by_hand(samples, classes, k)
    assert table[0].dtype == dtype
    assert table[0].tolist() == scores
    assert table[1].tolist() == keys
    assert not torch.signbit(table[0]).any()


def test_no_slots(backend: str) -> None:
    scores, keys = ops.class_topk(*tensors([(1.0, 0, 0)]), *ops.empty_topk(3, 0))
    assert scores.shape == keys.shape == (3, 0)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.lists(
        st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 2.0, INF, NAN]), st.integers(0, 2), st.integers(0, 9))
    ),
    k=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_neither_order_nor_batching_matters(samples: list, k: int, cuts: list[int], order: object) -> None:
    scores, keys = by_hand(samples, 3, k)
    shuffled = list(samples)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    edges = [0, *sorted(min(c, len(samples)) for c in cuts), len(samples)]
    for name in BACKENDS:
        if name not in ops.available_backends("class_topk"):
            continue
        table = ops.empty_topk(3, k)
        with ops.use_backend(name, ["class_topk"]):
            for begin, end in itertools.pairwise(edges):
                table = ops.class_topk(*tensors(shuffled[begin:end]), *table)
        assert table[0].tolist() == scores
        assert table[1].tolist() == keys


def test_streaming_many_batches(backend: str) -> None:
    samples = random_samples(2000, 11, 4)
    once = ops.class_topk(*tensors(samples), *ops.empty_topk(11, 13))
    table = ops.empty_topk(11, 13)
    for begin in range(0, 2000, 37):
        table = ops.class_topk(*tensors(samples[begin : begin + 37]), *table)
    assert all(torch.equal(a, b) for a, b in zip(table, once, strict=True))


def test_the_given_table_is_left_alone(backend: str) -> None:
    samples = random_samples(50, 3, 5)
    table = ops.class_topk(*tensors(samples), *ops.empty_topk(3, 4))
    copies = [t.clone() for t in table]
    ops.class_topk(*tensors([(-5.0, 1, 7)]), *table)
    assert all(torch.equal(a, b) for a, b in zip(table, copies, strict=True))


def test_non_contiguous_arguments(backend: str) -> None:
    scores, labels, keys = tensors(random_samples(60, 4, 6))
    wanted = ops.class_topk(scores, labels, keys, *ops.empty_topk(4, 5))
    strided = [torch.stack([t, t], 1)[:, 0] for t in (scores, labels, keys)]
    table = [t.t().contiguous().t() for t in ops.empty_topk(4, 5)]
    result = ops.class_topk(*strided, *table)
    assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_are_checked(label: int, backend: str) -> None:
    with pytest.raises(ValueError, match=rf"labels: got {label}, expected 0 <= label < 3"):
        ops.class_topk(*tensors([(0.0, 1, 0), (0.0, label, 1)]), *ops.empty_topk(3, 2))


def test_arguments_are_checked() -> None:
    scores, labels, keys = tensors([(0.0, 0, 0)])
    table = ops.empty_topk(2, 3)
    with pytest.raises(TypeError, match=r"scores: got torch\.float16"):
        ops.class_topk(scores.half(), labels, keys, *table)
    with pytest.raises(TypeError, match=r"best_scores: got torch\.float32, expected torch\.float64"):
        ops.class_topk(scores.double(), labels, keys, *table)
    with pytest.raises(ValueError, match=r"keys: got shape \(2,\), expected \(1\)"):
        ops.class_topk(scores, labels, keys.repeat(2), *table)
    with pytest.raises(ValueError, match=r"best_keys: got shape"):
        ops.class_topk(scores, labels, keys, table[0], table[1][:, :2])
    with pytest.raises(ValueError, match="num_classes, k: got -1, 2"):
        ops.empty_topk(-1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    batch = tensors(random_samples(20, 3, 7), dtype)
    table = ops.class_topk(*batch, *ops.empty_topk(3, 4, dtype=dtype))  # no NaN, so that results compare equal
    torch.library.opcheck(torch.ops.ddfast.class_topk.default, (*batch, *table))
