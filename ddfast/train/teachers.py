"""Teachers of soft labels: any number of observers, their logits put into the set's class order and averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ddfast._types import Normalization
from ddfast.data import Source
from ddfast.nets.checkpoints import fingerprint
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer, load_observer
from ddfast.store import DistilledSet
from ddfast.train.class_check import check_teacher
from ddfast.train.small_observer import SmallObserver

PRECISIONS = ("fp32", "bf16")
FORWARD_BATCH = 256  # pictures at once; a constant, so that the labels' bytes do not depend on the training's batch


class Teachers:
    """The mean logits of ``observers`` for the classes of a set.

    Args:
        observers: at least one; modules are taken as observers for ``size``.
        class_names: of the set, in label order.
        size: (height, width) of the views.
        precision: "fp32" or "bf16" (autocast).
        device: where they run.
        forward_batch: pictures in one forward.

    Raises:
        ValueError: no observer, outputs that cannot be told apart from the set's classes, or an observer that does not
            take pictures of ``size``.
    """

    def __init__(
        self,
        observers: Sequence[Observer | nn.Module],
        class_names: Sequence[str],
        size: tuple[int, int],
        *,
        precision: str = "fp32",
        device: str | torch.device = "cpu",
        forward_batch: int = FORWARD_BATCH,
    ) -> None:
        if not observers:
            raise ValueError("teachers: got none, expected at least one observer")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.observers = [o if isinstance(o, Observer) else load_observer(o, input_size=size[0]) for o in observers]
        self.device, self.precision, self.forward_batch = torch.device(device), precision, forward_batch
        self.class_names, self.size = tuple(class_names), size
        self.outputs = [
            torch.from_numpy(map_classes(class_names, o.num_classes, o.class_names)).to(self.device)
            for o in self.observers
        ]
        self.fingerprints = [fingerprint(o.module) for o in self.observers]
        for observer in self.observers:
            observer.module.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            _check_size(observer, size, self.device)

    def check_classes(self, real: Source) -> None:
        """Looks at some real pictures of the set's classes; see `ddfast.train.class_check.check_teacher`.

        Raises:
            ValueError: a teacher whose outputs mean the classes in another order, or ``real`` has other classes.
        """
        for observer, outputs in zip(self.observers, self.outputs, strict=True):
            check_teacher(observer, outputs.tolist(), self.class_names, real, size=self.size, device=self.device)

    def __call__(self, render: Callable[[Normalization], Tensor]) -> Tensor:
        """Mean logits float32 [n, C].

        Args:
            render: the pictures [n, 3, h, w] on the teachers' device, normalised the way a teacher wants.

        Raises:
            RuntimeError: the device's memory is too small; the message says what would fit.
        """
        normalization = self.observers[0].normalization
        pictures = render(normalization)
        parts = []
        for observer, outputs in zip(self.observers, self.outputs, strict=True):
            if observer.normalization != normalization:
                normalization = observer.normalization
                pictures = render(normalization)
            parts.append(self._forward(observer, pictures)[:, outputs])
        return torch.stack(parts).mean(0)

    def _forward(self, observer: Observer, pictures: Tensor) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":  # the same bytes from every worker
                flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                stack.enter_context(flags)
            stack.enter_context(
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=True)
            )
            try:
                parts = [observer.module(part).float() for part in pictures.split(self.forward_batch)]
            except torch.OutOfMemoryError as error:
                count = min(self.forward_batch, len(pictures))
                raise RuntimeError(
                    f"out of memory on {self.device} with {count} pictures at once through {observer.name}; give "
                    f"forward_batch={max(count // 2, 1)} or less"
                ) from error
        return torch.cat(parts)


def load_teacher(
    spec: str, distilled: DistilledSet, real: Callable[[], Source] | None = None
) -> Observer | SmallObserver:
    """A teacher from its name, as the command line gives it; ``train:`` ones are still to be trained.

    Args:
        spec: what `load_observer` takes (``resnet18``, ``cifar10_conv3.pth``); ``NAME=FILE`` for a named network's
            weights; or ``train:conv3``, trained on the real set as the set's own observer was.
        distilled: the set, for the pictures' size and the seed.
        real: opens the real set; called for ``train:`` alone.

    Raises:
        ValueError: as `load_observer`, or ``train:`` without the real set.
    """
    side = int(distilled.images.shape[1])
    if not spec.startswith("train:"):
        name, _, file = spec.partition("=")
        return load_observer(name, weights=file or None, input_size=side)
    if real is None:
        raise ValueError(f"teacher: {spec!r} is trained on the real set; name it with --data")
    seed = int(distilled.manifest.get("seed") or 0)
    return SmallObserver(spec.removeprefix("train:"), real(), side, seed)


def _check_size(observer: Observer, size: tuple[int, int], device: torch.device) -> None:
    try:
        with torch.inference_mode():
            observer.module(torch.zeros(1, 3, *size, device=device))
    except RuntimeError as error:
        raise ValueError(
            f"teacher: {observer.name} does not take views of {size[0]} x {size[1]} ({str(error).splitlines()[0]}); "
            "set the view's size to its input's, or name another teacher"
        ) from error
