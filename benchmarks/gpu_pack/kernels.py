"""Small cases of every kernel a GPU runs, against the reference there; also what compute-sanitizer watches.

python -m benchmarks.gpu_pack.kernels --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddfast import ops
from ddfast._types import IMAGENET
from ddfast.train import augment
from ddfast.train.dsa import STRATEGY, draw_dsa, pack
from ddfast.train.views import ViewConfig, draw_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Case = tuple[str, str, Callable[[], Any], float]


def _pictures(device: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Two odd-sized pictures side by side, and boxes that touch their borders."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[37, 53], [61, 29]], dtype=torch.int32)
    counts = sizes.long().prod(1) * 3
    pixels = torch.randint(0, 256, (int(counts.sum()),), generator=generator, dtype=torch.uint8)
    offsets = torch.tensor([0, int(counts[0])])
    boxes = torch.tensor([[0, 0, 37, 53], [36, 52, 1, 1], [3, 5, 21, 21], [0, 0, 61, 29], [50, 10, 11, 19]])
    index = torch.tensor([0, 0, 0, 1, 1], dtype=torch.int32)
    where = [each.to(device) for each in (pixels, offsets, sizes, boxes.int(), index)]
    return tuple(where[:3]), tuple(where[3:])


def cases(device: str) -> Iterator[Case]:
    """(op, description, call without backend, allowed error against the reference on the device)."""
    pictures, (boxes, index) = _pictures(device)
    for side in (16, 33):
        for last in (False, True):
            options = {"size": (side, side), "mean": MEAN, "std": STD, "channels_last": last}
            yield "multi_crop", f"{side} px", lambda o=options: ops.multi_crop(*pictures, boxes, index, **o), 1e-4
    square = boxes[[2, 2, 2, 2]]
    yield (
        "mosaic",
        "17 px, factor 2",
        lambda: ops.mosaic(*pictures, square, index[[0, 0, 0, 0]], size=17, factor=2).float(),
        1.0,
    )
    for classes in (1, 10, 1000, 1025):
        logits = torch.randn(7, 3, classes, generator=torch.Generator().manual_seed(classes)).to(device) * 5
        labels = torch.arange(7, device=device) % classes
        yield "crop_score", f"{classes} classes", lambda a=logits, b=labels: ops.crop_score(a, b)[0], 2e-5
    scores = torch.rand(97, generator=torch.Generator().manual_seed(1)).to(device)
    labels, keys = torch.arange(97, device=device) % 5, torch.arange(97, device=device)
    table = torch.full((5, 4), float("inf"), device=device)
    empty = torch.full((5, 4), torch.iinfo(torch.int64).max, device=device)
    yield "class_topk", "97 samples", lambda: ops.class_topk(scores, labels, keys, table, empty)[0], 0.0
    yield from _label_cases(device)
    yield from _view_cases(device)
    yield from _siamese_cases(device)
    yield from _discrepancy_cases(device)
    for dtype in (torch.float32, torch.bfloat16):
        yield from _plane_cases(device, dtype)


def _label_cases(device: str) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(2)
    for classes in (3, 1000):
        z, t = ((torch.randn(5, classes, generator=generator) * 3).to(device) for _ in range(2))

        def gradient(z: Tensor = z, t: Tensor = t) -> Tensor:
            z = z.clone().requires_grad_()
            loss = ops.soft_label_loss(z, t, temperature=4.0)
            return torch.cat([loss.detach()[None], torch.autograd.grad(loss, z)[0].flatten()])

        yield "soft_label_loss", f"{classes} classes", gradient, 2e-5


def _view_cases(device: str) -> Iterator[Case]:
    images = torch.randint(0, 256, (6, 20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)).to(
        device
    )
    for name, mix, factor in (("cutmix", "cutmix", 2), ("mixup", "mixup", 1)):
        config = ViewConfig((20, 20), factor=factor, scale=(0.3, 1.0), flip=True, shift=2, mix=mix)
        views = draw_views(config, (20, 20), 0, 0, 0, torch.arange(6))
        yield "augment_batch", name, lambda v=views, c=config: augment.render(images, v, c, IMAGENET), 1e-4


def _siamese_cases(device: str) -> Iterator[Case]:
    """Every operation of DSA on odd pictures, and its transpose."""
    generator = torch.Generator().manual_seed(5)
    x, g = (torch.randn(3, 3, 19, 33, generator=generator).to(device) for _ in range(2))
    for name in STRATEGY.split("_"):
        rows = pack(draw_dsa(name, 3, (19, 33), seed=0), (19, 33)).to(device)
        yield "dsa", name, lambda p=rows: ops.dsa(x, p), 2e-5
        yield "dsa_adjoint", name, lambda p=rows: ops.dsa_adjoint(g, p), 2e-5


def _discrepancy_cases(device: str) -> Iterator[Case]:
    """Values and matrices, and the gradients from the reference's matrices, of odd numbers of points."""
    generator = torch.Generator().manual_seed(6)
    sigmas = torch.tensor([[1.0, 4.0]] * 3, device=device)
    for n, m in ((5, 7), (40, 33)):
        x, y = (torch.randn(3, k, 67, generator=generator).to(device) * 0.4 for k in (n, m))
        given = (x, y, sigmas, True, True)
        with ops.use_backend("reference"):
            weights = torch.ops.ddfast.mmd(*given, 2)[1]

        def value(given: tuple[Any, ...] = given) -> Tensor:
            return torch.cat([each.flatten() for each in torch.ops.ddfast.mmd(*given, 2)])

        def gradient(given: tuple[Any, ...] = given, weights: Tensor = weights) -> Tensor:
            upstream = torch.ones(3, device=weights.device)
            found = torch.ops.ddfast.mmd_backward(upstream, weights, *given, True)
            return torch.cat([each.flatten() for each in found])

        yield "mmd", f"{n} and {m} points", value, 1e-5
        yield "mmd_backward", f"{n} and {m} points", gradient, 1e-5


