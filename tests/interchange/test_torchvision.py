"""Our ops and sets beside torchvision's v2 transforms: the same pictures from the same draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import RandomResizedCrop, v2

from ddfast import ops
from ddfast.store import DistilledSet
from ddfast.train.views import ViewConfig, Views, draw_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLOSE = {"rtol": 0, "atol": 1e-5}


def pictures(count: int, height: int, width: int) -> Tensor:
    """Smooth, with noise: uint8 [count, height, width, 3]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noisy = fine + 0.1 * torch.rand(fine.shape, generator=generator)
    return (noisy * 230).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def view(picture: Tensor, box: list[int], size: tuple[int, int], flip: bool = False) -> Tensor:
    """uint8 [H, W, 3] through torchvision."""
    crop = v2.functional.to_dtype(picture.permute(2, 0, 1), torch.float32, scale=True)
    crop = v2.functional.resized_crop(crop, *box, list(size), antialias=True)
    return v2.functional.normalize(v2.functional.horizontal_flip(crop) if flip else crop, list(MEAN), list(STD))


@pytest.mark.parametrize("size", [(24, 24), (7, 90)])
def test_multi_crop_is_resized_crop_and_normalize(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    ours = [pictures(1, height, width)[0] for height, width in ((40, 61), (90, 33), (64, 64))]
    owner = torch.arange(24, dtype=torch.int32) % 3
    params = [RandomResizedCrop.get_params(ours[i].permute(2, 0, 1), [0.05, 1.0], [0.5, 2.0]) for i in owner.tolist()]
    crops = ops.multi_crop(
        torch.cat([picture.flatten() for picture in ours]),
        torch.tensor([0, *(picture.numel() for picture in ours[:-1])]).cumsum(0),
        torch.tensor([picture.shape[:2] for picture in ours], dtype=torch.int32),
        torch.tensor(params, dtype=torch.int32), owner, size=size, mean=MEAN, std=STD,
    )  # fmt: skip
    expected = [view(ours[i], list(box), size) for i, box in zip(owner.tolist(), params, strict=True)]
    torch.testing.assert_close(crops, torch.stack(expected), **CLOSE)


def augmented(images: Tensor, views: Views, *, mixup: bool = False) -> Tensor:
    draws = (views.index, views.columns, views.rows, views.boxes, views.flip, views.shift, views.partner)
    out = ops.augment_batch(images, *draws, views.mix_box, views.share, size=(32, 32), mean=MEAN, std=STD, mixup=mixup)
    return out.contiguous()


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_augment_batch_is_torchvisions_pipeline(mix: str) -> None:
    images = pictures(12, 48, 40)
    config = ViewConfig((32, 32), scale=(0.2, 1.0), flip=True, mix=mix)
    views = draw_views(config, (48, 40), 0, 0, 1, torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]))
    plain = zip(views.index.tolist(), views.boxes.tolist(), views.flip.tolist(), strict=True)
    expected = torch.stack([view(images[row], box, (32, 32), flip) for row, box, flip in plain])
    other = expected[views.partner]
    if mix == "cutmix":
        top, left, height, width = views.mix_box.tolist()
        assert height * width
        expected[:, :, top : top + height, left : left + width] = other[:, :, top : top + height, left : left + width]
    elif mix == "mixup":
        expected = views.share * expected + (1 - views.share) * other
    torch.testing.assert_close(augmented(images, views, mixup=mix == "mixup"), expected, **CLOSE)


def test_sets_go_through_v2_transforms_and_cutmix() -> None:
    labels = torch.arange(12) % 4
    one = DistilledSet(pictures(12, 32, 32), labels, tuple("abcd"))
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))])
    batches = [
        torch.cat([x for x, _ in DataLoader(one.as_dataset(transform, kind=kind), 5)]) for kind in ("pil", "tensor")
    ]
    images, found = (torch.cat(part) for part in zip(*one.dataloader(5, augment=False, shuffle=False), strict=True))
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(found, labels)
    torch.testing.assert_close(images, batches[0], **CLOSE)
    mixed, soft = v2.CutMix(num_classes=4)(images, found)  # a batch of ours in torchvision's own mixing
    assert mixed.shape == images.shape
    torch.testing.assert_close(soft.sum(1), torch.ones(12))
