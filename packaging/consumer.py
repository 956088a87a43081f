"""A user's program with the public names; ``mypy --strict`` must accept it against the installed package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import assert_type

import ddfast
from ddfast.ops import crop_score, multi_crop
from ddfast.train.adjoint import InnerStep, match_trajectory


def use(folder: Path) -> int:
    """Names, arguments and results that the README shows."""
    distilled = ddfast.distill("rded", folder, observer="resnet18", weights="resnet18.pth", ipc=10, out=folder / "out")
    assert_type(distilled, ddfast.DistilledSet)
    again = ddfast.load(folder / "out")
    assert_type(again.images, Tensor)
    assert_type(again.labels, Tensor)
    again.contact_sheet(folder / "sheet.png")
    for images, _labels in again.dataloader(batch_size=50):
        print(images.shape)
    information = ddfast.build_info()
    print(information["ops"])
    print(ddfast.evaluate, ddfast.relabel, ddfast.continual, ddfast.save, InnerStep, match_trajectory)
    store: ddfast.LabelStore | None = None
    data: ddfast.SoftLabelDataset | None = None
    return int(store is None) + int(data is None)


def scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Ops have types too."""
    _loss, best_loss, best_index = crop_score(logits, labels)
    assert_type(best_index, Tensor)
    pixels = torch.zeros(3 * 8 * 8, dtype=torch.uint8)
    sizes, boxes = torch.tensor([[8, 8]], dtype=torch.int32), torch.tensor([[0, 0, 8, 8]], dtype=torch.int32)
    crops = multi_crop(
        pixels, torch.tensor([0]), sizes, boxes, torch.zeros(1).int(), size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    assert_type(crops, Tensor)
    return best_loss
