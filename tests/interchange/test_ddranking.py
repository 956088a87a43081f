"""DD-Ranking 0.2 on exported sets, along its working paths, with ten patterns of waves in the files of CIFAR-10."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder, cifar

from ddfast.evaluation.explain import explain
from ddfast.evaluation.scores import hard_label_recovery, improvement_over_random
from ddfast.store import DistilledSet

for package in ("yaml", "kornia", "pandas", "timm", "ddranking"):
    pytest.importorskip(package, reason=f"needs {package} (extra interchange, and ddranking==0.2.0 without its pins)")

from ddranking.config.user_config import Config  # noqa: E402
from ddranking.metrics import AugmentationRobustScore, LabelRobustScoreSoft  # noqa: E402
from ddranking.utils import TensorDataset, build_model, networks  # noqa: E402

CLASSES, PER_CLASS = 10, 2


def watch(score: Any) -> list[float]:
    """The accuracies that it will make its scores of, in order, as fractions."""
    seen: list[float] = []

    def watched(plain: Any) -> Any:
        def compute(*args: Any, **options: Any) -> Any:
            found = plain(*args, **options)
            seen.append(found[0] / 100)
            return found

        return compute

    for name in dir(score):
        if name.startswith("_compute_") and name.endswith("_helper"):
            setattr(score, name, watched(getattr(score, name)))
    return seen


def hard(score: LabelRobustScoreSoft, images: Tensor) -> float:
    """Accuracy in percent of a student of class-major pictures with hard labels."""
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    given = {"image_tensor": images, "image_path": None, "hard_labels": labels, "lr": None, "mode": "syn"}
    return float(score._compute_hard_label_metrics_helper(**given, hyper_param_search=True)[0])


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
    for seed, (name, count) in enumerate([*((f"data_batch_{n}", 20) for n in range(1, 6)), ("test_batch", 50)]):
        images, labels = waves(count // CLASSES, seed)
        order = torch.arange(count).view(CLASSES, -1).T.flatten()
        pixels = images[order].permute(0, 3, 1, 2).flatten(1).numpy()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels[order].tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(CLASSES)]}))


def waves(per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Each class has waves of its own direction, at any phase, in noise: uint8 [N, 32, 32, 3], classes in order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    angle, phase = labels * math.pi / CLASSES, 2 * math.pi * torch.rand(len(labels), generator=generator)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    wave = 128 + 80 * torch.sin(along * 2 * math.pi / 8 + phase[:, None, None])
    noise = 40 * torch.rand(len(labels), 32, 32, 3, generator=generator) - 20
    return (wave[..., None] + noise).to(torch.uint8), labels


def distilled() -> DistilledSet:
    images, labels = waves(PER_CLASS, 9)
    order = torch.arange(len(labels)).view(CLASSES, -1).T.flatten()  # not class by class: the export sorts
    manifest = {"source": {"name": "cifar10", "fingerprint": ""}, "space": "normalized", "lr": 0.02}
    one = DistilledSet(images[order], labels[order], tuple(str(n) for n in range(CLASSES)), manifest)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    one.extras = {"trained_images": ((one.images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()}
    return one


def short(**changes: Any) -> Config:
    config = Config.from_file("set/ddranking.yaml")
    config.update({"device": "cpu", "num_workers": 0, "num_eval": 1, "num_epochs": 20, **changes})
    return config


def test_tensors_are_its_data_set(work: Path) -> None:
    images, labels, rate = (torch.load(work / "set" / f"{name}.pt") for name in ("images", "labels", "lr"))
    data = TensorDataset(images, labels)
    assert len(data) == PER_CLASS * CLASSES
    assert data.targets.tolist() == torch.arange(CLASSES).repeat_interleave(PER_CLASS).tolist()
    assert rate.item() == pytest.approx(0.02)
    pictures = ImageFolder(str(work / "pictures" / "train"), transform=short().get("custom_train_trans"))
    assert pictures.targets == data.targets.tolist()
    assert pictures[0][0].shape == images[0].shape
    assert short().get("custom_val_trans") is None


@pytest.mark.parametrize("kind", ["tensors", "folder"])
def test_label_robust_score_runs(work: Path, kind: str) -> None:
    score = LabelRobustScoreSoft(short())
    seen = watch(score)
    if kind == "tensors":
        found = score.compute_metrics(image_tensor=torch.load("set/images.pt"), syn_lr=torch.load("set/lr.pt"))
    else:
        found = score.compute_metrics(image_path="pictures/train", syn_lr=torch.load("set/lr.pt"))
    synthetic, full, soft, random = seen
    assert synthetic > 0.4  # ten classes: the pictures go with their labels
    hlr, ior = hard_label_recovery(full, synthetic), improvement_over_random(soft, random)
    assert found["hard_label_recovery_mean"] == pytest.approx(100 * hlr)
    assert found["improvement_over_random_mean"] == pytest.approx(100 * ior)
    # its score of them is of percent, where ours takes fractions
    plain = (math.exp(50 * (ior - hlr)) - math.exp(-1)) / (math.e - math.exp(-1))
    assert found["label_robust_score_mean"] == pytest.approx(plain)
    assert (work / "results.csv").is_file()
    assert len(list((work / "random_data").rglob("*.jpg"))) == PER_CLASS * CLASSES


def test_what_explain_says_of_an_export_runs(work: Path) -> None:
    code = explain(work / "set").code
    assert "syn_lr=torch.load" in code
    for name, value in {"device": "cpu", "num_workers": 0, "num_eval": 1, "num_epochs": 2}.items():
        lines = (work / "set/ddranking.yaml").read_text().splitlines()
        changed = [f"{name}: {value}" if line.startswith(f"{name}:") else line for line in lines]
        (work / "set/ddranking.yaml").write_text("\n".join(changed))
    exec(code, {})
    assert (work / "results.csv").is_file()


def test_wrong_labels_score_worse(work: Path) -> None:
    score, images = LabelRobustScoreSoft(short()), torch.load("set/images.pt")
    assert hard(score, images) > hard(score, images.roll(PER_CLASS, 0)) + 30


def test_augmentation_robust_score_runs_with_cosine(work: Path) -> None:
    score = AugmentationRobustScore(short(lr_scheduler="cosine"))
    seen = watch(score)
    found = score.compute_metrics(image_tensor=torch.load("set/images.pt"), syn_lr=torch.load("set/lr.pt"))
    augmented, random, plain, random_plain = seen  # of an untrained teacher's labels: about chance
    assert found["with_aug_scores_mean"] == pytest.approx(100 * improvement_over_random(augmented, random))
    assert found["without_aug_scores_mean"] == pytest.approx(100 * improvement_over_random(plain, random_plain))


def test_what_the_settings_say_does_not_run(work: Path) -> None:
    """If a later version mends these, the exporter's words should follow."""
    with pytest.raises(AssertionError, match="step_size"):
        AugmentationRobustScore(short()).compute_metrics(image_tensor=torch.load("set/images.pt"))
    soft = LabelRobustScoreSoft(short(soft_label_mode="S"))
    with pytest.raises((UnboundLocalError, AttributeError)):
        soft.compute_metrics(
            image_tensor=torch.load("set/images.pt"), soft_labels=torch.zeros(PER_CLASS * CLASSES, CLASSES), syn_lr=0.01
        )
