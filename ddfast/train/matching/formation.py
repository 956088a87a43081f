"""How images that are decoded (`ddfast.store.formation`) begin: as mosaics of real pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_pictures(pictures: Tensor, factor: int) -> Tensor:
    """One class's stored images [n, c, H, W], each tile another picture, downsampled (nearest) to the tile.

    Tile k (row by row) of the images takes the k-th n pictures. Of a side that the factor does not divide the first
    tiles are a pixel larger. IDC: Kim et al., ICML 2022, arXiv 2205.14959.

    Args:
        pictures: [n * factor**2, c, H, W].
        factor: tiles along each side.

    Raises:
        ValueError: a number of pictures that the tiles do not divide.
    """
    count, left = divmod(len(pictures), factor**2)
    if left or not count:
        raise ValueError(f"pictures: got {len(pictures)}, expected a multiple of factor**2 = {factor**2}")
    if factor == 1:
        return pictures
    blocks = iter(pictures.split(count))
    rows, columns = ([side // factor + (k < side % factor) for k in range(factor)] for side in pictures.shape[2:])
    lines = [torch.cat([F.interpolate(next(blocks), (h, w)) for w in columns], 3) for h in rows]
    return torch.cat(lines, 2)
