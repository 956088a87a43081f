"""Any nn.Module as an observer: a small network, trained in plain PyTorch, chooses RDED's crops.

Prints the network's accuracy and the losses of the first chosen crops, as the manifest has them and as the network
gives them for the stored images. Checks that they agree.
"""

import argparse

import torch
from torch import nn

import ddfast
from ddfast.data import open_source
from ddfast.data.squares import whole_images
from ddfast.nets import Normalization, load_observer

NORM = Normalization((0.13,) * 3, (0.31,) * 3)  # whatever the network was trained with


class Own(nn.Sequential):
    """Nothing that ddfast knows; inputs [n, 3, 32, 32]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.GELU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.BatchNorm2d(48), nn.GELU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48 * 16, 10),
        )  # fmt: skip


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2).float() / 255 - NORM.mean[0]) / NORM.std[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ipc", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    net = Own()
    images, labels = whole_images(open_source("mnist5k"), 32, 400)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(args.epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(normalised(images[rows])), labels[rows]).backward()
            optimizer.step()
    net.eval()
    test_images, test_labels = whole_images(open_source("mnist5k:test"), 32, 100)
    top1 = (net(normalised(test_images)).argmax(1) == test_labels).float().mean().item()
    print(f"the network's top-1 on 1000 test digits: {100 * top1:.1f} %")

    observer = load_observer(net, num_classes=10, input_size=32, normalization=NORM)
    made = ddfast.distill(
        "rded", "mnist5k", observer=observer, ipc=args.ipc, factor=1, size=32, mipc=40, format="png", quiet=True,
    )  # fmt: skip
    with torch.no_grad():
        losses = nn.functional.cross_entropy(net(normalised(made.images)), made.labels, reduction="none")
    for label, loss, entry in zip(made.labels.tolist(), losses.tolist(), made.manifest["images"], strict=True):
        score = entry["cells"][0]["score"]
        print(f"{label}: loss {score:.2e} in the manifest, {loss:.2e} of the image with rounded pixels")
        if abs(score - loss) > 0.05 * score + 1e-4:
            raise SystemExit("the manifest's loss is not that of the network")


if __name__ == "__main__":
    main()
