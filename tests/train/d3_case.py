"""A tiny D3 problem, and D3's iteration written out in plain torch: class by class, through one graph of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.latent.bank import initial_latents
from ddfast.train.latent.matcher import D3Matcher, D3Settings
from ddfast.train.latent.mmd_term import RealPictures
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
    store: TrajectoryStore, *, dtype: torch.dtype = torch.float64, batch_norm: str = "batch", **changes: Any
) -> D3Matcher:
    """Two priors of each of three classes, and 5 to 9 real pictures of each."""
    decoder = make_decoder(DecoderConfig(size=16, z=5, kernels=8, batch_norm=batch_norm), 1, "test").to(dtype)
    latents = initial_latents(3, 2, 5, seed=1, stream="test").to(dtype)
    labels = torch.arange(3).repeat_interleave(torch.tensor([5, 9, 7]))
    pictures = torch.randn(21, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return D3Matcher(
        NET, store, D3Settings(**{**SETTINGS, **changes}), latents, torch.arange(3).repeat_interleave(2), decoder,
        RealPictures(pictures + labels[:, None, None, None], labels),
    )  # fmt: skip


def transcribed_mmd(x: Tensor, y: Tensor, bandwidths: tuple[float, ...] = (1, 2, 4, 8, 16)) -> Tensor:
    """Unbiased, of one class: [n, d] and [m, d]."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(2)
        return torch.stack([(-squares / (2 * s * s)).exp() for s in bandwidths]).sum(0)

    def own(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - kernel(a, a).diagonal().sum()) / (len(a) * (len(a) - 1))

    return own(x) + own(y) - 2 * kernel(x, y).mean()


class Transcription:
    """D3 as its program goes, on the draws of ``ours``: create_graph, a Python loop over classes, torch's optimisers."""

    def __init__(self, ours: D3Matcher) -> None:
        self.ours, config = ours, ours.settings
        self.decoder = make_decoder(ours.decoder.config, 1, "test").to(ours.latents)
        self.decoder.load_state_dict(ours.decoder.state_dict())
        self.latents = ours.latents.detach().clone().requires_grad_()
        self.syn_lr = ours.syn_lr.detach().clone().requires_grad_()
        self.of_latents = torch.optim.SGD([self.latents], config.lr_latent, momentum=0.5)
        self.of_rate = torch.optim.SGD([self.syn_lr], config.lr_lr, momentum=0.5)
        self.of_decoder = torch.optim.Adam(self.decoder.parameters(), config.lr_decoder, weight_decay=1e-5)

    def decode(self, rows: Tensor, eps: Tensor | None) -> Tensor:
        mean, log_variance = self.latents[rows].unbind(2)
        if eps is None:
            return self.decoder(mean)
        return self.decoder(mean + (0.5 * log_variance).exp() * eps.to(mean))

    def theta(self, expert: int, epoch: int) -> Tensor:
        return self.ours.store.snapshot(expert, epoch).to(self.latents)

    def trajectory_loss(self, iteration: int) -> Tensor:
        ours, config, draws = self.ours, self.ours.settings, self.ours.draws
        expert, epoch = draws.expert(iteration, 0, len(ours.store)), draws.epoch(iteration, config.max_start_epoch)
        start, target = self.theta(expert, epoch), self.theta(expert, epoch + config.expert_epochs)
        theta = start.clone().requires_grad_()
        for draw in draws.batches(iteration, config.syn_steps, config.batch_syn or len(ours.labels)):
            x = self.decode(draw.rows, draw.eps)
            loss = F.cross_entropy(ours.net.logits(theta, x), ours.labels[draw.rows])
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - (F.leaky_relu(self.syn_lr) + 1e-4) * gradient
        return (theta - target).square().sum() / (start - target).square().sum()

    def feature_loss(self, iteration: int) -> Tensor:
        ours, config, draws = self.ours, self.ours.settings, self.ours.draws
        last = ours.store.epochs
        if config.mmd_features == "target":
            last = draws.epoch(iteration, config.max_start_epoch) + config.expert_epochs
        theta = self.theta(draws.expert(iteration, 1, len(ours.store)), last)
        pictures = [self.decode(draw.rows, draw.eps) for draw in draws.samples(iteration, config.draws)]
        loss = self.latents.new_zeros(())
        for label, rows in enumerate(ours.reals.rows(iteration)):
            real = ours.real.pick(rows, self.latents.dtype)
            x = torch.cat([each[ours.labels == label] for each in pictures])
            loss = loss + transcribed_mmd(ours.net.features(theta, x), ours.net.features(theta, real).detach())
        return loss

    def advance(self, iteration: int) -> float:
        config, total = self.ours.settings, 0.0
        for weight, term, optimizers in (
            (config.mtt_weight, self.trajectory_loss, (self.of_latents, self.of_rate, self.of_decoder)),
            (config.mmd_weight, self.feature_loss, (self.of_latents, self.of_decoder)),
        ):
            if not weight:
                continue
            for optimizer in (self.of_latents, self.of_rate, self.of_decoder):
                optimizer.zero_grad()
            loss = weight * term(iteration)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.item()
        return total
