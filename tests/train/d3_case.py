"""A tiny D3 problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.latent.bank import initial_latents
from ddfast.train.latent.matcher import D3Matcher, D3Settings
from ddfast.train.latent.real_pictures import RealPictures
from ddfast.train.trajectories import TrajectoryStore

NET = FlatConvNet(num_classes=3, input_size=16, depth=2, width=8)
SETTINGS: dict[str, Any] = {
    "iterations": 3, "syn_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "batch_syn": 4, "lr_latent": 0.5,
    "lr_decoder": 1e-3, "lr_lr": 1e-4, "lr_teacher": 0.05, "draws": 3, "mmd_weight": 0.7, "mtt_weight": 1.3,
}  # fmt: skip


def store_of(path: Path) -> TrajectoryStore:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(24, 3, 16, 16, generator=generator), torch.arange(24) % 3
    return train_experts(NET, images, labels, ExpertConfig(3, 3, 8, 0.05, dsa=""), path, quiet=True)


def matching(
    store: TrajectoryStore, *, dtype: torch.dtype = torch.float64, batch_norm: str = "batch", scale: float = 1.0,
    norm: str = "instance", **changes: Any,
) -> D3Matcher:  # fmt: skip
    """Two priors of each of three classes, and 5 to 9 real pictures of each."""
    decoder = make_decoder(DecoderConfig(size=16, z=5, kernels=8, scale=scale, batch_norm=batch_norm), 1, "test").to(
        dtype
    )
    latents = initial_latents(3, 2, 5, seed=1, stream="test").to(dtype)
    labels = torch.arange(3).repeat_interleave(torch.tensor([5, 9, 7]))
    pictures = torch.randn(21, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return D3Matcher(
        replace(NET, norm=norm), store, D3Settings(**{**SETTINGS, **changes}), latents,
        torch.arange(3).repeat_interleave(2), decoder, RealPictures(pictures + labels[:, None, None, None], labels),
    )  # fmt: skip
