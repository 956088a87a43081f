"""Students from stored soft labels, and tests on the way that stream their pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import label_helpers as helper
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddfast._types import IMAGENET
from ddfast.runs import RunError
from ddfast.store import LabelMismatchError, LabelStore
from ddfast.train import LoopOptions, StudentConfig, TrainConfig, accuracy, fit, streamed_accuracy, train_student
from ddfast.train.relabel import relabel
from ddfast.train.student import view_config
from ddfast.train.views import draw_views, epoch_order

CONFIG = StudentConfig(
    epochs=2, batch_size=4, lr=0.01, factor=2, shift=1, seed=6, temperature=4.0, optimizer="sgd", schedule="cosine"
)


def stored(tmp_path: Path, **settings: object) -> tuple[torch.Tensor, torch.Tensor, LabelStore, nn.Module]:
    distilled, teacher = helper.tiny_set(), helper.teacher(norm=IMAGENET)
    options = {"view": view_config(CONFIG, (12, 12)), "seed": 6, "epochs": 2, "batch_size": 4, "kind": "fp16"}
    store = relabel(distilled, [teacher], tmp_path / "labels", progress="quiet", **{**options, **settings})
    return distilled.images, distilled.labels, store, teacher.module


@pytest.mark.parametrize("order", ["counter", "random_sampler"])
def test_stored_labels_train_as_the_teacher_does(tmp_path: Path, order: str) -> None:
    images, labels, store, teacher = stored(tmp_path, order=order)
    live, from_store = helper.Pooled(3), helper.Pooled(3)
    start = live.head.weight.detach().clone()
    one = train_student(images, labels, live, teacher.eval(), CONFIG)
    two = train_student(images, labels, from_store, None, CONFIG, soft_labels=store)
    if order == "counter":  # the live teacher's batches are in this order
        assert two.losses == pytest.approx(one.losses, rel=2e-3)
        moved = (live.head.weight - start).abs().max()
        assert (live.head.weight - from_store.head.weight).abs().max() < 5e-3 * moved
    assert all(loss > 0 for loss in two.losses)


def test_top_k_labels_train_too(tmp_path: Path) -> None:
    images, labels, store, _ = stored(tmp_path, kind="topk", k=2, tail_temperature=4.0)
    report = train_student(images, labels, helper.Pooled(3), None, replace(CONFIG, epochs=1), soft_labels=store)
    assert report.losses[0] > 0


def test_labels_of_another_set_seed_batch_or_length_are_refused(tmp_path: Path) -> None:
    images, labels, store, teacher = stored(tmp_path)
    net = helper.Pooled(3)
    for wrong in (replace(CONFIG, seed=7), replace(CONFIG, batch_size=5), replace(CONFIG, flip=False)):
        with pytest.raises(LabelMismatchError):
            train_student(images, labels, net, None, wrong, soft_labels=store)
    with pytest.raises(LabelMismatchError, match="set"):
        train_student(255 - images, labels, net, None, CONFIG, soft_labels=store)
    with pytest.raises(ValueError, match=r"epochs: got 3, .* has labels for 2"):
        train_student(images, labels, net, None, replace(CONFIG, epochs=3), soft_labels=store)
    with pytest.raises(ValueError, match="dsa: got 'flip' with stored labels"):
        train_student(images, labels, net, None, replace(CONFIG, dsa="flip"), soft_labels=store)
    with pytest.raises(ValueError, match="together with a teacher"):
        train_student(images, labels, net, teacher, CONFIG, soft_labels=store)


def test_labels_of_plain_images_serve_every_epoch(tmp_path: Path) -> None:
    images, labels, store, _ = stored(tmp_path, view=None, epochs=1)
    config = replace(CONFIG, epochs=3, dsa="color_flip", cutmix_alpha=0.0, factor=1)
    assert train_student(images, labels, helper.Pooled(3), None, config, soft_labels=store).steps == 9


@pytest.mark.parametrize("kind", ["fp16", "topk"])
def test_labels_of_plain_images_are_mixed_as_the_pixels_are(tmp_path: Path, kind: str) -> None:
    images, labels, store, _ = stored(tmp_path, view=None, epochs=1, kind=kind, k=2)
    config = replace(CONFIG, epochs=1, batch_size=10, factor=1)
    net = helper.Pooled(3)
    logits: list[torch.Tensor] = []
    net.register_forward_hook(lambda module, inputs, output: logits.append(output.detach()))
    report = train_student(images, labels, net, None, config, soft_labels=store)
    index = epoch_order(config.seed, 0, 10)
    views = draw_views(view_config(config, (12, 12)), (12, 12), config.seed, 0, 0, index)
    assert 0 < views.share < 1
    q = torch.log_softmax(logits[0].double() / 4, 1)
    truth = torch.zeros((), dtype=torch.float64)
    for share, who in ((views.share, index), (1 - views.share, index[views.partner])):
        p = torch.softmax(store.dense(0, who).double() / 4, 1)
        truth += share * (p * (p.log() - q)).sum(1).mean()
    assert report.losses[0] == pytest.approx(float(truth), rel=1e-4)


def test_a_checkpoint_knows_its_set_and_teacher(tmp_path: Path) -> None:
    images, labels = helper.tiny_set().images, helper.tiny_set().labels
    options = LoopOptions(checkpoint=tmp_path / "a.ckpt")
    teacher = helper.teacher().module.eval()
    train_student(images, labels, helper.Pooled(3), teacher, CONFIG, options=options)
    with pytest.raises(RunError, match="set '"):
        train_student(255 - images, labels, helper.Pooled(3), teacher, CONFIG, options=options)
    with pytest.raises(RunError, match="teacher '"):
        train_student(images, labels, helper.Pooled(3), helper.teacher(2).module, CONFIG, options=options)
    fit(helper.Pooled(3), images, labels, TrainConfig(epochs=1), options=LoopOptions(checkpoint=tmp_path / "b.ckpt"))
    other = LoopOptions(checkpoint=tmp_path / "b.ckpt")
    with pytest.raises(RunError, match="set '"):
        fit(helper.Pooled(3), 255 - images, labels, TrainConfig(epochs=1), options=other)


def test_streamed_accuracy_is_the_accuracy(tmp_path: Path) -> None:
    distilled = helper.tiny_set(23)
    loader = DataLoader(TensorDataset(distilled.images, distilled.labels), batch_size=7)
    net = helper.Pooled(3).eval()
    test = streamed_accuracy(loader)
    assert test(net) == pytest.approx(accuracy(net, distilled.images, distilled.labels))
    assert test(net) == test(net)
    options = LoopOptions(validate=test, test_epochs={1, 2})
    report = train_student(distilled.images, distilled.labels, helper.Pooled(4), None, CONFIG, options=options)
    assert [each.epoch for each in report.tested] == [1, 2]
    with pytest.raises(TypeError, match="one pass only"):
        streamed_accuracy(iter(loader))
    with pytest.raises(ValueError, match="no pictures"):
        streamed_accuracy([])(net)
