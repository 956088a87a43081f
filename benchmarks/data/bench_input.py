"""The input path, decode and five crops to 112 px, images per second of one core; real pictures where they are.

pytest benchmarks/data/bench_input.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import torch
from torch import Tensor

from benchmarks.data import input_paths as paths
from benchmarks.methods import rded_pair as pair
from benchmarks.records import Labels
from ddfast._types import IMAGENET
from ddfast.bench import work as jobs
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.methods.rded.config import RDEDConfig

IMAGES = {"smoke": 16, "medium": 80, "full": 200}
SAMPLED = 8  # every eighth picture is compared
LEVEL = 1 / 255 / min(IMAGENET.std)
MODULES = {
    "simplejpeg+simd": "cykooz_resizer",
    "simplejpeg+simd-stops-at-uint8": "cykooz_resizer",
    "dali-cpu": "nvidia",
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pictures(bench_size: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[paths.Pictures, str]:
    """Files with boxes, and what they are."""
    folder = tmp_path_factory.mktemp("input") / "train"
    data = Path(os.environ.get("DDFAST_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    real = data / "imagenet20" / "train"
    if real.is_dir():
        train, kind = pair.link_classes(real, folder, 4), "ImageNet files of short side 224 to 320"
    else:
        train, kind = paths.write_pictures(folder), "made-up 500x375 q95 files"
    return paths.Pictures(train, RDEDConfig(ipc=1, mipc=IMAGES[bench_size] // 2), IMAGES[bench_size]), kind


@pytest.fixture(scope="module")
def wanted(pictures: tuple[paths.Pictures, str]) -> list[Tensor]:
    """What the reference's transform makes of the sampled pictures."""
    return [crops for index, crops in enumerate(paths.rded_transform(pictures[0])) if index % SAMPLED == 0]


def _work(pictures: paths.Pictures) -> Work:
    """Files read and decoded once, boxes read from the decoded picture, float32 crops written."""
    encoded, pixels = 0, 0
    boxes: list[Any] = []
    index: list[int] = []
    sizes: list[int] = []
    for number, (path, drawn) in enumerate(pictures.files()):
        data = path.read_bytes()
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        encoded, pixels = encoded + len(data), pixels + height * width
        boxes += drawn
        index += [number] * len(drawn)
        sizes.append(3 * height * width)
    crops = jobs.crops(boxes, index, sizes, paths.SIDE, 4)
    return Work(len(sizes), "image", crops.bytes + encoded, crops.flops, "fp32", encoded, pixels)


def _keep(run: Callable[[paths.Pictures], Iterator[Tensor]], pictures: paths.Pictures) -> Callable[[], list[Tensor]]:
    """Runs through all pictures and keeps the sampled crops only, as a consumer would free the rest."""

    def all_of_them() -> list[Tensor]:
        return [crops.clone() for index, crops in enumerate(run(pictures)) if index % SAMPLED == 0]

    return all_of_them


def _check(wanted: list[Tensor], levels: float) -> Callable[[list[Tensor]], Check]:
    def check(got: list[Tensor]) -> Check:
        if len(got) != len(wanted):
            return Check("pictures", abs(len(got) - len(wanted)), 0)
        floats = [paths.normalised(c.permute(0, 3, 1, 2)) if c.dtype == torch.uint8 else c for c in got]
        errors = [float((a - b).abs().mean()) for a, b in zip(floats, wanted, strict=True)]
        return Check("mean grey levels off the reference's transform, worst picture", max(errors) / LEVEL, levels)

    return check


def _labels(pictures: tuple[paths.Pictures, str], name: str, **more: Any) -> Labels:
    shape = f"{pictures[0].images} {pictures[1]} to {pictures[0].config.num_crop} crops of {paths.SIDE}"
    dtype = "uint8" if name.endswith("uint8") and "stops" in name else "float32"
    return Labels("input path", name, "input", shape, dtype, name, **more)


def test_ddfast(case: Any, pictures: tuple[paths.Pictures, str], wanted: list[Tensor]) -> None:
    case(
        _keep(paths.ddfast_stream, pictures[0]),
        labels=_labels(pictures, "ddfast"),
        work=_work(pictures[0]),
        check=_check(wanted, 1e-3),
    )


@pytest.mark.parametrize("name", paths.PATHS)
def test_baseline(case: Any, pictures: tuple[paths.Pictures, str], wanted: list[Tensor], name: str) -> None:
    run, *packages = paths.PATHS[name]
    if name in MODULES and not find_spec(MODULES[name]):
        pytest.skip(f"{MODULES[name]} is not installed")
    if name == "dali-cpu":
        pytest.importorskip("nvidia.dali")
    case(
        _keep(run, pictures[0]),
        labels=_labels(pictures, name, baseline=", ".join(package(each) for each in dict.fromkeys(packages))),
        work=_work(pictures[0]),
        check=_check(wanted, 1e-3 if name == "rded-transform" else 2.0),
        ddfast=_keep(paths.ddfast_stream, pictures[0]),
    )
