"""DD-Ranking 0.2 on exported sets, along its working paths, with random pictures in the files of CIFAR-10."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder, cifar

from ddfast.evaluation.explain import explain
from ddfast.store import DistilledSet

for package in ("yaml", "kornia", "pandas", "timm", "ddranking"):
    pytest.importorskip(package, reason=f"needs {package} (extra interchange, and ddranking==0.2.0 without its pins)")

from ddranking.config.user_config import Config  # noqa: E402
from ddranking.metrics import AugmentationRobustScore, LabelRobustScoreSoft  # noqa: E402
from ddranking.utils import TensorDataset, build_model, networks  # noqa: E402

CLASSES = 10


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the real set, a teacher and an exported set; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    monkeypatch.setattr(cifar.CIFAR10, "_check_integrity", lambda _: True)
    wide = networks.ConvNet.__init__

    def narrow(self: Any, channel: int, num_classes: int, net_width: int, *rest: Any, **options: Any) -> None:
        wide(self, channel, num_classes, 8, *rest, **options)

    monkeypatch.setattr(networks.ConvNet, "__init__", narrow)
    write_cifar(tmp_path / "dataset" / "cifar-10-batches-py")
    teacher = tmp_path / "teacher_models" / "CIFAR10" / "ConvNet-3" / "ckpt_best.pt"
    teacher.parent.mkdir(parents=True)
    torch.manual_seed(0)
    net = build_model("ConvNet-3", num_classes=CLASSES, im_size=(32, 32), device="cpu")
    torch.save(net.state_dict(), teacher)
    distilled().export("ddranking", tmp_path / "set")
    distilled().export("imagefolder", tmp_path / "pictures")
    return tmp_path


def write_cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, count in [*((f"data_batch_{n}", 10) for n in range(1, 6)), ("test_batch", 20)]:
        pixels = torch.randint(0, 256, (count, 3072), dtype=torch.uint8).numpy()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [n % CLASSES for n in range(count)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(CLASSES)]}))


def distilled() -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * CLASSES, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(CLASSES).repeat(2)
    manifest = {"source": {"name": "cifar10", "fingerprint": ""}, "space": "normalized", "lr": 0.02}
    one = DistilledSet(images, labels, tuple(str(n) for n in range(CLASSES)), manifest)
    one.extras = {"trained_images": torch.randn(2 * CLASSES, 3, 32, 32, generator=generator)}
    return one


def short(**changes: Any) -> Config:
    config = Config.from_file("set/ddranking.yaml")
    config.update({"device": "cpu", "num_workers": 0, "num_eval": 1, "num_epochs": 20, **changes})
    return config


def test_tensors_are_its_data_set(work: Path) -> None:
    images, labels, rate = (torch.load(work / "set" / f"{name}.pt") for name in ("images", "labels", "lr"))
    data = TensorDataset(images, labels)
    assert len(data) == 2 * CLASSES
    assert data.targets.tolist() == torch.arange(CLASSES).repeat_interleave(2).tolist()
    assert rate.item() == pytest.approx(0.02)
    pictures = ImageFolder(str(work / "pictures" / "train"), transform=short().get("custom_train_trans"))
    assert pictures.targets == data.targets.tolist()
    assert pictures[0][0].shape == images[0].shape
    assert short().get("custom_val_trans") is None


@pytest.mark.parametrize("kind", ["tensors", "folder"])
def test_label_robust_score_runs(work: Path, kind: str) -> None:
    score = LabelRobustScoreSoft(short())
    if kind == "tensors":
        found = score.compute_metrics(image_tensor=torch.load("set/images.pt"), syn_lr=torch.load("set/lr.pt"))
    else:
        found = score.compute_metrics(image_path="pictures/train", syn_lr=torch.load("set/lr.pt"))
    assert -100 <= found["hard_label_recovery_mean"] <= 100
    assert -100 <= found["improvement_over_random_mean"] <= 100
    assert (work / "results.csv").is_file()
    assert len(list((work / "random_data").rglob("*.jpg"))) == 2 * CLASSES


def test_what_explain_says_of_an_export_runs(work: Path) -> None:
    code = explain(work / "set").code
    assert "syn_lr=torch.load" in code
    for name, value in {"device": "cpu", "num_workers": 0, "num_eval": 1, "num_epochs": 2}.items():
        lines = (work / "set/ddranking.yaml").read_text().splitlines()
        changed = [f"{name}: {value}" if line.startswith(f"{name}:") else line for line in lines]
        (work / "set/ddranking.yaml").write_text("\n".join(changed))
    exec(code, {})
    assert (work / "results.csv").is_file()


def test_augmentation_robust_score_runs_with_cosine(work: Path) -> None:
    score = AugmentationRobustScore(short(lr_scheduler="cosine"))
    found = score.compute_metrics(image_tensor=torch.load("set/images.pt"), syn_lr=torch.load("set/lr.pt"))
    assert -100 <= found["with_aug_scores_mean"] <= 100


def test_what_the_settings_say_does_not_run(work: Path) -> None:
    """If a later version mends these, the exporter's words should follow."""
    with pytest.raises(AssertionError, match="step_size"):
        AugmentationRobustScore(short()).compute_metrics(image_tensor=torch.load("set/images.pt"))
    soft = LabelRobustScoreSoft(short(soft_label_mode="S"))
    with pytest.raises((UnboundLocalError, AttributeError)):
        soft.compute_metrics(
            image_tensor=torch.load("set/images.pt"), soft_labels=torch.zeros(2 * CLASSES, CLASSES), syn_lr=0.01
        )
