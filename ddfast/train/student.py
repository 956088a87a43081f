"""Student training on a distilled set with live teacher labels, as RDED evaluates (arXiv 2312.03526, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast import ops
from ddfast._types import IMAGENET, Normalization
from ddfast.nets.checkpoints import fingerprint
from ddfast.store import LabelStore, TopKLabels, set_fingerprint
from ddfast.train import augment, loop
from ddfast.train.cutmix import apply_cutmix, draw_cutmix
from ddfast.train.dsa import apply_dsa, draw_dsa, parse_strategy
from ddfast.train.idc_augment import apply_idc, draw_idc
from ddfast.train.loop import Batch, LoopOptions, Objective, OnProgress, TrainConfig, TrainReport
from ddfast.train.optimizers import Gathered
from ddfast.train.replay import Replay
from ddfast.train.supervised import check_set, to_best_format
from ddfast.train.views import ViewConfig, draw_views


@dataclass(frozen=True)
class StudentConfig(TrainConfig):
    """RDED's student recipe; the defaults are the paper's for ResNet-18 at ten classes and IPC 10.

    ``factor`` is the mosaic's: strips are shuffled and crops cover at least 1/factor of the area; with factor 1 both
    are the identity. ``crop`` is the range of area shares of the crops where it is another. ``dsa`` is a strategy of
    `ddfast.train.dsa`, applied after everything else; "" for none. ``idc`` is one of `ddfast.train.idc_augment` in its
    stead, and ``cutmix_share`` the share of batches with CutMix after it, as IDC's students have. ``parity`` runs
    RDED's own program with its own draws (`ddfast.train.parity`), slowly. ``bn_twice`` reproduces the original's second
    batch-norm update a step (a throw-away forward of the same batch) through the momentum 1 - (1 - m)**2, without the
    forward.
    """

    epochs: int = 300
    batch_size: int = 50
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "half_cosine"
    flip: bool = True
    factor: int = 1
    cutmix_alpha: float = 1.0
    temperature: float = 20.0
    bn_twice: bool = True
    crop: tuple[float, float] | None = None
    dsa: str = ""
    idc: str = ""
    cutmix_share: float = 0.0
    parity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1:
            raise ValueError(f"factor: got {self.factor!r}, expected 1 or more")
        if self.cutmix_alpha < 0:
            raise ValueError(f"cutmix_alpha: got {self.cutmix_alpha!r}, expected 0 (off) or a positive number")
        if not self.temperature > 0:
            raise ValueError(f"temperature: got {self.temperature!r}, expected a positive number")
        for strategy in filter(None, (self.dsa, self.idc)):
            parse_strategy(strategy)
        if not 0 <= self.cutmix_share <= 1:
            raise ValueError(f"cutmix_share: got {self.cutmix_share!r}, expected a share in [0, 1]")
        if self.cutmix_share and self.cutmix_alpha:
            raise ValueError(
                f"cutmix_share: got {self.cutmix_share!r} with cutmix_alpha {self.cutmix_alpha!r}; expected one of the "
                "two, 0 for the other"
            )


def train_student(
    images: Tensor,
    labels: Tensor,
    student: nn.Module,
    teacher: Callable[[Tensor], Tensor] | None = None,
    config: StudentConfig | None = None,
    *,
    soft_labels: LabelStore | None = None,
    normalization: Normalization = IMAGENET,
    teacher_normalization: Normalization | None = None,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
    gathered: Gathered | None = None,
) -> TrainReport:
    """Train ``student`` in place.

    With a teacher or stored soft labels the loss is KL(p_t || p_s) averaged over the batch, p = softmax(z / T), z_t the
    teacher's logits of the very same augmented and mixed batch; neither a factor T**2 nor a hard-label term. Else it is
    cross-entropy with the labels, mixed by the share of pixels when CutMix pasted.

    Args:
        images: uint8 [N, H, W, 3], kept on the student's device; or the student's input itself, float32 [N, 3, H, W],
            as matching methods train it, for recipes without views (only ``dsa``).
        labels: int64 [N].
        student: maps normalised float32 [n, 3, H, W] to logits [n, C].
        teacher: the same for the teacher, already in eval mode on the student's device; returns [n, C].
        config: see ``StudentConfig``.
        soft_labels: instead of a teacher, labels stored for the views of this config, or for the plain images: then the
            loss of a mixed view is that of both its labels, weighted by their shares of the pixels.
        normalization: of the student's input.
        teacher_normalization: of the teacher's input, where it differs.
        on_progress: as in ``supervised.fit``.
        options: checkpoint, compilation, tests on the way.
        gathered: of the optimiser, as in ``ddfast.train.loop.run``.

    Raises:
        TypeError, ValueError: wrong images or labels, teacher logits of another shape than the student's, or both a
            teacher and stored labels.
        LabelMismatchError: stored labels of another set, seed, view or batch size.
        NonFiniteLossError, TrainMemoryError, RunError: as in ``ddfast.train.loop.run``.
    """
    config = config or StudentConfig()
    images, labels = check_set(student, images, labels, ready=True)
    if images.is_floating_point():
        check_ready(config, soft_labels)
    if config.parity:
        if options and options.group:
            raise ValueError("parity: RDED's program trains in one process; leave data_parallel out")
        from ddfast.train.parity import train_like_rded

        if teacher is None or teacher_normalization not in (None, normalization):
            raise ValueError("parity: RDED's program needs a teacher with the student's normalization")
        return train_like_rded(images, student, teacher, config, normalization=normalization, on_progress=on_progress)
    channels_last = to_best_format(student)
    loss = student_loss(
        images, labels, teacher, config, soft_labels=soft_labels, normalization=normalization,
        teacher_normalization=teacher_normalization, channels_last=channels_last,
    )  # fmt: skip
    options = options or LoopOptions()
    if options.checkpoint:
        who = {
            "set": set_fingerprint(images, labels),
            "teacher": fingerprint(teacher) if isinstance(teacher, nn.Module) else None,
            "soft_labels": None if soft_labels is None else soft_labels.fingerprint,
        }
        options = replace(options, identity={**who, **options.identity})
    with batch_norm_twice(student, config.bn_twice):
        return loop.run(student, len(images), config, loss.of(student), on_progress, options, gathered)


@dataclass(frozen=True)
class StudentLoss:
    """`Objective` in smaller parts: ``score(logits, x, *rest)`` is the loss of what ``prepare`` returned."""

    prepare: Callable[[Batch], tuple[Tensor, ...]]
    score: Callable[..., Tensor]
    order: Callable[[int], Tensor] | None

    def of(self, student: Callable[[Tensor], Tensor]) -> Objective:
        """The objective of one student."""
        return Objective(self.prepare, lambda x, *rest: self.score(_wide(student(x)), x, *rest), self.order)


def student_loss(
    images: Tensor,
    labels: Tensor,
    teacher: Callable[[Tensor], Tensor] | None,
    config: StudentConfig,
    *,
    soft_labels: LabelStore | None = None,
    normalization: Normalization = IMAGENET,
    teacher_normalization: Normalization | None = None,
    channels_last: bool = True,
) -> StudentLoss:
    """What `train_student` minimises, for images and labels that are on the device already; arguments as there."""
    if teacher is not None and soft_labels is not None:
        raise ValueError("soft_labels: given together with a teacher; expected one of them")
    images = images.contiguous()
    ready = images.is_floating_point()
    size = (images.shape[2], images.shape[3]) if ready else (images.shape[1], images.shape[2])
    view = view_config(config, size)
    device = images.device
    affine = _renormalise(normalization, teacher_normalization or normalization, device)
    order = _stored_order(soft_labels, images, labels, view, config) if soft_labels else None
    mixes = view.mix != "none" or config.cutmix_share > 0
    mixed = soft_labels is not None and soft_labels.per_image and mixes

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        views = draw_views(view, size, config.seed, batch.epoch, batch.step, batch.index)
        if ready:
            x = images[batch.index.to(device, non_blocking=True)]
        else:
            x = augment.render(images, views, view, normalization)
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if config.dsa:
            x = apply_dsa(x, draw_dsa(config.dsa, len(x), size, seed=config.seed, epoch=batch.epoch, step=batch.step))
        if config.idc:
            x = apply_idc(x, draw_idc(config.idc, len(x), size, seed=config.seed, epoch=batch.epoch, step=batch.step))
        partner, share = views.partner, views.share
        mix = (
            draw_cutmix(
                len(x), size, seed=config.seed, epoch=batch.epoch, step=batch.step, probability=config.cutmix_share
            )
            if config.cutmix_share
            else None
        )
        if mix is not None:
            x, partner, share = apply_cutmix(x, mix), mix.partner, mix.share
        if teacher is not None:
            return (x,)
        if soft_labels is not None:
            read = soft_labels.read
            own = [part.to(device, non_blocking=True) for part in _parts(read(batch.epoch, batch.index))]
            if not mixed:
                return x, *own
            other = read(batch.epoch, batch.index[partner])
            parts = (part.to(device, non_blocking=True) for part in _parts(other))
            return x, *own, *parts, torch.full((), share, device=device)
        pairs = torch.stack([batch.index, batch.index[partner]]).to(device, non_blocking=True)
        return x, *labels[pairs], torch.full((), share, device=device)

    def soft_score(logits: Tensor, x: Tensor, *stored: Tensor) -> Tensor:
        if teacher is None and mixed:
            *both, share = stored
            half = len(both) // 2
            own, other = (
                ops.soft_label_loss(logits, part, temperature=config.temperature) for part in (both[:half], both[half:])
            )
            return share * own + (1 - share) * other
        if teacher is None:
            return ops.soft_label_loss(logits, stored, temperature=config.temperature)
        with torch.no_grad():
            target = _wide(teacher(x * affine[0] + affine[1]))
        return soft_label_loss(logits, target, config.temperature)

    def hard_score(logits: Tensor, x: Tensor, own: Tensor, other: Tensor, share: Tensor) -> Tensor:
        return share * F.cross_entropy(logits, own) + (1 - share) * F.cross_entropy(logits, other)

    hard = teacher is None and soft_labels is None
    return StudentLoss(prepare, hard_score if hard else soft_score, order)


def check_ready(config: StudentConfig, soft_labels: LabelStore | None) -> None:
    """Pictures that are the student's input already cannot be cropped and mixed as bytes are."""
    asked = {
        "flip": config.flip, "shift": config.shift, "factor": config.factor > 1, "crop": config.crop,
        "cutmix_alpha": config.cutmix_alpha, "parity": config.parity, "soft_labels": soft_labels,
    }  # fmt: skip
    if wrong := [name for name, value in asked.items() if value]:
        raise ValueError(
            f"images: got model input (float), which has no views, with {', '.join(wrong)}; expected uint8"
        )


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch: scalar, in nats.

    Raises:
        ValueError: the two logits differ in shape.
    """
    return ops.soft_label_loss(logits, teacher_logits, temperature=temperature)


def view_config(config: StudentConfig, size: tuple[int, int]) -> ViewConfig:
    """The views that RDED's students train on, for pictures of ``size`` (height, width)."""
    return ViewConfig(
        size,
        factor=config.factor,
        scale=config.crop or ((1 / config.factor, 1.0) if config.factor > 1 else None),
        flip=config.flip,
        shift=config.shift,
        mix="cutmix" if config.cutmix_alpha > 0 else "none",
        alpha=config.cutmix_alpha or 1.0,
    )


