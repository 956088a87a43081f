"""Decoding of stored images: against loops over tiles and pixels, its adjoint, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddfast.store.formation import Formation


def upsampled(tile: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, half-pixel centres, borders repeated: pixel by pixel."""

    def places(side: int, small: int) -> list[tuple[int, int, float]]:
        found = []
        for i in range(side):
            at = max((i + 0.5) * small / side - 0.5, 0.0)
            low = min(math.floor(at), small - 1)
            found.append((low, min(low + 1, small - 1), at - low))
        return found

    return [
        [
            (1 - v) * ((1 - u) * tile[a][c] + u * tile[a][d]) + v * ((1 - u) * tile[b][c] + u * tile[b][d])
            for c, d, u in places(width, len(tile[0]))
        ]
        for a, b, v in places(height, len(tile))
    ]


def decoded(images: Tensor, factor: int) -> Tensor:
    _, channels, height, width = images.shape
    if factor == 1:
        return images
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    found = []
    for i in range(factor):
        for j in range(factor):
            for image in images.tolist():
                planes = []
                for plane in image:
                    tile = [
                        [plane[y][x] if y < height and x < width else 0.5 for x in range(j * wide, (j + 1) * wide)]
                        for y in range(i * tall, (i + 1) * tall)
                    ]
                    planes.append(upsampled(tile, height, width))
                found.append(planes)
    return torch.tensor(found, dtype=images.dtype).reshape(-1, channels, height, width)


@pytest.mark.parametrize(("factor", "side"), [(1, 4), (2, 8), (2, 7), (3, 8)])
def test_single_is_the_loop_over_tiles(factor: int, side: int) -> None:
    images = torch.rand(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side))
    formation = Formation(factor)
    torch.testing.assert_close(formation.decode(images), decoded(images, factor), rtol=1e-12, atol=1e-12)
    assert formation.sources(2).tolist() == [0, 1] * factor**2


def test_multi_holds_every_factor() -> None:
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    found = Formation(3, "multi").decode(images)
    want = torch.cat([decoded(images, factor) for factor in (1, 2, 3)])
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "cap", "parts"),
    [
        (4, 128, [(3, 0, 4)]),
        (20, 128, [(3, 0, 12), (2, 12, 3), (1, 15, 5)]),  # 108 + 12 + 5 <= 128
        (10, 8, [(1, 0, 10)]),
        (2, 11, [(3, 0, 1), (1, 1, 1)]),
    ],
)
def test_bound_gives_the_first_images_the_largest_factor(count: int, cap: int, parts: list[tuple[int, ...]]) -> None:
    formation = Formation(3, "bound", cap)
    assert formation.parts(count) == parts
    images = torch.rand(count, 1, 6, 6, dtype=torch.float64)
    want = torch.cat([decoded(images[first : first + n], factor) for factor, first, n in parts])
    torch.testing.assert_close(formation.decode(images), want, rtol=1e-12, atol=1e-12)
    sources = formation.sources(count)
    assert len(sources) == len(want) <= max(cap, count)
    assert set(sources.tolist()) == set(range(count))


@pytest.mark.parametrize("kind", ["single", "multi", "bound"])
def test_gradient_is_the_exact_adjoint(kind: str) -> None:
    formation = Formation(2, kind, 9)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 5, 5, dtype=torch.float64, generator=generator).requires_grad_()
    y = formation.decode(x)
    g = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    (back,) = torch.autograd.grad(y, x, g)
    shift = formation.decode(torch.zeros_like(x))  # the padding
    assert (back * x).sum().item() == pytest.approx(((y - shift) * g).sum().item(), rel=1e-12)


def test_layout_and_channels_last_do_not_matter() -> None:
    images = torch.rand(3, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(Formation(2).decode(images), Formation(2).decode(images.contiguous()))
    assert Formation(2).decode(images[:0]).shape == (0, 3, 8, 8)


def test_what_does_not_fit_is_refused() -> None:
    for given, message in (
        ({"factor": 0}, "factor: got 0"),
        ({"kind": "double"}, "formation: got 'double'"),
        ({"cap": 0}, "cap: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Formation(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images: got shape"):
        Formation(3).decode(torch.rand(1, 3, 2, 2))
    with pytest.raises(ValueError, match="expected factor, kind and cap"):
        Formation.from_json({"factors": 2})
    assert Formation.from_json(None) == Formation()
    assert Formation.from_json(Formation(2, "multi").as_json()) == Formation(2, "multi")