def _plane_cases(device: str, change: torch.dtype) -> Iterator[Case]:
    """Odd planes of two models, derivatives in ``change``."""
    library, generator = torch.ops.ddfast, torch.Generator().manual_seed(4)
    a, da = (torch.randn(4, 16, 7, 5, generator=generator).to(device) for _ in range(2))
    gamma, beta, dgamma, dbeta = (torch.randn(2, 16, generator=generator).to(device) for _ in range(4))
    gp, dgp = (torch.randn(4, 16, 3, 2, generator=generator).to(device, change) for _ in range(2))
    da = da.to(change)
    with ops.use_backend("reference"):
        _, mean, rstd = library.plane_block(a, gamma, beta, True, 1e-5)
        _, dmean, cov = library.plane_block_tangent(a, da, mean, rstd, gamma, beta, dgamma, dbeta, True)
    second = (gp, dgp, a, da, mean, rstd, dmean, cov, gamma, beta, dgamma, True)
    calls: dict[str, tuple[Any, ...]] = {
        "plane_block": (a, gamma, beta, True, 1e-5),
        "plane_block_backward": (gp, a, mean, rstd, gamma, beta, True),
        "plane_block_tangent": (a, da, mean, rstd, gamma, beta, dgamma, dbeta, True),
        "plane_block_tangent_backward": second,
    }
    for name, given in calls.items():

        def flat(name: str = name, given: tuple[Any, ...] = given) -> Tensor:
            return torch.cat([each.float().flatten() for each in getattr(library, name)(*given)])

        yield name, str(change).removeprefix("torch."), flat, 1e-4 if change == torch.float32 else 0.1


def main() -> None:
    """Runs every backend of the device on every case; exit code 1 when one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.kernels", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = parser.parse_args().device
    wrong = 0
    for op, what, call, bound in cases(device):
        with ops.use_backend("reference", [op]):
            wanted = call()
        for backend in ops.available_backends(op, device):
            with ops.use_backend(backend, [op]):
                found = call()
            error = float((found.double() - wanted.double()).abs().max())
            good = error <= bound
            wrong += not good
            print(
                f"{op:28s} {what:18s} {backend:10s} error {error:.2e} {'ok' if good else f'WRONG, allowed {bound:g}'}"
            )
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{wrong} wrong" if wrong else "all kernels agree with the reference")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
