"""Pictures from anywhere: a class with six members is a source. Here they stay in a zip archive.

Prints which files herding chooses of each class. Checks that the distilled images are pictures of the archive.
"""

import argparse
import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from toy_data import write_archive

import ddfast


class ZipSource:
    """``class/picture.png`` entries of an archive; positions of a class are those of its sorted names."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        with zipfile.ZipFile(path) as archive:
            entries = sorted((e for e in archive.infolist() if not e.is_dir()), key=lambda e: e.filename)
        self.class_names = tuple(sorted({entry.filename.split("/")[0] for entry in entries}))
        self._ids = [[e.filename for e in entries if e.filename.split("/")[0] == name] for name in self.class_names]
        self._sums = [f"{entry.filename} {entry.CRC}" for entry in entries]

    def count(self, label: int) -> int:
        return len(self._ids[label])

    def sample_id(self, label: int, position: int) -> str:
        return self._ids[label][position]

    def load(self, label: int, position: int) -> bytes:  # or uint8 [H, W, 3] pixels; called by several threads at once
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self._ids[label][position])

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join([*self.class_names, *self._sums]).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="zip archive of class/picture files (default: built-in digits)")
    parser.add_argument("--ipc", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        choose_and_find(args, Path(scratch))


def choose_and_find(args: argparse.Namespace, scratch: Path) -> None:
    source = ZipSource(args.data or write_archive(scratch / "digits.zip", per_class=60))
    made = ddfast.distill(
        "coreset", source, selection="herding", observer="train:conv3", ipc=args.ipc, size=args.size, format="png",
        out=scratch / "herding", quiet=True,
    )  # fmt: skip
    places = {source.sample_id(c, p): (c, p) for c in range(len(source.class_names)) for p in range(source.count(c))}
    for image, label, entry in zip(made.images, made.labels.tolist(), made.manifest["images"], strict=True):
        sample = entry["cells"][0]["sample"]
        picture = np.array(Image.open(io.BytesIO(source.load(*places[sample]))).convert("RGB"))
        if places[sample][0] != label or (picture.shape == image.shape and (picture != image.numpy()).any()):
            raise SystemExit(f"{sample} is not the picture that was chosen")
        print(f"{source.class_names[label]}: {sample}")
    print(f"{len(made)} of {len(places)} pictures chosen, each found in the archive")


if __name__ == "__main__":
    main()
