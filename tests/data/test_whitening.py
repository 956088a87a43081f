"""ZCA: whitens, inverts, and is the formula of the field."""

from __future__ import annotations

import pytest
import torch

from ddfast.data.whitening import ZCA


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(200, 3, 2, 2, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    noise = torch.rand(200, 3, 4, 4, generator=generator) * 0.2
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_formula(images: torch.Tensor) -> None:
    zca = ZCA.fit(images)
    rows = images.permute(0, 3, 1, 2).reshape(200, -1).double() / 255
    centred = rows - rows.mean(0)
    u, s, _ = torch.linalg.svd(centred.T @ centred / 199)
    want = centred @ (u @ torch.diag((s + 0.1).rsqrt()) @ u.T)
    torch.testing.assert_close(zca.apply(images).reshape(200, -1).double(), want, rtol=1e-5, atol=1e-5)


def test_inverse(images: torch.Tensor) -> None:
    zca = ZCA.fit(images)
    back = zca.invert(zca.apply(images)) * 255
    assert torch.equal(back.round().to(torch.uint8), images)


def test_covariance_becomes_flat(images: torch.Tensor) -> None:
    white = ZCA.fit(images, eps=1e-6).apply(images).reshape(200, -1).double()
    covariance = torch.cov(white.T)
    torch.testing.assert_close(covariance, torch.eye(48).double(), rtol=0, atol=2e-2)


def test_one_picture_is_not_enough(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images: got 1"):
        ZCA.fit(images[:1])
