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


def _views() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (5, 12, 12, 3), dtype=torch.uint8, generator=generator)
    strips = torch.tensor([[1, 0], [0, 1], [1, 0]], dtype=torch.int32)
    boxes = torch.tensor([[0, 0, 12, 12], [2, 3, 7, 5], [1, 0, 9, 11]], dtype=torch.int32)
    rest = (torch.tensor([True, False, True]), torch.zeros(3, 2, dtype=torch.int32), torch.tensor([1, 2, 0]))
    return images, torch.tensor([4, 0, 2]), strips, strips.flip(1), boxes, *rest, torch.tensor([2, 1, 6, 5]).int()


def _augmented(*tensors: Tensor) -> Tensor:
    return ops.augment_batch(*tensors, 0.5, size=(12, 12), mean=MEAN, std=STD) + 1


def _planes(a: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return ops.plane_block(a * 2, gamma, beta) - 1


def _soft(logits: Tensor, targets: Tensor) -> Tensor:
    return ops.soft_label_loss(logits * 2, targets, temperature=4.0)


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    return ops.crop_score(logits, labels)[1] + 1


SCORES = (torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(1)), torch.arange(4))


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (_crops, _ragged()),
        (_mosaic, _ragged()),
        (_scores, SCORES),
        (_augmented, _views()),
        (_planes, (SCORES[0][..., None].repeat(1, 1, 1, 4), torch.ones(3), torch.zeros(3))),
        (_soft, (SCORES[0][:, 0], SCORES[0][:, 1])),
    ],
    ids=["multi_crop", "mosaic", "crop_score", "augment_batch", "plane_block", "soft_label_loss"],
)
def test_one_graph(call: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), call(*inputs))
