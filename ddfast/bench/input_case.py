"""The input path: JPEG files to five normalised float32 crops each, on one core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from torch import Tensor

from ddfast._types import IMAGENET
from ddfast.bench import rivals, work
from ddfast.bench.cases import Case, Setting
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.bench.op_cases import CROPS, LEVEL, SIDE
from ddfast.bench.pictures import make_pictures
from ddfast.data import CropRequest, draw_rrc_boxes, open_source, open_stream

Drawn = list[tuple[Path, list[list[int]]]]


def draw(label: int, positions: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """RDED's boxes of seed 0."""
    return draw_rrc_boxes(0, label, positions, sizes, CROPS)


def files_of(train: Path) -> Drawn:
    """Every file of a folder of class folders with its boxes, in the order of labels and positions."""
    found: Drawn = []
    for label, folder in enumerate(sorted(path for path in train.iterdir() if path.is_dir())):
        paths = sorted(folder.iterdir())
        sizes = np.array([simplejpeg.decode_jpeg_header(path.read_bytes())[:2] for path in paths], np.int32)
        boxes = draw(label, np.arange(len(paths)), sizes).tolist()
        found += zip(paths, boxes, strict=True)
    return found


def cost(files: Drawn) -> Work:
    """Files read and decoded once, boxes read from the decoded pictures, float32 crops written."""
    encoded, sizes = 0, []
    for path, _ in files:
        data = path.read_bytes()
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        encoded += len(data)
        sizes.append(3 * height * width)
    boxes = [box for _, drawn in files for box in drawn]
    index = [k for k, (_, drawn) in enumerate(files) for _ in drawn]
    crops = work.crops(boxes, index, sizes, SIDE, 4)
    return replace(
        crops, items=len(files), unit="picture", bytes=crops.bytes + encoded, jpeg_bytes=encoded,
        jpeg_pixels=sum(sizes) / 3,
    )  # fmt: skip


def input_path(setting: Setting) -> Case:
    """Decode and five crops of each picture, picture after picture."""
    train = make_pictures(setting.folder, 1, setting.count(6, 24, 24))
    files, source = files_of(train), open_source(train)
    stream, request = open_stream("threads", workers=0), CropRequest((SIDE, SIDE), CROPS, IMAGENET)
    wanted = [rivals.input_path(path.read_bytes(), boxes, SIDE) for path, boxes in files]

    def ours() -> list[Tensor]:
        """The last crop of each picture is kept to be checked, the rest freed, as a consumer would."""
        groups = [(0, np.arange(len(files)))]
        batches = stream.crops(source, groups, request, draw, batch_images=32)
        return [crops[-1].clone() for batch in batches for crops in batch.crops.split(CROPS)]

    def check(out: list[Tensor]) -> Check:
        if len(out) != len(wanted):
            return Check("pictures missing", abs(len(wanted) - len(out)), 0)
        errors = [float((a - b[-1]).abs().mean()) for a, b in zip(out, wanted, strict=True)]
        return Check("mean grey levels off Pillow + torch, worst picture", max(errors) / LEVEL, 1e-3)

    return Case(
        f"{len(files)} JPEGs of 500x375, {cost(files).jpeg_bytes / len(files) / 1e3:.0f} kB, to {CROPS} crops of "
        f"{SIDE} px",
        cost(files),
        ours,
        lambda: [rivals.input_path(path.read_bytes(), boxes, SIDE)[-1].clone() for path, boxes in files],
        f"{package('pillow')} + torch float interpolate",
        check,
        check,
    )
