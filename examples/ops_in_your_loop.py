"""augment_batch and plane_block in somebody else's training loop, compiled to one graph, beside plain PyTorch.
Prints the largest difference of the losses and the ratio of times of a step (the best of some). Checks the difference.
"""

import argparse
import time

import torch
from torch import nn
from torchvision.transforms import RandomResizedCrop, v2

from ddfast import ops
from ddfast.data import open_source
from ddfast.data.squares import whole_images

MEAN, STD = (0.13,) * 3, (0.31,) * 3


class Fused(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.plane_block(x, self.weight, self.bias)


def convnet(fused: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = []
    for width in (3, 64, 64):
        block = [Fused(64, 64)] if fused else [nn.GroupNorm(64, 64), nn.ReLU(), nn.AvgPool2d(2)]
        layers += [nn.Conv2d(width, 64, 3, padding=1, bias=False), *block]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def plain_view(picture: torch.Tensor, box: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    view = v2.functional.resized_crop(picture.permute(2, 0, 1) / 255, *box.tolist(), [32, 32], antialias=True)
    return v2.functional.normalize(view.flip(2) if flip else view, MEAN, STD)


def train(images: torch.Tensor, labels: torch.Tensor, batches: list, fused: bool) -> tuple[torch.Tensor, float]:
    net = convnet(fused)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def loss_of(index: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        if fused:  # no strips shuffled, nothing shifted, nothing mixed
            still = torch.zeros(len(index), 2, dtype=torch.int32)
            draws = index, still[:, :1], still[:, :1], boxes, flip, still, torch.arange(len(index)), still[:2].flatten()
            x = ops.augment_batch(images, *draws, 1.0, size=(32, 32), mean=MEAN, std=STD)
        else:
            x = torch.stack([plain_view(*each) for each in zip(images[index], boxes, flip, strict=True)])
        return nn.functional.cross_entropy(net(x), labels[index])

    step, losses, times = torch.compile(loss_of, fullgraph=True) if fused else loss_of, [], []
    for batch in batches:
        times.append(-time.perf_counter())
        optimizer.zero_grad()
        losses.append(step(*batch))
        losses[-1].backward()
        optimizer.step()
        times[-1] += time.perf_counter()
    return torch.stack(losses).detach(), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    torch.manual_seed(1)
    images, labels = whole_images(open_source("mnist5k"), 32, 100)
    batches = []
    for index in torch.randperm(len(images))[: 6 * batch].split(batch):
        boxes = [RandomResizedCrop.get_params(images[i].permute(2, 0, 1), [0.3, 1.0], [0.75, 1.33]) for i in index]
        batches.append((index, torch.tensor(boxes, dtype=torch.int32), torch.rand(len(index)) < 0.5))
    (ours, fast), (plain, slow) = (train(images, labels, batches, fused) for fused in (True, False))
    print(f"losses differ by {(ours - plain).abs().max():.1e}; plain code takes {slow / fast:.1f} times as long")
    if not torch.allclose(ours, plain, atol=1e-3):
        raise SystemExit("the losses are not the same")


if __name__ == "__main__":
    main()
