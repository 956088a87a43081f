"""Student training on a distilled set with live teacher labels, as RDED evaluates (arXiv 2312.03526, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast._types import IMAGENET, Normalization
from ddfast.train import augment, loop
from ddfast.train.loop import OnProgress, TrainConfig, TrainReport
from ddfast.train.supervised import check_set
from ddfast.train.views import ViewConfig, draw_views


@dataclass(frozen=True)
class StudentConfig(TrainConfig):
    """RDED's student recipe; the defaults are the paper's for ResNet-18 at ten classes and IPC 10.

    ``factor`` is the mosaic's: strips are shuffled and crops cover at least 1/factor of the area; with factor 1 both
    are the identity. ``bn_twice`` reproduces the original's second batch-norm update a step (a throw-away forward of
    the same batch) through the momentum 1 - (1 - m)**2, without the forward.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1:
            raise ValueError(f"factor: got {self.factor!r}, expected 1 or more")
        if self.cutmix_alpha < 0:
            raise ValueError(f"cutmix_alpha: got {self.cutmix_alpha!r}, expected 0 (off) or a positive number")
        if not self.temperature > 0:
            raise ValueError(f"temperature: got {self.temperature!r}, expected a positive number")


def train_student(
    images: Tensor,
    labels: Tensor,
    student: nn.Module,
    teacher: Callable[[Tensor], Tensor] | None = None,
    config: StudentConfig | None = None,
    *,
    normalization: Normalization = IMAGENET,
    teacher_normalization: Normalization | None = None,
    on_progress: OnProgress | None = None,
) -> TrainReport:
    """Train ``student`` in place.

    With a teacher the loss is KL(p_t || p_s) averaged over the batch, p = softmax(z / T), z_t the teacher's logits of
    the very same augmented and mixed batch; neither a factor T**2 nor a hard-label term. Without one it is
    cross-entropy with the labels, mixed by the share of pixels when CutMix pasted.

    Args:
        images: uint8 [N, H, W, 3], kept on the student's device.
        labels: int64 [N].
        student: maps normalised float32 [n, 3, H, W] to logits [n, C].
        teacher: the same for the teacher, already in eval mode on the student's device; returns [n, C].
        config: see ``StudentConfig``.
        normalization: of the student's input.
        teacher_normalization: of the teacher's input, where it differs.
        on_progress: as in ``supervised.fit``.

    Raises:
        TypeError, ValueError: wrong images or labels, or teacher logits of another shape than the student's.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    config = config or StudentConfig()
    images, labels = check_set(student, images, labels)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    affine = _renormalise(normalization, teacher_normalization or normalization, images.device)

    images = images.contiguous()
    size = (images.shape[1], images.shape[2])
    view = view_config(config, size)

    def step(index: Tensor, epoch: int, number: int) -> Tensor:
        views = draw_views(view, size, config.seed, epoch, number, index)
        batch = augment.render(images, views, view, normalization)
        logits = student(batch).float()
        if teacher is None:
            own = labels[index.to(labels.device)]
            other = labels[index[views.partner].to(labels.device)]
            return views.share * F.cross_entropy(logits, own) + (1 - views.share) * F.cross_entropy(logits, other)
        with torch.no_grad():
            target = teacher(batch * affine[0] + affine[1]).float()
        return soft_label_loss(logits, target, config.temperature)

    with _batch_norm_twice(student, config.bn_twice):
        return loop.run(student, len(images), config, step, on_progress)


def soft_label_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch: scalar, in nats.

    Raises:
        ValueError: the two logits differ in shape.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher: gave logits {list(teacher_logits.shape)}, the student {list(logits.shape)}; expected the same "
            "number of classes (slice the teacher's head to the classes of the set)"
        )
    target = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean", log_target=True)


def view_config(config: StudentConfig, size: tuple[int, int]) -> ViewConfig:
    """The views that RDED's students train on, for pictures of ``size`` (height, width)."""
    return ViewConfig(
        size,
        factor=config.factor,
        scale=(1 / config.factor, 1.0) if config.factor > 1 else None,
        flip=config.flip,
        shift=config.shift,
        mix="cutmix" if config.cutmix_alpha > 0 else "none",
        alpha=config.cutmix_alpha or 1.0,
    )


def _renormalise(source: Normalization, target: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and offset [1, 3, 1, 1] that turn input normalised one way into the other."""
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(value, dtype=torch.float64).view(1, 3, 1, 1)
        for value in (source.mean, source.std, target.mean, target.std)
    )
    scale, offset = std_s / std_t, (mean_s - mean_t) / std_t
    return scale.float().to(device), offset.float().to(device)


@contextmanager
def _batch_norm_twice(model: nn.Module, enabled: bool) -> Iterator[None]:
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
