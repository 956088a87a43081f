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

    def step(index: Tensor, generator: torch.Generator) -> Tensor:
        index = index.to(images.device)
        batch = _view(images[index], config, normalization, generator)
        own, share, partner = labels[index], 1.0, torch.arange(len(index))
        if config.cutmix_alpha > 0:
            height, width = batch.shape[-2:]
            partner, box = augment.draw_cutmix(len(batch), height, width, config.cutmix_alpha, generator)
            partner = partner.to(batch.device)
            batch, share = augment.cutmix(batch, partner, box)
        logits = student(batch).float()
        if teacher is None:
            return share * F.cross_entropy(logits, own) + (1 - share) * F.cross_entropy(logits, own[partner])
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


def _view(batch: Tensor, config: StudentConfig, normalization: Normalization, generator: torch.Generator) -> Tensor:
    """One augmented view float32 [n, 3, H, W] of uint8 [n, H, W, 3]."""
    count, height, width = batch.shape[:3]
    if config.factor > 1:
        columns, rows = (augment.draw_permutations(count, config.factor, generator) for _ in range(2))
        batch = augment.shuffle_strips(batch, columns.to(batch.device), rows.to(batch.device))
    if config.shift:
        offsets = torch.randint(-config.shift, config.shift + 1, (count, 2), generator=generator)
        batch = augment.shift(batch, offsets.to(batch.device))
    if config.flip:  # before the crop instead of after it: the crop's place is symmetric, so the law is the same
        batch = augment.flip(batch, (torch.rand(count, generator=generator) < 0.5).to(batch.device))
    if config.factor == 1:
        return augment.normalize(batch, normalization)
    boxes = augment.draw_crops(count, (height, width), (1 / config.factor, 1.0), (3 / 4, 4 / 3), generator)
    return augment.resized_crop(batch, boxes.to(batch.device), normalization)


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
