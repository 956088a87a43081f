"""MTT's inner loop, by automatic differentiation through all its steps and by ddfast's adjoint.

Prints the errors of the loss and of the gradients in images and rate, against automatic differentiation in float64, and
the ratio of times (the best of some runs on this machine). Checks that the adjoint is as exact as the plain way.
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.data import open_source
from ddfast.data.squares import whole_images
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, match_trajectory


def plain_loop(net, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, lr: Tensor, batches: list[Tensor]):
    """As in the program of MTT (arXiv 2203.11932): a graph of the whole training, differentiated twice."""
    images, lr, theta = (x.clone().requires_grad_() for x in (images, lr, start))
    for index in batches:
        loss = F.cross_entropy(net.logits(theta, images[index]), labels[index])
        theta = theta - lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    loss = (theta - target).square().sum() / (start - target).square().sum()
    loss.backward()
    return loss.detach(), images.grad, lr.grad


def adjoint_loop(net, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, lr: Tensor, batches: list[Tensor]):
    """The same by ddfast: one call."""
    match = match_trajectory(net, start, target, images, labels, lr, [InnerStep(index) for index in batches])
    return match.loss, match.images, match.lr


def train_expert(net, theta: Tensor, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        loss = F.cross_entropy(net.logits(theta.requires_grad_(), images[rows]), labels[rows])
        theta = theta.detach() - 0.01 * torch.autograd.grad(loss, theta)[0]
    return theta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="of the student (MTT: 10 to 80)")
    parser.add_argument("--width", type=int, default=64, help="of the ConvNet (MTT: 128)")
    args = parser.parse_args()
    torch.manual_seed(0)
    pictures, classes = whole_images(open_source("mnist5k"), 32, 100)
    pictures = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.13) / 0.31
    net = FlatConvNet(width=args.width)  # theta is one vector, in the order of MTT's replay_buffer files
    start = train_expert(net, net.init(torch.Generator().manual_seed(0)), pictures, classes, 20)
    target = train_expert(net, start, pictures, classes, 10)

    rows = torch.cat([torch.nonzero(classes == label)[: args.ipc, 0] for label in range(10)])
    given = (net, start, target, pictures[rows], classes[rows], torch.tensor(0.01))
    batches = [torch.randperm(len(rows)) for _ in range(args.steps)]
    exact = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]
    truth = plain_loop(*exact, batches)
    errors, times = [], []
    for name, loop in (("automatic differentiation", plain_loop), ("ddfast's adjoint", adjoint_loop)):
        spent = []
        for _ in range(3):
            began = time.perf_counter()
            found = loop(*given, batches)
            spent.append(time.perf_counter() - began)
        errors.append([((x - y).abs().max() / y.abs().max()).item() for x, y in zip(found, truth, strict=True)])
        times.append(min(spent))
        print(f"{name}: loss {found[0]:.5f}, errors", ", ".join(f"{error:.1e}" for error in errors[-1]))
    print(f"automatic differentiation takes {times[0] / times[1]:.1f} times as long")
    if any(mine > 3 * plain + 1e-4 for plain, mine in zip(*errors, strict=True)):
        raise SystemExit("the gradients are not the same")


if __name__ == "__main__":
    main()
