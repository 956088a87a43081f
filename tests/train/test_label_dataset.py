"""Data sets of stored labels: what relabel saw is what training gets, through loaders with and without workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from ddfast.ops import soft_label_loss
from ddfast.store import LabelMismatchError, LabelStore
from ddfast.train.augment import render
from ddfast.train.label_dataset import ImageLabelDataset, SoftLabelDataset
from ddfast.train.relabel import relabel
from ddfast.train.replay import Replay, view_from_json, view_to_json
from tests.train.label_helpers import VIEW, teacher, tiny_set


@pytest.fixture
def labels(tmp_path: Path) -> LabelStore:
    return relabel(
        tiny_set(), [teacher()], tmp_path, view=VIEW, seed=5, epochs=2, batch_size=4, kind="fp16", progress="quiet"
    )


@pytest.mark.parametrize(("workers", "stay"), [(0, False), (2, False), (2, True)])
def test_each_batch_is_what_the_teacher_saw(labels: LabelStore, workers: int, stay: bool) -> None:
    data = SoftLabelDataset(tiny_set(), labels)
    net, seen = teacher().module, []
    loader = data.dataloader(num_workers=workers, persistent_workers=stay)
    for epoch in range(data.epochs):
        data.set_epoch(epoch)
        for images, logits in loader:
            seen.append(images)
            torch.testing.assert_close(logits, net(images), rtol=2e-3, atol=2e-3)
    assert [len(images) for images in seen] == [4, 4, 2] * 2
    assert not torch.equal(seen[0], seen[3])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_stored_top_k_labels_go_straight_into_the_loss(tmp_path: Path) -> None:
    options = {"view": VIEW, "epochs": 1, "batch_size": 4, "progress": "quiet"}
    top = relabel(tiny_set(), [teacher()], tmp_path, kind="topk", k=2, **options)  # type: ignore[arg-type]
    stored = SoftLabelDataset(tiny_set(), top, dense=False)
    dense = SoftLabelDataset(tiny_set(), top)
    for (images, logits), (_, kept) in zip(dense, stored, strict=True):
        student = teacher(2).module(images)
        torch.testing.assert_close(
            soft_label_loss(student, kept, temperature=20.0), soft_label_loss(student, logits, temperature=20.0)
        )


def test_plain_images_with_any_sampler(tmp_path: Path) -> None:
    store = relabel(tiny_set(), [teacher()], tmp_path, view=None, kind="fp16", progress="quiet")
    data = ImageLabelDataset(tiny_set(), store)
    images, logits = next(iter(DataLoader(data, batch_size=7, shuffle=True)))
    torch.testing.assert_close(logits, teacher().module(images), rtol=2e-3, atol=2e-3)
    raw = ImageLabelDataset(tiny_set(), store, transform=lambda image: image)[3][0]
    assert torch.equal(raw, tiny_set().images[3].permute(2, 0, 1))
    with pytest.raises(ValueError, match="of the plain images"):
        SoftLabelDataset(tiny_set(), store)


def test_labels_of_something_else_are_refused(labels: LabelStore) -> None:
    with pytest.raises(LabelMismatchError, match="another set of images"):
        SoftLabelDataset(tiny_set(seed=1), labels)
    with pytest.raises(ValueError, match="SoftLabelDataset makes those views again"):
        ImageLabelDataset(tiny_set(), labels)
    more = tiny_set()
    more.class_names = (*more.class_names, "d")
    with pytest.raises(ValueError, match="has 3 classes, the set 4"):
        SoftLabelDataset(more, labels)
    with pytest.raises(ValueError, match="epoch: got 2"):
        SoftLabelDataset(tiny_set(), labels).set_epoch(2)
    with pytest.raises(IndexError):
        SoftLabelDataset(tiny_set(), labels)[3]


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (12, 4)])
def test_the_order_of_torchs_random_sampler(count: int, batch: int) -> None:
    replay = Replay(VIEW, (12, 12), count, 42, batch, "random_sampler")
    sampler = RandomSampler(range(count), generator=torch.Generator().manual_seed(42))
    loader = DataLoader(range(count), batch_size=batch, sampler=sampler)  # type: ignore[arg-type]
    for epoch in range(3):
        for step, index in enumerate(loader):
            assert torch.equal(replay.index(epoch, step), index)


def test_replay_is_described_by_its_fingerprint() -> None:
    data, replay = tiny_set(), Replay(VIEW, (12, 12), 10, 5, 4)
    again = Replay.from_fingerprint(replay.fingerprint(data.images, data.labels), 10)
    assert again == replay
    assert view_from_json(view_to_json(VIEW)) == VIEW
    views = again.views(1, 2)
    norm = teacher().normalization
    assert torch.equal(
        render(data.images, views, VIEW, norm), render(data.images, replay.views(1, 2), VIEW, norm, threads=1)
    )
    with pytest.raises(ValueError, match="step: got 3"):
        replay.index(0, 3)
    for message, changed in (("order: got 'x'", {"order": "x"}), ("batch_size: got 0", {"batch_size": 0}),
                             ("seed: got -1", {"seed": -1})):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            replace(replay, **changed)
    with pytest.raises(ValueError, match="lacks what replaying needs"):
        Replay.from_fingerprint({"view": {"size": [3, 3]}}, 4)
