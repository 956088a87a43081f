"""Draws of views: torchvision's and RDED's distributions, replay of any sample, independence from the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision import transforms

from ddfast.train.views import ViewConfig, Views, draw_views, epoch_order

MANY = 6000
KNOWN = {
    "boxes": [[2, 11, 57, 46], [2, 1, 51, 59], [10, 2, 45, 41]],
    "columns": [[1, 2, 0], [2, 1, 0], [1, 0, 2]],
    "shift": [[-1, 1], [-1, 1], [1, -1]],
    "flip": [False, True, True],
    "partner": [1, 2, 0],
    "mix_box": [13, 0, 27, 16],
    "order": [6, 1, 7, 5, 2, 4, 3, 0],
}


def ks(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov distance over its standard scale; 1.95 is exceeded once in a thousand times."""
    grid = np.concatenate([first, second])
    ranks = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(ranks[0] - ranks[1]).max() * math.sqrt(len(first) * len(second) / (len(first) + len(second))))


def full(mix: str = "cutmix") -> ViewConfig:
    return ViewConfig((40, 44), factor=3, scale=(0.3, 1.0), flip=True, shift=2, mix=mix)


@pytest.mark.parametrize(
    ("picture", "scale", "ratio"),
    [
        ((224, 224), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((64, 64), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((40, 100), (0.3, 1.0), (3 / 4, 4 / 3)),  # rejects often, falls back to the widest box within the ratio
        ((100, 40), (0.8, 1.0), (3 / 4, 4 / 3)),
        ((32, 32), (1.0, 1.0), (3 / 4, 4 / 3)),
        ((7, 9), (0.05, 0.4), (0.5, 2.0)),
    ],
)
def test_boxes_follow_torchvisions_law(
    picture: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    config = ViewConfig(picture, scale=scale, ratio=ratio)
    boxes = draw_views(config, picture, 5, 0, 0, np.arange(MANY)).boxes.double().numpy()
    torch.manual_seed(0)
    blank = torch.empty(3, *picture)
    drawn = [transforms.RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(MANY)]
    truth = np.array(drawn, dtype=np.float64)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= picture).all()
    joint = [
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] + b[:, 2],
        lambda b: b[:, 0] * b[:, 1],
    ]
    columns = [lambda b, k=k: b[:, k] for k in range(4)]
    distances = [ks(measure(boxes), measure(truth)) for measure in columns + joint]
    assert max(distances) < 1.95, distances
    spread = np.sqrt((boxes.var(0) + truth.var(0)) / MANY)
    assert (np.abs(boxes.mean(0) - truth.mean(0)) <= 4.5 * spread).all()


def test_degenerate_scale_is_the_whole_picture_at_32_pixels() -> None:
    """What the paper's program does to CIFAR: scale (1, 1) leaves next to nothing but the fallback."""
    boxes = draw_views(ViewConfig((32, 32), scale=(1.0, 1.0)), (32, 32), 0, 0, 0, np.arange(300)).boxes
    assert (boxes == torch.tensor([0, 0, 32, 32])).all()


def test_fallback_is_the_centred_box_within_the_ratio() -> None:
    config = ViewConfig((20, 20), scale=(3.0, 4.0), ratio=(1.0, 1.0))
    assert draw_views(config, (20, 31), 0, 0, 0, np.arange(3)).boxes.tolist() == [[0, 5, 20, 20]] * 3
    assert draw_views(config, (31, 20), 0, 0, 0, np.arange(3)).boxes.tolist() == [[5, 0, 20, 20]] * 3


def test_flip_shift_and_strips_are_uniform() -> None:
    views = draw_views(full(), (60, 66), 1, 0, 0, np.arange(MANY))
    assert abs(float(views.flip.double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(MANY)
    for axis in range(2):
        counts = np.bincount(views.shift[:, axis].numpy() + 2, minlength=5)
        assert np.abs(counts - MANY / 5).max() < 4.5 * math.sqrt(MANY / 5)
    for strips in (views.columns, views.rows):
        assert (strips.sort(1).values == torch.arange(3)).all()
        kinds = np.unique(strips.numpy(), axis=0, return_counts=True)[1]
        assert len(kinds) == 6
        assert np.abs(kinds - MANY / 6).max() < 4.5 * math.sqrt(MANY / 6)
    own = [views.flip, views.shift[:, 0], views.shift[:, 1], views.columns[:, 0], views.rows[:, 0]]
    seen = np.corrcoef(torch.stack([value.double() for value in [*own, *views.boxes.T]]).numpy())
    assert np.abs(np.triu(seen, 1)[:5]).max() < 4.5 / math.sqrt(MANY)  # the numbers of a box belong together


def reference_box(size: tuple[int, int], alpha: float, rng: np.random.Generator) -> tuple[float, ...]:
    """CutMix's box as published, from numpy's own Beta."""
    cut = math.sqrt(1 - rng.beta(alpha, alpha))
    tall, wide = int(size[0] * cut), int(size[1] * cut)
    y, x = rng.integers(size[0]), rng.integers(size[1])
    top, bottom = np.clip([y - tall // 2, y + tall // 2], 0, size[0])
    left, right = np.clip([x - wide // 2, x + wide // 2], 0, size[1])
    return float(top), float(left), float(bottom - top), float(right - left)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_cutmix_boxes_follow_the_published_law(alpha: float) -> None:
    size, steps = (32, 48), 1500
    config = ViewConfig(size, mix="cutmix", alpha=alpha)
    views = [draw_views(config, size, 2, 0, step, np.arange(3)) for step in range(steps)]
    boxes = torch.stack([v.mix_box for v in views]).double().numpy()
    rng = np.random.default_rng(0)
    truth = np.array([reference_box(size, alpha, rng) for _ in range(4 * steps)])
    distances = [ks(boxes[:, k], truth[:, k]) for k in range(4)]
    assert max(distances) < 1.95, distances
    shares = np.array([v.share for v in views])
    np.testing.assert_allclose(shares, 1 - boxes[:, 2] * boxes[:, 3] / (32 * 48))


@pytest.mark.parametrize("alpha", [0.05, 0.8, 4.0])
def test_mixup_shares_follow_beta(alpha: float) -> None:
    config = ViewConfig((4, 4), mix="mixup", alpha=alpha)
    views = [draw_views(config, (4, 4), 3, epoch, step, np.arange(2)) for epoch in range(30) for step in range(50)]
    shares = np.array([v.share for v in views])
    assert ks(shares, np.random.default_rng(1).beta(alpha, alpha, 20_000)) < 1.95
    assert all(v.mix_box.tolist() == [0, 0, 0, 0] for v in views)


def test_partners_are_uniform_permutations() -> None:
    views = [draw_views(full(), (60, 66), 4, 0, step, np.arange(4)) for step in range(1200)]
    partners = np.stack([v.partner.numpy() for v in views])
    assert (np.sort(partners, 1) == np.arange(4)).all()
    kinds = np.unique(partners, axis=0, return_counts=True)[1]
    assert len(kinds) == 24
    assert np.abs(kinds - 50).max() < 4.5 * math.sqrt(50)


def same(first: Views, second: Views) -> bool:
    pairs = zip(first.tensors(), second.tensors(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and first.share == second.share


def test_replay_gives_the_same_views() -> None:
    index = epoch_order(9, 3, 50)[20:30]
    for mix in ("none", "cutmix", "mixup"):
        assert same(*(draw_views(full(mix), (60, 66), 9, 3, 2, index) for _ in range(2)))


def test_own_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    order = epoch_order(9, 3, 50)
    batch = draw_views(full(), (60, 66), 9, 3, 2, order[20:30])
    everything = draw_views(full(), (60, 66), 9, 3, 7, torch.arange(50))
    for place, sample in enumerate(order[20:30].tolist()):
        alone = draw_views(full("none"), (60, 66), 9, 3, 0, [sample])
        for name in ("index", "columns", "rows", "boxes", "flip", "shift"):
            drawn = getattr(batch, name)[place]
            assert torch.equal(drawn, getattr(alone, name)[0])
            assert torch.equal(drawn, getattr(everything, name)[sample])
    others = [(10, 3, 2), (9, 4, 2)]
    for seed, epoch, step in others:
        other = draw_views(full(), (60, 66), seed, epoch, step, order[20:30])
        assert not torch.equal(other.boxes, batch.boxes)
        assert not torch.equal(other.mix_box, batch.mix_box)
    assert not torch.equal(draw_views(full(), (60, 66), 9, 3, 3, order[20:30]).partner, batch.partner)


def test_more_options_leave_the_others_alone() -> None:
    plain = draw_views(ViewConfig((8, 8), flip=True), (12, 12), 0, 0, 0, np.arange(40))
    rich = draw_views(ViewConfig((8, 8), factor=2, scale=(0.5, 1), flip=True), (12, 12), 0, 0, 0, np.arange(40))
    assert torch.equal(plain.flip, rich.flip)
    assert plain.boxes.tolist() == [[0, 0, 12, 12]] * 40
    assert plain.columns.tolist() == [[0]] * 40
    assert plain.share == 1.0
    assert plain.partner.tolist() == list(range(40))


def test_known_draws() -> None:
    """Stored labels are bound to these numbers: a change of them is a change of every store."""
    views = draw_views(full(), (60, 66), 42, 1, 2, [5, 0, 1000])
    assert views.boxes.tolist() == KNOWN["boxes"]
    assert views.columns.tolist() == KNOWN["columns"]
    assert views.shift.tolist() == KNOWN["shift"]
    assert views.flip.tolist() == KNOWN["flip"]
    assert views.partner.tolist() == KNOWN["partner"]
    assert views.mix_box.tolist() == KNOWN["mix_box"]
    assert epoch_order(42, 1, 8).tolist() == KNOWN["order"]


def test_empty_batch_and_empty_epoch() -> None:
    views = draw_views(full(), (60, 66), 0, 0, 0, np.zeros(0, np.int64))
    assert views.boxes.shape == (0, 4)
    assert views.columns.shape == (0, 3)
    assert len(views.partner) == len(epoch_order(0, 0, 0)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 4)}, "size: got"),
        ({"factor": 0}, "factor: got 0"),
        ({"scale": (0.0, 1.0)}, "scale: got"),
        ({"ratio": (2.0, 1.0)}, "ratio: got"),
        ({"shift": -1}, "shift: got -1"),
        ({"mix": "cutout"}, "mix: got 'cutout'"),
        ({"alpha": 0.0}, "alpha: got 0"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewConfig(**{"size": (4, 4), **change})


def test_wrong_draws_are_named() -> None:
    with pytest.raises(ValueError, match="image_size: got 61x66"):
        draw_views(full(), (61, 66), 0, 0, 0, [0])
    with pytest.raises(TypeError, match="index"):
        draw_views(full(), (60, 66), 0, 0, 0, [0.5])
    with pytest.raises(ValueError, match="index"):
        draw_views(full(), (60, 66), 0, 0, 0, [-1])
