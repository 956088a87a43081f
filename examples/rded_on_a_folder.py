"""RDED on a folder of class folders, and where each patch came from.

Prints the set's size and, of its first image, the file and box behind every patch. Checks that cutting these boxes
out of the files again gives the image.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from toy_data import write_folder

import ddfast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of class folders (default: files of built-in digits)")
    parser.add_argument("--observer", default="train:conv3", help="resnet18, a checkpoint, or train:conv3")
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="in pixels, even: all patches are of one size then")
    parser.add_argument("--out", type=Path, help="folder of the result (default: none is kept)")
    args = parser.parse_args()
    if args.size < 2 or args.size % 2:
        parser.error(f"--size: got {args.size}, expected an even number of pixels, such as {args.size // 2 * 2 + 2}")
    with tempfile.TemporaryDirectory() as scratch:
        distil_and_look(args, Path(scratch))


def distil_and_look(args: argparse.Namespace, scratch: Path) -> None:
    data = args.data or write_folder(scratch / "digits", per_class=200)
    out = args.out or scratch / "rded"

    made = ddfast.distill(
        "rded", data, observer=args.observer, ipc=args.ipc, factor=2, size=args.size, mipc=100, format="png", out=out,
        quiet=True,
    )  # fmt: skip
    made.contact_sheet(out / "contact_sheet.png")
    print(f"{len(made)} images of {len(made.class_names)} classes", f"in {args.out}" if args.out else "")

    side = args.size // 2
    for place, cell in enumerate(made.manifest["images"][0]["cells"]):
        picture = np.array(Image.open(data / cell["sample"]).convert("RGB"))
        top, left, height, width = cell["box"]
        print(
            f"patch {place}: {cell['sample']}, {height} x {width} pixels at ({top}, {left}), loss {cell['score']:.2g}"
        )
        crop = torch.from_numpy(picture[top : top + height, left : left + width]).permute(2, 0, 1)[None].float()
        again = F.interpolate(crop, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        row, column = side * (place // 2), side * (place % 2)
        found = made.images[0, row : row + side, column : column + side].float()
        if (again - found).abs().max() > 0.51:  # half a level of rounding
            raise SystemExit(f"patch {place} is not the crop that the manifest names")
    print("each patch is the crop that the manifest names")


if __name__ == "__main__":
    main()
