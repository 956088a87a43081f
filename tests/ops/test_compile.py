"""torch.compile traces through the ops as they are called, in one graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddfast import ops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _ragged() -> tuple[Tensor, ...]:
    sizes = torch.tensor([[20, 30], [25, 16]], dtype=torch.int32)
    counts = sizes.long().prod(1) * 3
    pixels = torch.randint(0, 256, (int(counts.sum()),), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 20, 30], [3, 4, 9, 9], [5, 2, 11, 13], [0, 0, 25, 16]], dtype=torch.int32)
    return pixels, torch.tensor([0, int(counts[0])]), sizes, boxes, torch.tensor([0, 0, 1, 1], dtype=torch.int32)


def _crops(*tensors: Tensor) -> Tensor:
    return ops.multi_crop(*tensors, size=(8, 8), mean=MEAN, std=STD) * 2


def _mosaic(*tensors: Tensor) -> Tensor:
    return ops.mosaic(*tensors, size=16, factor=2)


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    return ops.crop_score(logits, labels)[1] + 1


SCORES = (torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(1)), torch.arange(4))


@pytest.mark.parametrize(
    ("call", "inputs"),
    [(_crops, _ragged()), (_mosaic, _ragged()), (_scores, SCORES)],
    ids=["multi_crop", "mosaic", "crop_score"],
)
def test_one_graph(call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), call(*inputs))
