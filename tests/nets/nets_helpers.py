"""Networks and real observers for the tests of ddfast.nets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ddfast._types import Normalization


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random running statistics, norms and biases, so that an empty canvas gives activations worth skipping."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


def padded_forward(module: nn.Module, patches: Tensor, canvas: int) -> Tensor:
    """What the skip must reproduce: RDED's zero canvas around the patch, top and left floor((S - p) / 2)."""
    before = (canvas - patches.shape[-1]) // 2
    after = canvas - patches.shape[-1] - before
    with torch.no_grad():
        return module(F.pad(patches, (before, after, before, after)))


def top1(forward: Callable[[Tensor], Tensor], pictures: Tensor, labels: np.ndarray) -> float:
    with torch.inference_mode():
        guesses = torch.cat([forward(part).argmax(1) for part in pictures.split(100)])
    return float((guesses.numpy() == labels).mean())


def normalised(pixels: np.ndarray, normalization: Normalization) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W]."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (normalization.mean, normalization.std))
    return (x - mean) / std


def cifar(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with np.load(folder / "cifar10-subset.npz") as data:
        return data["x_test"], data["y_test"].astype(np.int64), [str(name) for name in data["classes"]]


def imagenet_sample(folder: Path, per_class: int, side: int = 224) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Centre squares of ``val`` pictures at ``side`` pixels, folder labels, folder names (WordNet ids)."""
    root = folder / "imagenet20" / "val"
    names = sorted(p.name for p in root.iterdir() if p.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((root / name).iterdir())[:per_class]:
            with Image.open(path) as image:
                square = min(image.size)
                left, top = (image.width - square) // 2, (image.height - square) // 2
                area = (left, top, left + square, top + square)
                pictures.append(np.asarray(image.convert("RGB").resize((side, side), box=area)))
            labels.append(label)
    return np.stack(pictures), np.asarray(labels), names


class FoldedMobileNet(nn.Module):
    """MobileNetV2 from convolutions with folded batch norm and TensorFlow SAME padding; input in [-1, 1]."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        with np.load(file) as data:
            self.spec = json.loads(str(data["spec"]))
            arrays = {key: torch.from_numpy(data[key].astype(np.float32)) for key in data.files if key != "spec"}
        for key, value in arrays.items():
            self.register_buffer(key.replace(".", "_"), value)

    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        for step in self.spec:
            if step[0] == "add":
                made.append(made[step[1]] + made[step[2]])
            elif step[0] == "avgpool":
                made.append(made[-1].mean((2, 3), keepdim=True))
            else:
                _, index, stride, groups, relu6, source = step
                out = self._convolve(x if source == -1 else made[source], index, stride, groups)
                made.append(out.clamp(0, 6) if relu6 else out)
        return made[-1].flatten(1)

    def _convolve(self, x: Tensor, index: int, stride: int, groups: int) -> Tensor:
        weight, bias = getattr(self, f"{index}_weight"), getattr(self, f"{index}_bias")
        side = weight.shape[-1]
        rows, cols = (max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[2:])
        x = F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        return F.conv2d(x, weight, bias, stride, 0, 1, groups)
