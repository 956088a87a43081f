"""draw_rrc_boxes: the distribution of square random-resized crops, and independence of everything but the key."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from ddfast.data.transforms import draw_rrc_boxes


def shares(height: int, width: int, pictures: int = 20_000, **options: object) -> np.ndarray:
    sizes = np.tile([[height, width]], (pictures, 1))
    boxes = draw_rrc_boxes(1, 0, np.arange(pictures), sizes, 5, **options)
    return boxes[..., 2].astype(np.float64) ** 2 / (height * width)


def test_photo_facts() -> None:
    sizes = np.tile([[375, 500]], (40_000, 1))
    boxes = draw_rrc_boxes(0, 7, np.arange(40_000), sizes, 5).astype(np.int64)
    top, left, height, width = np.moveaxis(boxes, -1, 0)
    assert (height == width).all()
    # the smallest side is round(sqrt(0.08 * 375 * 500)) = 122, met by about one draw in two thousand
    assert height.min() == 122
    assert height.max() == 375
    assert height.mean() == pytest.approx(271, abs=1)
    assert (height**2 / (375 * 500)).mean() == pytest.approx(0.417, abs=0.003)
    assert top.min() == 0
    assert left.min() == 0
    assert ((top + height) <= 375).all()
    assert ((left + width) <= 500).all()
    # positions are uniform in what is left over
    free = 375 - height
    assert (top[free > 0] / free[free > 0]).mean() == pytest.approx(0.5, abs=0.005)
    assert (left / (500 - width)).mean() == pytest.approx(0.5, abs=0.005)
    # every end of the range is met
    assert (top == free).any()
    assert (left == 500 - width).any()


def test_square_share() -> None:
    # uniform on [0.08, 1): mean 0.54; rounding up to the full side loses nothing worth naming
    share = shares(300, 300)
    assert share.mean() == pytest.approx(0.54, abs=0.004)
    small = shares(32, 32)
    assert small.mean() == pytest.approx(0.537, abs=0.006)


def test_same_distribution_as_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    picture = torch.empty(3, 375, 500)
    params = [transforms.RandomResizedCrop.get_params(picture, [0.08, 1.0], [1.0, 1.0]) for _ in range(4000)]
    theirs = np.array(params)
    sizes = np.tile([[375, 500]], (4000, 1))
    ours = draw_rrc_boxes(5, 0, np.arange(4000), sizes, 1)[:, 0]
    for column in range(4):  # two-sample Kolmogorov-Smirnov distance; 0.0429 is the 0.1 % point at 4000 + 4000
        values = np.sort(np.concatenate([theirs[:, column], ours[:, column]]))
        ranks = [np.searchsorted(np.sort(x[:, column]), values, side="right") / 4000 for x in (theirs, ours)]
        assert np.abs(ranks[0] - ranks[1]).max() < 0.0436


def test_rule_against_plain_python() -> None:
    """The boxes follow from the documented words by the documented rule."""
    from ddfast.runs import seeds

    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 400, (60, 2))
    sizes[0] = (1, 300)
    boxes = draw_rrc_boxes(11, 4, np.arange(60), sizes, 3, scale=(0.2, 0.9))
    for i, (height, width) in enumerate(sizes.tolist()):
        for j in range(3):
            bits = seeds.counter_bits(11, "crops", 4, i, j, count=12)
            expected = None
            for attempt in range(10):
                u = 0.2 + (0.9 - 0.2) * float(seeds.uniform(bits[2 + attempt : 3 + attempt])[0])
                side = round(math.sqrt(u * (height * width)))
                if 0 < side <= min(height, width):
                    top = int(bits[0]) * (height - side + 1) >> 64
                    left = int(bits[1]) * (width - side + 1) >> 64
                    expected = (top, left, side, side)
                    break
            if expected is None:
                side = min(height, width)
                expected = ((height - side) // 2, (width - side) // 2, side, side)
            assert tuple(boxes[i, j]) == expected


def test_fallback_is_the_centred_square() -> None:
    boxes = draw_rrc_boxes(0, 0, [0, 1], [[10, 1000], [901, 4]], 2, scale=(0.9, 1.0))
    assert boxes[0].tolist() == [[0, 495, 10, 10]] * 2
    assert boxes[1].tolist() == [[448, 0, 4, 4]] * 2


def test_boxes_depend_on_the_key_only() -> None:
    rng = np.random.default_rng(1)
    positions = rng.permutation(500)[:64]
    sizes = rng.integers(50, 600, (64, 2))
    whole = draw_rrc_boxes(9, 2, positions, sizes, 5)
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(whole, draw_rrc_boxes(9, 2, positions, sizes, 5))
    order = rng.permutation(64)
    np.testing.assert_array_equal(whole[order], draw_rrc_boxes(9, 2, positions[order], sizes[order], 5))
    for cut in (1, 7, 16):
        parts = [draw_rrc_boxes(9, 2, positions[i : i + cut], sizes[i : i + cut], 5) for i in range(0, 64, cut)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole[:, :3], draw_rrc_boxes(9, 2, positions, sizes, 3))
    for other in ((8, 2, positions), (9, 3, positions), (9, 2, positions + 1)):
        assert (draw_rrc_boxes(*other, sizes, 5) != whole).any(axis=-1).mean() > 0.9


def test_empty() -> None:
    assert draw_rrc_boxes(0, 0, [], [], 5).shape == (0, 5, 4)
    assert draw_rrc_boxes(0, 0, [1], [[5, 5]], 0).shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0, [[1]], [[5, 5]], 1), ValueError, "positions"),
        ((0, 0, [1], [[5, 5], [5, 5]], 1), ValueError, "sizes"),
        ((0, 0, [1], [[5, 0]], 1), ValueError, "side of 0"),
        ((0, 0, [1], [[5, 5]], -1), ValueError, "crops: got -1"),
        ((0, 0, [1.5], [[5, 5]], 1), TypeError, "positions"),
        ((0, 0, [1], [[5, 5]], 1, (0.0, 1.0)), ValueError, "scale"),
        ((0, 0, [1], [[5, 5]], 1, (0.5, 0.2)), ValueError, "scale"),
        ((-1, 0, [1], [[5, 5]], 1), ValueError, "seed"),
    ],
)
def test_errors(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        draw_rrc_boxes(*arguments)


def test_drawing_is_cheap() -> None:
    """A chunk of 16 pictures x 5 crops: 0.2 ms when quiet; the limit leaves room for a busy machine."""
    sizes = np.tile([[375, 500]], (16, 1))
    positions = np.arange(16)
    draw_rrc_boxes(0, 0, positions, sizes, 5)
    best = math.inf
    for _ in range(10):
        start = time.process_time()
        for _ in range(20):
            draw_rrc_boxes(0, 0, positions, sizes, 5)
        best = min(best, (time.process_time() - start) / 20 / 16)
    assert best < 60e-6
