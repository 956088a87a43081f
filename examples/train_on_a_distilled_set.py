"""Training on a distilled set with PyTorch and safetensors alone, with hard labels and with soft ones.

Makes a set of digits first when none is given. Prints the test accuracy of both students. Checks that they learned.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import ddfast
from ddfast.data import open_source
from ddfast.data.squares import whole_images
from ddfast.train import predict
from ddfast.train.small_observer import train_small_observer


def make_set(folder: Path) -> Path:
    """RDED's digits with their observer's logits: ``soft_logits`` of the plain images."""
    observer = train_small_observer("conv3", open_source("mnist5k"), size=32, progress="quiet")
    made = ddfast.distill("rded", "mnist5k", observer=observer, factor=1, ipc=10, mipc=40, size=32, quiet=True)
    made.extras["soft_logits"] = predict(observer.module, made.images, normalization=observer.normalization)
    return made.save(folder, format="safetensors")


def student() -> nn.Module:
    torch.manual_seed(1)
    layers = []
    for width in (3, 32, 32):
        layers += [nn.Conv2d(width, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 10))


def train(images: torch.Tensor, targets: torch.Tensor, epochs: int, temperature: float = 4.0) -> nn.Module:
    """Classes int64 [N] or logits [N, C]; soft ones at a temperature."""
    net = student()
    optimizer = torch.optim.AdamW(net.parameters(), 0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(25):
            down, right = torch.randint(-2, 3, (2,)).tolist()
            logits = net(images[rows].roll((down, right), (2, 3)))
            wanted = targets[rows]
            if wanted.ndim == 2:  # cross-entropy takes classes or probabilities
                logits, wanted = logits / temperature, F.softmax(wanted / temperature, 1)
            loss = F.cross_entropy(logits, wanted) * (temperature**2 if wanted.ndim == 2 else 1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, help="set saved as safetensors, of 32 x 32 digits with soft_logits")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        train_on(args.set or make_set(Path(scratch) / "set"), args.epochs)


def train_on(folder: Path, epochs: int) -> None:
    tensors = load_file(folder / "images.safetensors")  # from here on without ddfast
    norm = json.loads((folder / "manifest.json").read_text())["normalization"]
    mean, std = (torch.tensor(norm[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = (tensors["images"].permute(0, 3, 1, 2) / 255 - mean) / std
    pictures, classes = whole_images(open_source("mnist5k:test"), 32, 100)  # any test set would do
    test = (pictures.permute(0, 3, 1, 2) / 255 - mean) / std
    for kind, targets in (("hard", tensors["labels"]), ("soft", tensors["soft_logits"])):
        net = train(images, targets, epochs)
        top1 = (net(test).argmax(1) == classes).float().mean().item()
        print(f"{kind} labels: {100 * top1:.1f} % of {len(classes)} test digits after training on {len(images)}")
        if top1 < 0.5:
            raise SystemExit("the student did not learn; chance is 10 %")


if __name__ == "__main__":
    main()
