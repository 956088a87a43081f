"""Students on stored labels: as with the live teacher, and refused for other settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddfast.store import LabelMismatchError, LabelStore
from ddfast.train import StudentConfig, train_student
from ddfast.train.relabel import relabel
from ddfast.train.student import view_config
from tests.train.label_helpers import Pooled, teacher, tiny_set

CONFIG = StudentConfig(epochs=3, batch_size=4, factor=2, lr=0.003, seed=7, temperature=4.0)


def stored(path: Path, **options: object) -> LabelStore:
    given = {"seed": 7, "epochs": 3, "batch_size": 4, "progress": "quiet", **options}
    return relabel(tiny_set(), [teacher()], path, view=view_config(CONFIG, (12, 12)), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["fp16", "topk"])
def test_as_with_the_live_teacher(tmp_path: Path, kind: str) -> None:
    data, live, ours = tiny_set(), Pooled(3), Pooled(3)
    # of three logits two are kept, and the tail is the third one
    store = stored(tmp_path, kind=kind, k=2, tail_temperature=4.0)
    report = train_student(data.images, data.labels, ours, config=CONFIG, soft_labels=store)
    wanted = train_student(data.images, data.labels, live, teacher().module, CONFIG)
    assert report.losses == pytest.approx(wanted.losses, rel=1e-2)
    torch.testing.assert_close(ours.head.weight, live.head.weight, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("order", ["counter", "random_sampler"])
def test_the_teacher_itself_has_no_loss_on_its_labels(tmp_path: Path, order: str) -> None:
    data, still = tiny_set(), replace(CONFIG, lr=1e-9, weight_decay=0.0)
    store = stored(tmp_path, order=order)
    same = train_student(data.images, data.labels, Pooled(1), config=still, soft_labels=store)
    other = train_student(data.images, data.labels, Pooled(2), config=still, soft_labels=store)
    assert max(same.losses) < 1e-6 < 1e-3 < min(other.losses)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    data, store = tiny_set(), stored(tmp_path)
    for message, config in (
        ("another seed", replace(CONFIG, seed=8)),
        ("another batch_size", replace(CONFIG, batch_size=5)),
        ("another view", replace(CONFIG, shift=1)),
    ):
        with pytest.raises(LabelMismatchError, match=message):
            train_student(data.images, data.labels, Pooled(3), config=config, soft_labels=store)
    with pytest.raises(LabelMismatchError, match="another set of images"):
        train_student(255 - data.images, data.labels, Pooled(3), config=CONFIG, soft_labels=store)
    with pytest.raises(ValueError, match="epochs: got 4"):
        train_student(data.images, data.labels, Pooled(3), config=replace(CONFIG, epochs=4), soft_labels=store)
