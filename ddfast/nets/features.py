"""Penultimate features of an observer: what its last linear layer reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .observers import Observer
from .settings import full_float32


class Features:
    """Callable: pictures [n, 3, S, S], normalised, S the observer's input size -> features float32 [n, d] on the CPU.

    The classifier is the last linear layer (or 1x1 convolution) that the network calls with one output a class; its
    input is taken, flattened, or averaged over the places where it is a map. TF32 is off, and cuDNN deterministic.

    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(self, observer: Observer, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._module = observer.module.to(self.device).eval()
        self._seen: list[Tensor] = []
        self._classifier = _classifier(observer, self.device)
        with self._watched(), torch.inference_mode():
            self._run(torch.zeros(1, 3, observer.input_size, observer.input_size, device=self.device))
        self.width = int(self._seen.pop().shape[1])

    def __call__(self, pictures: Tensor) -> Tensor:
        with self._watched(), torch.inference_mode(), full_float32(), _deterministic():
            self._run(pictures.to(self.device))
        return self._seen.pop().cpu()

    def _watched(self) -> ExitStack:
        stack = ExitStack()
        handle = self._classifier.register_forward_pre_hook(self._keep)
        stack.callback(handle.remove)
        return stack

    def _run(self, pictures: Tensor) -> None:
        self._seen.clear()
        self._module(pictures)

    def _keep(self, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
        maps = given[0].float()
        pooled = maps.mean((2, 3)) if isinstance(_module, nn.Conv2d) else maps.flatten(1)
        self._seen[:] = [pooled]  # of a layer that is called twice, the last


@contextmanager
def _deterministic() -> Iterator[None]:
    """cuDNN takes the same algorithm every time; `torch.backends.cudnn.flags` would also touch the switches of TF32."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _classifier(observer: Observer, device: torch.device) -> nn.Module:
    called: list[nn.Module] = []
    handles = []
    for module in observer.module.modules():
        if _gives(module) == observer.num_classes:
            handles.append(module.register_forward_pre_hook(lambda layer, _: called.append(layer)))
    try:
        with torch.inference_mode():
            observer.module(torch.zeros(1, 3, observer.input_size, observer.input_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ValueError(
            f"observer: {observer.name} has no linear layer (or 1x1 convolution) with its {observer.num_classes} "
            "outputs, so what its features are is not known; name another observer"
        )
    return called[-1]


def _gives(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else None
