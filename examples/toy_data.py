"""Built-in digits in the forms that people's own data have, for trying the examples without any data."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import cifar

from ddfast.data import open_source
from ddfast.data.squares import whole_images


def write_folder(folder: Path, per_class: int) -> Path:
    """folder/<class>/<number>.png."""
    digits = open_source("mnist5k")
    for label, name in enumerate(digits.class_names):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(np.asarray(digits.load(label, number))).save(folder / name / f"{number:04d}.png")
    return folder


def write_archive(path: Path, per_class: int) -> Path:
    """A zip archive of <class>/<number>.png of 32 x 32 pixels."""
    digits = open_source("mnist5k")
    with zipfile.ZipFile(path, "w") as archive:
        for label, name in enumerate(digits.class_names):
            for number in range(per_class):
                file = io.BytesIO()
                pixels = np.pad(digits.load(label, number), ((2, 2), (2, 2), (0, 0)))
                Image.fromarray(pixels).save(file, "PNG")
                archive.writestr(f"{name}/{number:04d}.png", file.getvalue())
    return path


def write_cifar(folder: Path) -> Path:
    """The files of CIFAR-10 with ten digits a class; torchvision is told to take them despite their checksums."""
    files = folder / "cifar-10-batches-py"
    files.mkdir(parents=True)
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        images, labels = whole_images(open_source(f"mnist5k:{split}"), 32, 10)
        pixels = images.permute(0, 3, 1, 2).flatten(1).numpy()
        for part, name in enumerate(names):
            content = {"data": pixels[part :: len(names)], "labels": labels[part :: len(names)].tolist()}
            (files / name).write_bytes(pickle.dumps(content))
    (files / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(10)]}))
    cifar.check_integrity = cifar.CIFAR10._check_integrity = lambda *_: True
    return folder