def _stored_order(
    store: LabelStore, images: Tensor, labels: Tensor, view: ViewConfig, config: StudentConfig
) -> Callable[[int], Tensor] | None:
    """Order of the samples that the labels were made for, after checking that they are those of this training."""
    if store.per_image:
        store.check({"set": set_fingerprint(images, labels)})
        return None
    made = Replay.from_fingerprint(store.fingerprint, len(images))
    replay = Replay(view, view.size, len(images), config.seed, config.batch_size, made.order)
    store.check(replay.fingerprint(images, labels))
    for name in ("dsa", "idc", "cutmix_share"):
        if value := getattr(config, name):
            raise ValueError(
                f"{name}: got {value!r} with stored labels, which are of the views before it; expected none"
            )
    if config.epochs > store.layout.epochs:
        raise ValueError(
            f"epochs: got {config.epochs}, {store.path} has labels for {store.layout.epochs}; train for at most as many"
        )
    return lambda epoch: torch.cat([replay.index(epoch, step) for step in range(replay.steps)])


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _parts(stored: Tensor | TopKLabels) -> tuple[Tensor, ...]:
    return (stored,) if isinstance(stored, Tensor) else tuple(stored)


def _renormalise(source: Normalization, target: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and offset [1, 3, 1, 1] that turn input normalised one way into the other."""
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(value, dtype=torch.float64).view(1, 3, 1, 1)
        for value in (source.mean, source.std, target.mean, target.std)
    )
    scale, offset = std_s / std_t, (mean_s - mean_t) / std_t
    return scale.float().to(device), offset.float().to(device)


@contextmanager
def batch_norm_twice(model: nn.Module, enabled: bool) -> Iterator[None]:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if enabled and layer.momentum is not None]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1 - (1 - float(layer.momentum or 0.0)) ** 2
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
