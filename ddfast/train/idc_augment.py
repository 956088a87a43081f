"""IDC's augmentation (Kim et al., ICML 2022, arXiv 2205.14959): the operations of `ddfast.train.dsa` in a row.

Those named are applied one after the other: flip, then color, then one that is drawn for the batch among crop, scale
and rotate, then cutout. Formulas and ranges are DSA's, but scale and rotate sample with ``align_corners=False``. The
whole is affine in the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddfast import ops
from ddfast.train import dsa_rows
from ddfast.train.dsa import PACKERS, Values, draw_dsa, parse_strategy

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


def pack_idc(draw: IDCDraw, size: tuple[int, int]) -> Tensor:
    """The draw as rows of parameters for `ddfast.ops.dsa` on pictures of ``size``: float64 [n or 1, 13] (CPU).

    Raises:
        ValueError: an unknown operation, or operations in another order than IDC's.
    """
    places = []
    for op in draw.steps:
        if op not in COLUMNS:
            raise ValueError(f"draw: got operation {op!r}, expected one of {', '.join(COLUMNS)}")
        places.append(COLUMNS[op][0])
    if places != sorted(set(places)):
        raise ValueError(f"draw: got {', '.join(draw.steps)}, expected flip, color, one of crop, scale, rotate, cutout")
    values = draw.values.double().cpu().numpy()
    rows = dsa_rows.unchanged(len(values))
    for op in reversed(draw.steps):  # a mirror is set after the operation that follows it
        part = values[:, slice(*COLUMNS[op])]
        if op in _MATRICES:
            dsa_rows.warp(rows, _MATRICES[op](part), size, align_corners=False)
        else:
            PACKERS[op](rows, part, size)
    return torch.from_numpy(rows)


def apply_idc(images: Tensor, draw: IDCDraw) -> Tensor:
    """The batch [n, c, H, W] with the operations applied; same shape and dtype, differentiable in ``images``.

    Raises:
        ValueError: an unknown operation, operations out of order, or parameters for another number of pictures.
    """
    if len(draw.values) not in (1, len(images)):
        raise ValueError(f"draw: got parameters of {len(draw.values)} pictures, expected {len(images)} or 1")
    if not draw.steps:
        return images
    params = pack_idc(draw, (images.shape[2], images.shape[3]))
    return ops.dsa(images, params.to(images.device, non_blocking=True))


_MATRICES: dict[str, Callable[[Values], Any]] = {
    "scale": lambda values: (values[:, 0], 0, 0, values[:, 1]),
    "rotate": lambda values: dsa_rows.rotation(values[:, 0]),
}
