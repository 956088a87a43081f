"""D3 written out plainly: a graph of everything through torch's layers, class by class, torch's own optimisers.

The baseline of benchmarks and, in float64, what ddfast's loop is tested against. Only the draws are ddfast's, so that
both do the same work on the same samples.

Qin et al., "Distributional Dataset Distillation with Subtask Decomposition" (arXiv 2403.00999).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.decoder import Decoder, make_decoder
from ddfast.train.latent.matcher import D3Matcher

BANDWIDTHS = (1, 2, 4, 8, 16)


def mmd(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """The unbiased squared MMD of one class's features [n, d] and [m, d]."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(2)
        return torch.stack([(-squares / (2 * s * s)).exp() for s in bandwidths]).sum(0)

    def own(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return own(x) + own(y) - 2 * kernel(x, y).mean()


class D3Reference:
    """D3's two updates an iteration, starting where ``ours`` stands and on its draws."""

    def __init__(self, ours: D3Matcher) -> None:
        self.ours, config = ours, ours.settings
        self.decoder: Decoder = make_decoder(ours.decoder.config, 0, "reference").to(ours.latents)
        self.decoder.load_state_dict(ours.decoder.state_dict())
        # running mean and variance of each batch norm, None where there are none
        self.running = [(norm.running_mean, norm.running_var) for norm in self.decoder.norms]
        self.latents = ours.latents.detach().clone().requires_grad_()
        self.syn_lr = ours.syn_lr.detach().clone().requires_grad_()
        self.of_latents = torch.optim.SGD([self.latents], config.lr_latent, momentum=config.momentum)
        self.of_rate = torch.optim.SGD([self.syn_lr], config.lr_lr, momentum=config.momentum)
        self.of_decoder = torch.optim.Adam(self.decoder.parameters(), config.lr_decoder, weight_decay=1e-5)

    def decode(self, rows: Tensor, eps: Tensor | None) -> Tensor:
        """Pictures of one draw: one batch of the decoder's batch norm."""
        mean, log_variance = self.latents[rows].unbind(2)
        x, weights, config = mean, dict(self.decoder.named_parameters()), self.decoder.config
        if eps is not None:
            x = mean + (0.5 * log_variance).exp() * eps.to(mean)
        if config.kind != "large":
            x = F.linear(x, weights["first.weight"], weights["first.bias"])
        x = x.reshape(len(x), -1, 2, 2)
        for place in range(len(config.widths) - 1):
            block = f"blocks.{place}"
            x = F.conv_transpose2d(
                x, weights[f"{block}.conv.weight"], weights[f"{block}.conv.bias"], stride=2, padding=1,
                output_padding=0 if config.kind == "small" else 1,
            )  # fmt: skip
            norm = [weights[f"{block}.norm.{name}"] for name in ("weight", "bias")]
            x = F.leaky_relu(F.batch_norm(x, *self.running[place], *norm, training=True), 0.01)
        return torch.tanh(F.conv2d(x, weights["head.weight"], weights["head.bias"], padding=1)) * config.scale

    def theta(self, expert: int, epoch: int) -> Tensor:
        """An expert's snapshot."""
        return self.ours.store.snapshot(expert, epoch).to(self.latents)

    def trajectory_loss(self, iteration: int) -> Tensor:
        """Of a student trained on fresh samples, with the graph of all its steps."""
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
        """Sum over the classes of the MMD between samples and real pictures, one class after the other."""
        ours, config, draws = self.ours, self.ours.settings, self.ours.draws
        last = ours.store.epochs
        if config.mmd_features == "target":
            last = config.max_start_epoch + config.expert_epochs
        theta = self.theta(draws.expert(iteration, 1, len(ours.store)), last)
        pictures = [self.decode(draw.rows, draw.eps) for draw in draws.samples(iteration, config.draws)]
        loss = self.latents.new_zeros(())
        for label, rows in enumerate(ours.reals.rows(iteration)):
            with torch.no_grad():
                real = ours.net.features(theta, ours.real.pick(rows, self.latents.dtype).contiguous())
            x = torch.cat([each[ours.labels == label] for each in pictures])
            loss = loss + mmd(ours.net.features(theta, x), real)
        return loss

    def advance(self, iteration: int) -> float:
        """Both updates; the weighted sum of their losses."""
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
