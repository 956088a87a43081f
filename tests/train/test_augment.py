from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision import transforms

from ddfast._types import IMAGENET, Normalization
from ddfast.train import augment


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def test_normalize_matches_float64_and_is_channels_last() -> None:
    images = pictures(3, 5, 7)
    out = augment.normalize(images, IMAGENET)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET.mean, IMAGENET.std))
    truth = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_shift_moves_and_fills_with_zero() -> None:
    images = pictures(4, 6, 5)
    offsets = torch.tensor([[0, 0], [2, -1], [-6, 0], [1, 4]])
    out = augment.shift(images, offsets)
    for i, (down, right) in enumerate(offsets.tolist()):
        truth = np.zeros((6, 5, 3), np.uint8)
        for y in range(6):
            for x in range(5):
                if 0 <= y - down < 6 and 0 <= x - right < 5:
                    truth[y, x] = images[i, y - down, x - right].numpy()
        assert (out[i].numpy() == truth).all()
    assert out.dtype == torch.uint8


def test_flip_only_where_asked() -> None:
    images = pictures(2, 3, 4)
    out = augment.flip(images, torch.tensor([True, False]))
    assert torch.equal(out[0], images[0].flip(1))
    assert torch.equal(out[1], images[1])


def test_strips_reach_four_of_the_24_arrangements() -> None:
    tiles = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).repeat_interleave(2, 0).repeat_interleave(2, 1)
    image = tiles[None, :, :, None].expand(1, 4, 4, 3)
    seen = set()
    for columns in ([0, 1], [1, 0]):
        for rows in ([0, 1], [1, 0]):
            out = augment.shuffle_strips(image, torch.tensor([columns]), torch.tensor([rows]))
            assert torch.equal(out[0, :2, :2, 0].unique(), torch.tensor([2 * rows[0] + columns[0]], dtype=torch.uint8))
            seen.add(tuple(out[0, ::2, ::2, 0].flatten().tolist()))
    assert len(seen) == 4
    with pytest.raises(ValueError, match="factor 3"):
        augment.shuffle_strips(image, torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))


def test_cutmix_pastes_the_partners_window() -> None:
    images = torch.randn(3, 2, 6, 8)
    kept = images.clone()
    partner = torch.tensor([1, 2, 0])
    mixed, share = augment.cutmix(images, partner, (1, 2, 3, 4))
    assert share == pytest.approx(1 - 12 / 48)
    assert torch.equal(images, kept)
    assert torch.equal(mixed[:, :, 1:4, 2:6], images[partner][:, :, 1:4, 2:6])
    mask = torch.ones(6, 8, dtype=torch.bool)
    mask[1:4, 2:6] = False
    assert torch.equal(mixed[:, :, mask], images[:, :, mask])


def test_cutmix_boxes_are_inside_and_uniform_lambda_has_the_right_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    cuts = []
    for _ in range(400):
        partner, (top, left, height, width) = augment.draw_cutmix(5, 32, 48, 1.0, generator)
        assert sorted(partner.tolist()) == list(range(5))
        assert top >= 0
        assert left >= 0
        assert top + height <= 32
        assert left + width <= 48
        cuts.append(height * width / (32 * 48))
    assert 0.2 < float(np.mean(cuts)) < 0.45  # 0.5 if nothing were clipped


def test_crops_follow_torchvisions_law() -> None:
    generator, count = torch.Generator().manual_seed(0), 4000
    for size, scale in (((64, 64), (0.5, 1.0)), ((40, 100), (0.08, 1.0))):
        boxes = augment.draw_crops(count, size, scale, (3 / 4, 4 / 3), generator).double()
        torch.manual_seed(0)
        blank = torch.empty(3, *size)
        own = [transforms.RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
        truth = torch.tensor(own, dtype=torch.float64)
        assert boxes[:, 0].min() >= 0
        assert (boxes[:, 0] + boxes[:, 2]).max() <= size[0]
        assert (boxes[:, 1] + boxes[:, 3]).max() <= size[1]
        error = (boxes.mean(0) - truth.mean(0)).abs() / (boxes.std(0) * math.sqrt(2 / count))
        assert error.max() < 4.5, error


def test_crop_fallback_is_the_centred_square() -> None:
    boxes = augment.draw_crops(3, (20, 31), (3.0, 4.0), (1.0, 1.0), torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 5, 20, 20]] * 3


def test_resized_crop_matches_interpolate_and_full_boxes_are_the_identity() -> None:
    images = pictures(2, 12, 16)
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    boxes = torch.tensor([[0, 0, 12, 16], [3, 2, 7, 9]], dtype=torch.int32)
    out = augment.resized_crop(images, boxes, normalization)
    torch.testing.assert_close(out[0], augment.normalize(images[:1], normalization)[0], rtol=1e-5, atol=1e-5)
    part = images[1:, 3:10, 2:11].permute(0, 3, 1, 2).double() / 255
    resized = torch.nn.functional.interpolate(part, (12, 16), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (normalization.mean, normalization.std))
    torch.testing.assert_close(out[1].double(), ((resized - mean) / std)[0], rtol=1e-4, atol=1e-5)
