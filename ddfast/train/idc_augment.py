"""IDC's augmentation (Kim et al., ICML 2022, arXiv 2205.14959): the operations of `ddfast.train.dsa` in a row.

Those named are applied one after the other: flip, then color, then one that is drawn for the batch among crop, scale
and rotate, then cutout. Formulas and ranges are DSA's, but scale and rotate sample with ``align_corners=False``. The
whole is affine in the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddfast.train.dsa import DSADraw, apply_dsa, draw_dsa, parse_strategy

MATCHING = "color_crop_cutout"
NET = "color_crop"
STUDENT = "color_crop_flip_scale_rotate"
COLUMNS = {"flip": (0, 1), "color": (1, 4), "crop": (4, 6), "scale": (4, 6), "rotate": (4, 5), "cutout": (6, 8)}
_ONE_OF = ("crop", "scale", "rotate")


@dataclass(frozen=True)
class IDCDraw:
    """Operations of a batch in the order they are applied, and their parameters, float32 [n, 8] (CPU).

    ``values`` is [1, 8] for the same on every picture. Its columns (``COLUMNS``) are, in the units of `DSADraw`: flip;
    brightness, saturation, contrast; two of crop or scale, or one of rotate; row and column of the cutout.
    """

    steps: tuple[str, ...]
    values: Tensor

    def to(self, device: torch.device) -> IDCDraw:
        """The same on ``device``."""
        return IDCDraw(self.steps, self.values.to(device, non_blocking=True))


def draw_idc(
    strategy: str,
    count: int,
    size: tuple[int, int],
    *,
    seed: int,
    epoch: int = 0,
    step: int = 0,
    siamese: bool = False,
    stream: str = "idc",
) -> IDCDraw:
    """Draw for one batch: a function of (stream, seed, epoch, step) alone.

    Args:
        strategy: operations joined by underscores, such as ``MATCHING``; empty for none.
        count: pictures n.
        size: (height, width) of the pictures.
        seed, epoch, step: counters, from 0.
        siamese: one set of parameters for all pictures, as matching needs.
        stream: name of the random stream.

    Raises:
        ValueError: an unknown operation.
    """
    names = parse_strategy(strategy) if strategy else ()
    groups = ["flip"] * ("flip" in names) + ["color"] * ("color" in names)
    one = [name for name in names if name in _ONE_OF]
    groups += ["_".join(one)] * bool(one) + ["cutout"] * ("cutout" in names)
    values = torch.zeros(1 if siamese else count, 8)
    steps = []
    for group in groups:
        drawn = draw_dsa(
            group, count, size, seed=seed, epoch=epoch, step=step, siamese=siamese, stream=f"{stream}/{group}"
        )
        first, last = COLUMNS[drawn.op]
        values[:, first:last] = drawn.values
        steps.append(drawn.op)
    return IDCDraw(tuple(steps), values)


def apply_idc(images: Tensor, draw: IDCDraw) -> Tensor:
    """The batch [n, c, H, W] with the operations applied; same shape and dtype, differentiable in ``images``.

    Raises:
        ValueError: an unknown operation, or parameters for another number of pictures.
    """
    if len(draw.values) not in (1, len(images)):
        raise ValueError(f"draw: got parameters of {len(draw.values)} pictures, expected {len(images)} or 1")
    values = draw.to(images.device).values
    for op in draw.steps:
        if op not in COLUMNS:
            raise ValueError(f"draw: got operation {op!r}, expected one of {', '.join(COLUMNS)}")
        part = values[:, slice(*COLUMNS[op])]
        images = _warp(images, op, part) if op in ("scale", "rotate") else apply_dsa(images, DSADraw(op, part))
    return images


def _warp(x: Tensor, op: str, values: Tensor) -> Tensor:
    values = values.expand(len(x), -1).to(x.dtype)
    zero = torch.zeros_like(values[:, 0])
    if op == "scale":
        matrix = torch.stack([values[:, 0], zero, zero, zero, values[:, 1], zero], 1)
    else:
        cos, sin = values[:, 0].cos(), values[:, 0].sin()
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1)
    grid = F.affine_grid(matrix.view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
