from __future__ import annotations

import torch

from ddfast._types import IMAGENET, Normalization
from ddfast.ops import augment_batch
from ddfast.train import augment
from ddfast.train.views import ViewConfig, draw_views


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


def test_plain_views_are_the_normalized_pictures() -> None:
    images = pictures(6, 8, 9)
    view = ViewConfig((8, 9))
    index = torch.tensor([4, 0, 5])
    out = augment.render(images, draw_views(view, (8, 9), 0, 0, 0, index), view, IMAGENET)
    torch.testing.assert_close(out, augment.normalize(images[index], IMAGENET), rtol=1e-5, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_render_passes_the_draws_on() -> None:
    images = pictures(20, 12, 16)
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    for mix in ("cutmix", "mixup"):
        view = ViewConfig((10, 11), factor=2, scale=(0.2, 1.0), flip=True, shift=2, mix=mix)
        draws = draw_views(view, (12, 16), 3, 1, 2, torch.arange(3, 19))
        out = augment.render(images, draws, view, normalization, dtype=torch.float64)
        wanted = augment_batch(
            images, *draws.tensors(), draws.share, size=(10, 11), mean=normalization.mean, std=normalization.std,
            mixup=mix == "mixup", dtype=torch.float64,
        )  # fmt: skip
        assert torch.equal(out, wanted)
