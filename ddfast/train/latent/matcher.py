"""D3's loop over one block: latent priors and their decoder, matched to trajectories and to features in turn.

Qin et al., "Distributional Dataset Distillation with Subtask Decomposition" (arXiv 2403.00999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops
from ddfast.nets.decoder import Decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, MatchGraphs
from ddfast.train.adjoint.step import float32
from ddfast.train.config import NonFiniteLossError
from ddfast.train.latent.decoding import DecodedDraws, statistics_stay
from ddfast.train.latent.draws import D3Draws, Draw
from ddfast.train.latent.mmd_term import FeatureTerm
from ddfast.train.latent.real_pictures import RealDraws, RealPictures
from ddfast.train.trajectories import TrajectoryStore

_FLOOR, _SLOPE = 1e-4, 0.01  # of the rate as a function of the number that is learned
# Bytes of real pictures' features that are kept.
_FEATURES = {"cpu": 1 << 30}
_FEATURES_ELSEWHERE = 8 << 30
_KEPT = "the state before it is kept. Start anew in another folder with"


@dataclass(frozen=True)
class D3Settings:
    """Of the loop, under the names of D3's options. ``stream`` begins the names of all random streams.

    ``draws`` samples of each prior take part in the MMD. ``chunk`` bounds the pictures whose activations are alive at a
    time in the decoder's backward pass and in the features; None for what suits the device.
    """

    iterations: int = 10_000
    mtt_weight: float = 1.0
    mmd_weight: float = 1.0
    sampling: bool = True
    syn_steps: int = 10
    expert_epochs: int = 2
    max_start_epoch: int = 27
    batch_syn: int | None = None
    lr_latent: float = 3e-4
    lr_decoder: float = 3e-4
    lr_lr: float = 1e-6
    lr_teacher: float = 0.01
    momentum: float = 0.5
    weight_decay: float = 1e-5
    draws: int = 30
    bandwidths: str = "paper"
    mmd_features: str = "final"
    precision: str = "fp32"
    memory: str = "store"
    chunk: int | None = None
    seed: int = 0
    stream: str = "d3"


class D3Matcher:
    """A `ddfast.train.matching.Matcher`: each iteration is one update of latents, decoder and the student's rate
    against the trajectory-matching loss, then one of latents and decoder against the MMD of features.

    **Trajectories**: from an expert's weights of a random epoch a student takes ``syn_steps`` steps, each on the next
    ``batch_syn`` priors of a random order, freshly sampled and decoded in one call, with hard labels and without
    augmentation, at the rate ``LeakyReLU(syn_lr) + 1e-4``; the loss is ``|theta_N - theta*|^2 / |theta_0 - theta*|^2``.
    **Features**: under another expert (at its end, or with ``mmd_features`` "target" at the epoch ``max_start_epoch +
    expert_epochs``), ``draws`` samples of every prior (a draw of all priors is decoded in one call) are compared with
    as many random real pictures of each class; the loss is the sum of the classes' MMDs.

    SGD with momentum moves latents and ``syn_lr``, Adam (L2 ``weight_decay``) the decoder; both updates share their
    states. Gradients are exact; decoded pictures are leaves of every graph, see `DecodedDraws`.

    Args:
        net: the students' and experts' architecture.
        store: finished experts.
        settings: of the loop.
        latents: float [classes * lpc, z, 2], class by class.
        labels: int64 [classes * lpc], 0 .. classes - 1.
        decoder: at the start; it is trained in place.
        real: pictures of the same classes. Latents and decoder are on their device.

    Raises:
        ValueError: labels that are not equally many of each class in order, a class with too few real pictures, or
            experts that are too short.
    """

    def __init__(
        self, net: FlatConvNet, store: TrajectoryStore, settings: D3Settings, latents: Tensor, labels: Tensor,
        decoder: Decoder, real: RealPictures,
    ) -> None:  # fmt: skip
        self.net, self.store, self.settings, self.real = net, store, settings, real
        self.labels, self.decoder = labels, decoder.train()
        self.draws = D3Draws(
            settings.seed, settings.stream, len(labels), latents.shape[1], settings.sampling, latents.device
        )
        self.classes, self.lpc = net.num_classes, len(labels) // max(net.num_classes, 1)
        self._check()
        self.latents = latents.detach().clone().requires_grad_()
        self.syn_lr = latents.new_tensor(settings.lr_teacher).requires_grad_()
        self.iteration, self.iterations = 0, settings.iterations
        # of both terms, NaN where one is left out
        self.history = torch.full((settings.iterations, 2), math.nan)
        momentum = settings.momentum
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "latents": torch.optim.SGD([self.latents], settings.lr_latent, momentum),
            "syn_lr": torch.optim.SGD([self.syn_lr], settings.lr_lr, momentum),
            "decoder": torch.optim.Adam(
                decoder.parameters(), settings.lr_decoder, weight_decay=settings.weight_decay
            ),
        }  # fmt: skip
        self.match = MatchGraphs(net, memory=settings.memory, precision=settings.precision)
        if settings.mmd_weight:
            self.term = FeatureTerm(
                net, self.classes, self.lpc, chunk=settings.chunk, precision=settings.precision,
                bandwidths=None if settings.bandwidths == "median" else ops.MMD_BANDWIDTHS,
            )  # fmt: skip
            self.reals = RealDraws(
                real.labels, self.classes, settings.draws * self.lpc, seed=settings.seed,
                stream=f"{settings.stream}/real",
            )  # fmt: skip
        self._known: dict[int, Tensor] = {}

    def advance(self) -> float:
        """One iteration; returns the sum of both terms, weighted.

        Raises:
            NonFiniteLossError: a loss or a gradient is not finite, or the learned rate is no longer positive; the state
                is that of the iteration before.
        """
        settings, before = self.settings, _copied(self.state_dict())
        losses = [math.nan, math.nan]
        try:
            with float32(settings.precision):
                if settings.mtt_weight:
                    losses[0] = self._trajectory_update()
                if settings.mmd_weight:
                    losses[1] = self._feature_update()
        except NonFiniteLossError:
            self.load_state_dict(before)
            raise
        self.history[self.iteration] = torch.tensor(losses)
        self.iteration += 1
        weights = (settings.mtt_weight, settings.mmd_weight)
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if weight)

    @property
    def keeps_features(self) -> bool:
        """Whether the features of all real pictures are made once for each expert: where that is half the work or less,
        and they fit (1 GB, on a GPU 8). The extractors are then the experts at their end, without batch norm."""
        settings, count, net = self.settings, len(self.real.labels), self.net
        if not settings.mmd_weight or settings.mmd_features != "final" or net.norm == "batch":
            return False
        drawn = settings.iterations * self.classes * self.reals.count
        numbers = len(self.store) * count * net.width * net.side**2
        limit = _FEATURES.get(self.latents.device.type, _FEATURES_ELSEWHERE)
        return drawn >= 2 * count * len(self.store) and numbers * self.latents.element_size() <= limit

    def rate(self) -> Tensor:
        """The student's learning rate, a scalar: ``LeakyReLU(syn_lr) + 1e-4``."""
        return F.leaky_relu(self.syn_lr.detach(), _SLOPE) + _FLOOR

    def trajectory_gradient(self) -> float:
        """Loss of this iteration's student; its gradients are added to ``grad`` of latents, decoder and rate."""
        settings = self.settings
        expert, epoch = self._drawn(0)
        draws = self.draws.batches(self.iteration, settings.syn_steps, settings.batch_syn or len(self.labels))
        decoded = DecodedDraws(self.decoder, self.latents, draws, settings.chunk)
        places = torch.arange(len(decoded.pictures)).split([len(draw.rows) for draw in draws])
        labels = self.labels[torch.cat([draw.rows for draw in draws]).to(self.labels.device)]
        match = self.match(
            self._theta(expert, epoch), self._theta(expert, epoch + settings.expert_epochs), decoded.pictures, labels,
            self.rate(), [InnerStep(index) for index in places],
        )  # fmt: skip
        decoded.backward(match.images * settings.mtt_weight)
        slope = torch.where(self.syn_lr.detach() > 0, 1.0, _SLOPE)
        self.syn_lr.grad = (match.lr * slope * settings.mtt_weight).to(self.syn_lr)
        return float(match.loss)

    def feature_gradient(self) -> float:
        """Sum of the classes' MMDs; its gradients are added to ``grad`` of latents and decoder."""
        settings = self.settings
        draws = self.draws.samples(self.iteration, settings.draws)
        decoded = DecodedDraws(self.decoder, self.latents, draws, settings.chunk)
        (expert, _), target = self._drawn(1), settings.max_start_epoch + settings.expert_epochs
        theta = self._theta(expert, target if settings.mmd_features == "target" else self.store.epochs)
        if self.keeps_features and expert not in self._known:
            self._known[expert] = self.term.known(theta, self.real)
        rows = self.reals.rows(self.iteration)
        found = self.term(theta, decoded.pictures, self.real, rows, self._known.get(expert))
        decoded.backward(found.pictures * settings.mmd_weight)
        return float(found.loss)

    def state_dict(self) -> dict[str, Any]:
        """See `ddfast.train.matching.Matcher`."""
        return {
            "latents": self.latents.detach(),
            "syn_lr": self.syn_lr.detach(),
            "decoder": dict(self.decoder.state_dict()),
            "optimizers": {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()},
            "history": self.history,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ddfast.train.matching.Matcher`.

        Raises:
            ValueError: latents of another shape.
            RuntimeError: another decoder.
        """
        if state["latents"].shape != self.latents.shape:
            raise ValueError(
                f"state: got latents of shape {list(state['latents'].shape)}, expected {list(self.latents.shape)}"
            )
        with torch.no_grad():
            self.latents.copy_(state["latents"])
            self.syn_lr.copy_(state["syn_lr"])
        self.decoder.load_state_dict(state["decoder"])
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["optimizers"][name], "param_groups": groups})
        self.history = state["history"].cpu().clone()
        self.iteration = int(state["iteration"])

    def stored(self) -> tuple[Tensor, Tensor]:
        """The decoded means, and their classes."""
        return self._shown(Draw(torch.arange(len(self.labels)), None)), self.labels

    def student_set(self) -> tuple[Tensor, Tensor]:
        """The decoded means and, where there is sampling, as many samples."""
        means, labels = self.stored()
        if not self.settings.sampling:
            return means, labels
        return torch.cat([means, *self.samples(1)]), torch.cat([labels, labels])

    def samples(self, count: int) -> list[Tensor]:
        """Pictures of samples of each prior, ``count`` times [n, 3, S, S], to look at or to train students on."""
        return [self._shown(draw) for draw in self.draws.samples(self.iteration, count, "students")]

    def learned_lr(self) -> float | None:
        """The student's rate; None without trajectory matching."""
        return float(self.rate()) if self.settings.mtt_weight else None

    def _trajectory_update(self) -> float:
        self._zero()
        loss = self.trajectory_gradient()
        self._step("trajectory", loss, "latents", "syn_lr", "decoder")
        rate = float(self.rate())
        if not 0 < rate < math.inf:
            raise NonFiniteLossError(
                f"{self._where()}: the student's learning rate became {rate:.3g}, expected a positive number; {_KEPT} "
                "a lower lr_lr"
            )
        return loss

    def _feature_update(self) -> float:
        self._zero()
        loss = self.feature_gradient()
        self._step("feature (MMD)", loss, "latents", "decoder")
        return loss

    def _step(self, term: str, loss: float, *names: str) -> None:
        gradients = [p.grad for p in (self.latents, self.syn_lr, *self.decoder.parameters()) if p.grad is not None]
        finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        if not math.isfinite(loss) or not finite:
            what = f"loss became {loss}" if not math.isfinite(loss) else f"loss is {loss:.3g}, its gradient not finite"
            raise NonFiniteLossError(
                f"{self._where()}: the {term} {what}; {_KEPT} a lower lr_latent, lr_decoder or lr_teacher"
            )
        for name in names:
            self.optimizers[name].step()

    def _zero(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def _where(self) -> str:
        (expert, epoch), (other, _) = self._drawn(0), self._drawn(1)
        return f"iteration {self.iteration + 1} (experts {expert} and {other}, start epoch {epoch})"

    def _drawn(self, term: int) -> tuple[int, int]:
        """This iteration's expert for a term, and the epoch to start from."""
        expert = self.draws.expert(self.iteration, term, len(self.store))
        return expert, self.draws.epoch(self.iteration, self.settings.max_start_epoch)

    def _theta(self, expert: int, epoch: int) -> Tensor:
        return self.store.snapshot(expert, epoch).to(self.latents)

    def _shown(self, draw: Draw) -> Tensor:
        with torch.no_grad(), statistics_stay(self.decoder):
            return DecodedDraws(self.decoder, self.latents, [draw], 1).pictures

    def _check(self) -> None:
        settings, classes = self.settings, self.classes
        expected = torch.arange(classes).repeat_interleave(self.lpc)
        if not self.lpc or not torch.equal(self.labels.cpu(), expected):
            raise ValueError(
                f"labels: got {self.labels.tolist()[:20]}, expected equally many of each of the {classes} classes, "
                "class by class"
            )
        target = bool(settings.mmd_weight) and settings.mmd_features == "target"
        last = settings.max_start_epoch - (not target) + settings.expert_epochs
        if (settings.mtt_weight or target) and last > self.store.epochs:
            raise ValueError(
                f"max_start_epoch: got {settings.max_start_epoch} with expert_epochs {settings.expert_epochs}, which "
                f"need experts of {last} epochs; these have {self.store.epochs}"
            )


def _copied(value: Any) -> Any:
    """A state that later updates leave alone."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
