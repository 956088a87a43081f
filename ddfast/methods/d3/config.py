"""D3's settings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ddfast.methods._matching_config import TESTS, MatchingConfig, check_ranges
from ddfast.methods._options import option
from ddfast.methods.d3.split import check_split, parse_only
from ddfast.nets.convnet import NORMS
from ddfast.nets.decoder_config import BATCH_NORMS, KINDS
from ddfast.train.adjoint.step import PRECISIONS
from ddfast.train.adjoint.unroll import MEMORIES
from ddfast.train.dsa import STRATEGY
from ddfast.train.experts import ExpertConfig

if TYPE_CHECKING:
    from ddfast.nets.decoder import DecoderConfig

BANDWIDTHS = ("paper", "median")
FEATURES = ("final", "target")
SOFT_LABELS = ("expert", "none")
STORAGES = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class D3Config:
    """Settings that decide what is distilled (D3: Qin et al., 2024, arXiv 2403.00999).

    Each class is kept as ``lpc`` priors, diagonal Gaussians over the input of a decoder that all classes of a block
    share. An iteration moves means, log-variances and decoder twice: against the trajectory-matching loss of a student
    trained on fresh samples, then against the sum over classes of the MMD between features of samples and of real
    pictures. Blocks of classes are distilled apart and put together afterwards.
    """

    blocks: int = option(1, "parts the classes are split into, each distilled on its own")
    split: str = option(
        "contiguous", "how: contiguous (the paper's), random, confusion (classes that are alike together), or the "
        "classes of each block such as 0-4/5,7,9/6,8, or a .json file with a list of blocks",
    )  # fmt: skip
    only_blocks: str | None = option(
        None, "run these alone, such as 0,2 (several machines take some each), or none: only merge those that are there"
    )
    lpc: int = option(1, "priors (Gaussians) of each class")
    decoder: str = option("small", "small, medium or large")
    z: int | None = option(None, "numbers in a latent (default: the decoder's own)")
    kernels: int = option(256, "channels of the small decoder's first planes")
    scale: float = option(1.0, "decoded pixels are scale * tanh(.) in normalised space; the paper's is 1")
    batch_norm: str = option("batch", "of the decoder: batch (statistics of each call, the paper's) or running")
    size: int = option(32, "side of the pictures in pixels")
    depth: int = option(3, "blocks of the ConvNet")
    width: int = option(128, "channels of the ConvNet")
    norm: str = option("instance", "its norm: instance, batch, group or none")
    iterations: int = option(10_000, "each one update for trajectories and one for features")
    mtt_weight: float = option(1.0, "of trajectory matching; 0 leaves it out")
    mmd_weight: float = option(1.0, "of feature matching (MMD); 0 leaves it out")
    sampling: bool = option(True, "train on samples; otherwise on the means alone")
    syn_steps: int = option(10, "steps of the student in an iteration")
    expert_epochs: int = option(2, "epochs between the expert's two snapshots")
    max_start_epoch: int = option(27, "epoch before which an iteration starts")
    batch_syn: int | None = option(None, "priors a step (default: all of the block)")
    lr_latent: float = option(3e-4, "learning rate of means and log-variances (SGD)")
    lr_decoder: float = option(3e-4, "learning rate of the decoder (Adam)")
    lr_lr: float = option(1e-6, "learning rate of the student's learning rate")
    lr_teacher: float = option(0.01, "the student's learning rate at the start, less 1e-4")
    momentum: float = option(0.5, "of latents and of the student's learning rate")
    mmd_samples: int = option(30, "samples, and real pictures, of each class in the MMD")
    bandwidths: str = option("paper", "of its kernel: paper (1, 2, 4, 8, 16) or median (from the features' distances)")
    mmd_features: str = option(
        "final", "whose: final (an expert at its end) or target (at epoch max_start_epoch + expert_epochs)"
    )
    experts: int = option(100, "expert trajectories of each block")
    expert_train_epochs: int = option(29, "epochs each expert is trained for")
    expert_lr: float = option(0.01, "learning rate of the experts")
    expert_batch: int = option(256, "pictures a step of the experts")
    dsa: str = option(STRATEGY, "augmentations of experts and students, one drawn a batch; empty for none")
    soft_labels: str = option("expert", "labels over all classes from an expert of all classes, or none")
    label_epoch: int = option(9, "epoch at which that expert gives them")
    label_experts: int = option(1, "experts whose predictions are averaged")
    label_buffers: str | None = option(
        None, "folder of trained experts of all classes, or of replay_buffer_*.pt (default: train them)"
    )
    storage: str = option("fp32", "of latents and decoders: fp32, fp16 or int8")
    precision: str = option("fp32", "of the ConvNet's convolutions: fp32, tf32 (GPUs) or bf16")
    memory: str = option("store", "store each step's activations, or recompute them")
    chunk: int | None = option(
        None, "pictures of the MMD whose activations are alive at a time (default: the device's)"
    )
    test: str = option("split", "tests on the way: split (on held-out training pictures) or none")
    holdout: float = option(0.1, "share of the training pictures held out for test=split")
    eval_every: int = option(1000, "iterations between two tests")
    eval_students: int = option(1, "students of each test")
    eval_epochs: int = option(300, "epochs of each")
    seed: int = option(0, "of every draw")
    preset: str | None = option(None, "the preset's name", cli=False)

    counts: ClassVar[tuple[str, ...]] = (
        "blocks", "lpc", "kernels", "iterations", "syn_steps", "expert_epochs", "max_start_epoch", "mmd_samples",
        "experts", "expert_train_epochs", "expert_batch", "label_epoch", "label_experts", "eval_every",
        "eval_students", "eval_epochs",
    )  # fmt: skip
    optional_counts: ClassVar[tuple[str, ...]] = ("z", "batch_syn", "chunk")
    rates: ClassVar[tuple[str, ...]] = ("lr_latent", "lr_decoder", "lr_teacher", "expert_lr", "scale")
    weights: ClassVar[tuple[str, ...]] = ("mtt_weight", "mmd_weight", "lr_lr")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "decoder": KINDS, "batch_norm": BATCH_NORMS, "norm": NORMS, "bandwidths": BANDWIDTHS, "mmd_features": FEATURES,
        "memory": MEMORIES, "soft_labels": SOFT_LABELS, "storage": STORAGES, "precision": PRECISIONS, "test": TESTS,
    }  # fmt: skip
    # fields that do not change what comes out
    indifferent: ClassVar[tuple[str, ...]] = ("preset", "only_blocks", "memory", "chunk")

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in self.optional_counts:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: got {value!r}, expected 1 or more")
        for name in self.weights:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 0 or a positive number")
        check_split(self.split)
        if self.only_blocks is not None:
            parse_only(self.only_blocks)
        self._check_terms()
        self.decoder_config()  # refuses what there is no decoder for

    def _check_terms(self) -> None:
        if not self.mtt_weight and not self.mmd_weight:
            raise ValueError("mtt_weight, mmd_weight: got 0 for both, expected at least one term")
        if self.mmd_weight and self.sampling and self.draws * self.lpc < 2:
            raise ValueError(
                f"mmd_samples: got {self.mmd_samples} with lpc {self.lpc}, expected 2 or more (the MMD compares a "
                "class's samples with each other)"
            )
        target = bool(self.mmd_weight) and self.mmd_features == "target"
        last = self.max_start_epoch - (not target) + self.expert_epochs
        if (self.mtt_weight or target) and last > self.expert_train_epochs:
            raise ValueError(
                f"max_start_epoch: got {self.max_start_epoch} with expert_epochs {self.expert_epochs}; an iteration "
                f"would look at epoch {last}, but experts are trained for {self.expert_train_epochs}"
            )

    @property
    def ipc(self) -> int:
        """Rows of the distilled set for each class."""
        return self.lpc

    @property
    def draws(self) -> int:
        """Samples of each prior in the MMD: ``mmd_samples // lpc``, at least 1."""
        return max(1, self.mmd_samples // self.lpc)

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in self.indifferent}

    def decoder_config(self) -> DecoderConfig:
        """Of each block's decoder.

        Raises:
            ValueError: there is none of this kind and size.
        """
        from ddfast.nets.decoder import DecoderConfig

        return DecoderConfig(self.decoder, self.size, self.z, self.kernels, self.scale, self.batch_norm)

    def expert_config(self) -> ExpertConfig:
        """How the experts of a block are trained."""
        return ExpertConfig(
            self.experts, self.expert_train_epochs, self.expert_batch, self.expert_lr, self.dsa, self.precision,
            self.seed,
        )  # fmt: skip

    def label_expert_config(self) -> ExpertConfig:
        """How the experts of all classes are trained that give soft labels."""
        return ExpertConfig(
            self.label_experts, self.label_epoch, self.expert_batch, self.expert_lr, self.dsa, self.precision,
            self.seed,
        )  # fmt: skip

    def matching_config(self) -> MatchingConfig:
        """What `Problem` and `Loop` read."""
        return MatchingConfig(
            ipc=self.lpc, size=self.size, depth=self.depth, width=self.width, norm=self.norm, zca=False,
            iterations=self.iterations, momentum=self.momentum, dsa=self.dsa, precision=self.precision,
            test=self.test, holdout=self.holdout, eval_every=self.eval_every, eval_students=self.eval_students,
            eval_epochs=self.eval_epochs, seed=self.seed, preset=self.preset,
        )  # fmt: skip
