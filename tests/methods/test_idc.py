"""IDC as a method: what it writes, restarts, presets, how its sets reach students, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddfast
from ddfast.data.arrays import ArraySource
from ddfast.evaluation import evaluate
from ddfast.evaluation.controls import Subset
from ddfast.evaluation.plan import Plan, Spec
from ddfast.evaluation.tasks import training_pictures
from ddfast.methods import get_method
from ddfast.methods._driver import loss_curve
from ddfast.methods.idc import PRESETS, IDCConfig
from ddfast.nets.resnet_ap import FlatResNetAP
from ddfast.store import DistilledSet
from ddfast.store.formation import Formation
from ddfast.train.matching.idc import IDCMatcher

SETTINGS: dict[str, Any] = {
    "ipc": 2, "size": 16, "depth": 2, "width": 8, "iterations": 4, "inner_loop": 2, "lr_img": 1.0, "batch_real": 4,
    "n_data": 8, "batch_net": 8, "eval_every": 2, "eval_students": 1, "eval_epochs": 3, "device": "cpu", "quiet": True,
}  # fmt: skip


def source(each: int = 12, seed: int = 0) -> ArraySource:
    rng = np.random.default_rng(seed)
    labels = np.arange(3 * each) % 3
    images = rng.normal(100, 30, (3 * each, 16, 16, 3))
    images[np.arange(3 * each), :, :, labels] += 70
    return ArraySource(images.clip(0, 255).astype(np.uint8), labels, ("red", "green", "blue"), name="colours")


def distilled(out: Path, **changes: Any) -> DistilledSet:
    return ddfast.distill("idc", source(), out=out, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DistilledSet:
    return distilled(tmp_path_factory.mktemp("idc") / "set")


def test_it_stores_undecoded_images_and_says_how_to_decode(made: DistilledSet) -> None:
    assert made.counts == [2, 2, 2]
    assert made.formation == Formation(2, "single")
    assert made.extras == {}
    assert made.manifest["bytes"]["images"] == 6 * 16 * 16 * 3
    assert made.manifest["recipe"]["protocol"] == "idc"
    assert [test["iteration"] for test in made.manifest["tests"]] == [2, 4]
    assert len(made.manifest["losses"]) == 4
    whole = made.decoded()
    assert whole.counts == [8, 8, 8]
    assert whole.formation == Formation()
    pixels = Formation(2).decode(made.images.permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1)
    assert torch.equal(whole.images, (pixels * 255).round().to(torch.uint8))
    assert torch.equal(whole.labels, made.labels.repeat(4))


def test_loaders_give_decoded_images(made: DistilledSet) -> None:
    whole = made.decoded()
    batches = list(made.dataloader(10, augment=False, shuffle=False))
    assert [len(x) for x, _ in batches] == [10, 10, 4]
    assert torch.equal(torch.cat([y for _, y in batches]), whole.labels)
    mean, std = (torch.tensor(made.manifest["normalization"][key]) for key in ("mean", "std"))
    want = ((whole.images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), want, rtol=1e-4, atol=1e-4)
    assert len(made.as_dataset(kind="tensor")) == 24


def test_exports_hold_decoded_images(made: DistilledSet, tmp_path: Path) -> None:
    folder = made.export("imagefolder", tmp_path / "out")
    assert len(list(folder.rglob("*.png"))) == 24


def test_it_is_a_base_of_progressive_distillation(tmp_path: Path) -> None:
    options = {name: value for name, value in SETTINGS.items() if name not in ("ipc", "device", "quiet")}
    found = ddfast.distill(
        "pdd", source(), out=tmp_path / "set", base="idc", stages=2, ipc_per_stage=1, transition_epochs=2, pool=1,
        base_option=options, device="cpu", quiet=True,
    )  # fmt: skip
    assert found.counts == [2, 2, 2]
    assert found.decoded().counts == [8, 8, 8]
    assert sorted(found.decoded().manifest["stages"]) == [0] * 12 + [1] * 12


def test_soft_labels_and_stages_go_with_their_images() -> None:
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    manifest = {"formation": Formation(2, "multi").as_json(), "stages": [0, 1, 1]}
    extras = {"soft_logits": torch.eye(3), "lr": torch.tensor([0.1])}
    whole = DistilledSet(images, torch.arange(3), ("a", "b", "c"), manifest, extras).decoded()
    assert torch.equal(whole.images[:3], images)
    assert whole.manifest["stages"] == [0, 1, 1] * 5
    assert torch.equal(whole.extras["soft_logits"].argmax(1), whole.labels)
    assert whole.extras["lr"].tolist() == pytest.approx([0.1])


def test_students_are_trained_on_decoded_images_and_storage_counts_stored_ones(
    made: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def watched(plan: Plan, subject: Any, spec: Spec) -> Subset:
        found = training_pictures(plan, subject, spec)
        seen[spec.images] = len(found.images)
        return found

    monkeypatch.setattr("ddfast.evaluation.tasks.training_pictures", watched)
    judged = evaluate(
        made, val=source(10, 1), students="conv2_instance", train=source(), preset="idc", seeds=1, epochs=6,
        width=8, curve_points=1, processes=1, device="cpu", quiet=True, byte_control=False,
    )  # fmt: skip
    assert seen == {"distilled": 24, "random-images": 6}
    rows = {row["images"]: row for row in judged.report["results"]}
    assert rows["distilled"]["recipe"]["milestones"] == [4, 5]
    assert rows["distilled"]["recipe"]["batch_size"] == 24
    assert judged.report["sets"][0]["storage"]["bytes"]["images"] == 6 * 16 * 16 * 3


@pytest.mark.parametrize("changes", [{}, {"decode": "bound", "batch_syn": 5, "formation": 3}])
def test_a_stopped_run_goes_on_to_the_same_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole = distilled(tmp_path / "whole", **changes)
    advance = IDCMatcher.advance

    def stopped(self: IDCMatcher) -> float:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(IDCMatcher, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        distilled(tmp_path / "parts", **changes)
    monkeypatch.setattr(IDCMatcher, "advance", advance)
    parts = distilled(tmp_path / "parts", resume=True, **changes)
    assert torch.equal(parts.images, whole.images)
    assert parts.manifest["losses"] == whole.manifest["losses"]
    assert parts.formation.kind == "single"


def test_images_begin_as_asked_and_move(tmp_path: Path) -> None:
    begun = {
        init: distilled(tmp_path / init, init=init, lr_img=1e-9, iterations=1, test="none").images
        for init in ("mix", "real", "noise")
    }
    real = {picture.tobytes() for picture in (source().load(c, i) for c in range(3) for i in range(12))}
    assert all(image.numpy().tobytes() in real for image in begun["real"])
    assert not any(image.numpy().tobytes() in real for image in begun["mix"])
    assert abs(begun["noise"].float().mean() - 127.5) < 5
    moved = distilled(tmp_path / "moved", lr_img=100.0, iterations=1, test="none").images
    assert not torch.equal(moved, begun["mix"])


def test_presets_are_the_programs_settings() -> None:
    method = get_method("idc")
    configs = {name: method.configure(name) for name in PRESETS}
    cifar = configs["cifar10-ipc10"]
    assert cifar.settings().lr_img == pytest.approx(5e-3)
    assert configs["cifar10-ipc50"].settings().lr_img == pytest.approx(25e-3)
    assert (cifar.iterations, cifar.inner_loop, cifar.n_data, cifar.metric) == (200_000, 100, 2000, "mse")
    large = configs["imagenet10-ipc20"]
    assert isinstance(large.net(10), FlatResNetAP)
    assert large.decoding == Formation(3, "bound", 128)
    assert large.settings().lr_img == pytest.approx(6e-3)
    assert configs["imagenet100-ipc10"].settings().net.batch_size == 128
    assert configs["mnist-ipc1"].size == 28


def test_a_long_curve_of_losses_is_kept_as_means() -> None:
    assert loss_curve([]) == []
    assert loss_curve([3.0, 1.0]) == [3.0, 1.0]
    assert loss_curve([float(k // 100) for k in range(200_000)]) == [float(k) for k in range(2000)]


def test_students_rate_is_the_recipes(tmp_path: Path) -> None:
    made = distilled(tmp_path / "set", iterations=1, test="none", lr_net=0.1)
    assert made.manifest["lr"] == made.manifest["recipe"]["lr"] == 0.1


def test_resnet_ap_can_be_matched_on(tmp_path: Path) -> None:
    made = distilled(tmp_path / "set", architecture="resnetap10", iterations=1, test="none", ipc=1)
    assert made.counts == [1, 1, 1]
    assert np.isfinite(made.manifest["losses"]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zca": True}, "zca: got True"),
        ({"formation": 0}, "formation: got 0"),
        ({"formation": 33}, "formation: got 33 at size=32"),
        ({"decode": "double"}, "decode: got 'double'"),
        ({"cutmix": 2.0}, "cutmix: got 2.0"),
        ({"dsa_net": "color_blur"}, "dsa: got 'color_blur'"),
        ({"metric": "cos"}, "metric: got 'cos'"),
        ({"n_data": -1}, "n_data: got -1"),
        ({"architecture": "resnetap10", "norm": "batch"}, "norm: got 'batch'"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IDCConfig(**given)
