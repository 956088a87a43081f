"""multi_crop: many random crops of pictures of any size, resized and normalised in one call, under torch.compile.

Prints the largest difference to torchvision's resized_crop and normalize, and the ratio of times (the best of some runs
on this machine). Checks the difference.
"""

import argparse
import time
from pathlib import Path

import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import RandomResizedCrop, v2

from ddfast import ops
from ddfast.data import open_source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def digits(count: int) -> list[torch.Tensor]:
    """Pictures uint8 [3, H, W] of different sizes."""
    source = open_source("mnist5k")
    sizes = torch.randint(100, 300, (count, 2)).tolist()
    return [
        v2.functional.resize(torch.from_numpy(source.load(n % 10, n)).permute(2, 0, 1), size, antialias=True)
        for n, size in enumerate(sizes)
    ]


def torchvision_crop(picture: torch.Tensor, box: list[int], size: int) -> torch.Tensor:
    crop = v2.functional.to_dtype(v2.functional.crop(picture, *box), torch.float32, scale=True)
    return v2.functional.normalize(v2.functional.resize(crop, [size, size], antialias=True), MEAN, STD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of JPEG or PNG files (default: built-in digits, enlarged)")
    parser.add_argument("--crops", type=int, default=5, help="of each picture")
    parser.add_argument("--size", type=int, default=112)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.data:
        files = sorted(f for f in args.data.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            parser.error(f"--data: no JPEG or PNG files in {args.data}, expected a folder that holds some")
        pictures = [decode_image(str(file), ImageReadMode.RGB) for file in files[:100]]
    else:
        pictures = digits(20)
    owner = torch.arange(len(pictures), dtype=torch.int32).repeat_interleave(args.crops)
    boxes = [RandomResizedCrop.get_params(pictures[i], [0.08, 1.0], [3 / 4, 4 / 3]) for i in owner]

    packed = torch.cat([picture.permute(1, 2, 0).reshape(-1) for picture in pictures])  # rows of RGB bytes
    offsets = torch.tensor([0, *(picture.numel() for picture in pictures[:-1])]).cumsum(0)
    sizes = torch.tensor([picture.shape[1:] for picture in pictures], dtype=torch.int32)
    cuts = torch.tensor(boxes, dtype=torch.int32)

    @torch.compile(fullgraph=True)
    def crop(cuts: torch.Tensor) -> torch.Tensor:
        return ops.multi_crop(packed, offsets, sizes, cuts, owner, size=(args.size, args.size), mean=MEAN, std=STD)

    times = []
    for _ in range(4):  # the first one compiles
        began = time.perf_counter()
        crops = crop(cuts)
        middle = time.perf_counter()
        expected = torch.stack(
            [torchvision_crop(pictures[i], box, args.size) for i, box in zip(owner, boxes, strict=True)]
        )
        times.append((middle - began, time.perf_counter() - middle))
    fast, slow = (min(each) for each in zip(*times, strict=True))
    error = (crops - expected).abs().max().item()
    print(f"{len(boxes)} crops of {len(pictures)} pictures differ by {error:.1e} at most;", end=" ")
    print(f"torchvision takes {slow / fast:.1f} times as long")
    if not error < 1e-4:
        raise SystemExit("the crops are not the same")


if __name__ == "__main__":
    main()
