"""class_topk against torch (concatenate and sort the class's row), eager and compiled; one core, and the GPU.

taskset -c 0 pytest benchmarks/ops/bench_class_topk.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.records import Labels
from ddfast import ops
from ddfast.bench import work as jobs
from ddfast.bench.machine import package
from ddfast.bench.measured import Check

# classes, kept per class, samples per call, whether a call brings one class (the stream does) or all mixed
CASES = {"stream": (1000, 40, 64, True), "mixed": (1000, 40, 4096, False), "long": (10, 2000, 4096, False)}
Table = tuple[Tensor, Tensor]
Merge = Callable[..., Table]
pytestmark = pytest.mark.usefixtures("one_thread")


def eager(scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor) -> Table:
    """A loop over the classes of the batch, each merged by sorting; ties are left to the order of arrival."""
    best_scores, best_keys = best_scores.clone(), best_keys.clone()
    k = best_scores.shape[1]
    for label in labels.unique().tolist():
        own = labels == label
        merged, order = torch.cat([best_scores[label], scores[own]]).sort(stable=True)
        best_scores[label] = merged[:k]
        best_keys[label] = torch.cat([best_keys[label], keys[own]])[order[:k]]
    return best_scores, best_keys


def _backend(name: str) -> Merge:
    def merge(*arguments: Tensor) -> Table:
        with ops.use_backend(name):
            return ops.class_topk(*arguments)

    return merge


@functools.cache
def _compiled() -> Merge:
    return torch.compile(_backend_free, dynamic=False)


def _backend_free(*arguments: Tensor) -> Table:
    """The definition, a lexicographic sort, as torch.compile gets it."""
    from ddfast.ops.class_topk import reference

    return reference.class_topk(*arguments)


# The reference is plain torch with the exact tie rule and no loop over classes.
BASELINES: dict[str, Callable[[], Merge]] = {
    "eager-loop": lambda: eager,
    "compile": _compiled,
    "reference": lambda: _backend("reference"),
}


@functools.cache
def _arguments(name: str) -> tuple[Tensor, ...]:
    """A batch and a table that is half full."""
    classes, k, n, single = CASES[name]
    generator = torch.Generator().manual_seed(0)
    filled = classes * k // 2
    first = (torch.rand(filled, generator=generator), torch.arange(filled) % classes, torch.arange(filled))
    labels = torch.full((n,), 3) if single else torch.randint(0, classes, (n,), generator=generator)
    return (
        torch.rand(n, generator=generator),
        labels,
        filled + torch.arange(n),
        *_backend("reference")(*first, *ops.empty_topk(classes, k)),
    )


def _check(name: str) -> Callable[..., Check]:
    def check(out: Table, *_: Any) -> Check:
        truth = _backend("reference")(*_arguments(name))
        wrong = sum(int((a.cpu() != b).sum()) for a, b in zip(out, truth, strict=True))
        return Check("entries off the definition", wrong, 0)

    return check


def _measure(case: Any, shape: str, name: str, merge: Merge, device: str, baseline: str | None) -> None:
    classes, k, n, single = CASES[shape]
    arguments = tuple(each.to(device) for each in _arguments(shape))
    text = f"{n} samples of {'one class' if single else 'all classes'} into {classes}x{k}"
    group = f"class_topk {shape}" + (" cuda" if device == "cuda" else "")
    ours = _backend(ops.available_backends("class_topk", device)[0])
    case(
        merge,
        inputs=[arguments],
        labels=Labels(group, name, "class_topk", text, "float32", name, baseline, device),
        work=jobs.topk(classes, k, n),
        check=_check(shape),
        ddfast=(lambda: ours(*arguments)) if baseline else None,
    )


@pytest.mark.parametrize("name", ["cpp", *BASELINES])
@pytest.mark.parametrize("shape", CASES)
def test_class_topk(case: Any, shape: str, name: str) -> None:
    if name in BASELINES:
        _measure(case, shape, name, BASELINES[name](), "cpu", package("torch"))
    elif name in ops.available_backends("class_topk"):
        _measure(case, shape, name, _backend(name), "cpu", None)
    else:
        pytest.skip(f"{name} is not available")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["reference", "eager-loop"])
@pytest.mark.parametrize("shape", CASES)
def test_cuda(case: Any, shape: str, name: str) -> None:
    baseline = None if name == "reference" else package("torch")  # the reference is ddfast's way on a GPU
    _measure(case, shape, name, BASELINES[name](), "cuda", baseline)
