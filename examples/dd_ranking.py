"""DD-Ranking 0.2 on an exported set, along the way that works in it: tensors, labels of a teacher as students train.

Prints hard-label recovery (HLR), improvement over random (IOR) and the label-robust score of them as shares (its own
takes percent). Checks that they are the differences of the accuracies that it logs, and that a student of the exported
pictures does better than chance. ddranking asks for numpy below 2 but runs with ours:
pip install 'ddfast[interchange]' && pip install --no-deps ddranking==0.2.0
"""

import argparse
import contextlib
import io
import os
import re
import statistics
import tempfile
from pathlib import Path

import torch
from toy_data import write_cifar

import ddfast
from ddfast.data import open_source
from ddfast.data.squares import whole_images
from ddfast.evaluation import label_robust_score

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])  # DD-Ranking's of CIFAR
ACCURACIES = ("Full data hard label", "Syn data hard label", "Syn data soft label", "Random data soft label")


def train_teacher(path: Path, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    from ddranking.utils import build_model

    net = build_model("ConvNet-3", num_classes=10, im_size=(32, 32), device="cpu")
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    for rows in (rows for _ in range(epochs) for rows in torch.randperm(len(images)).split(32)):
        torch.nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, help="distilled CIFAR-10 (default: random digits, one a class)")
    parser.add_argument("--real", type=Path, help="folder with cifar-10-batches-py (default: digits in its files)")
    parser.add_argument("--epochs", type=int, default=20, help="of students (DD-Ranking: 1000), at least 20")
    parser.add_argument("--repeats", type=int, default=1, help="DD-Ranking: 5")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        score(args, Path(folder))


def score(args: argparse.Namespace, folder: Path) -> None:
    from ddranking.config.user_config import Config
    from ddranking.metrics import LabelRobustScoreSoft

    real = args.real.resolve() if args.real else write_cifar(folder / "dataset")
    chosen = {"selection": "random", "ipc": 1, "size": 32, "quiet": True}
    made = ddfast.load(args.set) if args.set else ddfast.distill("coreset", "mnist5k", **chosen)
    made.export("ddranking", folder / "set", dataset="CIFAR10")
    pictures, labels = whole_images(open_source(str(real)), 32, 10**6)
    teacher = folder / "teacher_models" / "CIFAR10" / "ConvNet-3" / "ckpt_best.pt"
    normalised = ((pictures / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
    train_teacher(teacher, normalised, labels, epochs=5)  # for a real evaluation bring a better one

    os.chdir(folder)  # the settings name folders beside them
    config = Config.from_file("set/ddranking.yaml")
    config.update({"real_data_path": str(real), "device": args.device, "num_workers": 0})
    config.update({"num_eval": args.repeats, "num_epochs": args.epochs, "real_batch_size": 64})
    images = torch.load("set/images.pt")
    rate = torch.load("set/lr.pt") if Path("set/lr.pt").exists() else None
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        found = LabelRobustScoreSoft(config).compute_metrics(image_tensor=images, syn_lr=rate)
    print(log.getvalue())
    hlr, ior = (found[f"{name}_mean"] for name in ("hard_label_recovery", "improvement_over_random"))
    share = label_robust_score(hlr / 100, ior / 100)
    print(f"HLR {hlr:.1f}, IOR {ior:.1f} points; label-robust score {share:.3f}, of which 0.269 means no gain, no loss")
    full, hard, soft, random = (logged(name, log.getvalue()) for name in ACCURACIES)
    if abs(full - hard - hlr) > 0.02 or abs(soft - random - ior) > 0.02:  # which it logs with two digits
        raise SystemExit(f"got HLR {hlr} and IOR {ior}, expected {full - hard} and {soft - random}")
    if full < 20 or hard < 12:  # of ten classes
        raise SystemExit(f"got {full} % with all pictures and {hard} % with the set's, no better than chance")


def logged(name: str, log: str) -> float:
    """Mean of an accuracy over the repeats, in percent."""
    return statistics.mean(float(found) for found in re.findall(rf"^{name} acc: ([\d.]+)%", log, re.MULTILINE))


if __name__ == "__main__":
    main()
