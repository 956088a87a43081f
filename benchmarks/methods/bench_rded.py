"""RDED end to end and its input path, against the transcription of the reference and the best existing packages.

    pytest benchmarks/methods/bench_rded.py --benchmark-enable --bench-size full

End to end: both sides distil the same pictures with the same crops and observer on the same cores, in one process, one
after the other. Two ratios are given: of the whole runs, ddfast's set-up (engine compilation, calibration) included;
and of the work beyond set-up, which a run on four pictures measures and which a large run tends to. Nothing is
reported unless both chose the same patches. The transcription gets as many loader workers as there are cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torchvision import transforms

from benchmarks.baselines import rded_reference as reference
from benchmarks.methods import rded_pair as pair
from ddfast._types import IMAGENET
from ddfast.data import CropRequest, open_source, open_stream
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets import Observer, imagenet_wnids, load_observer

CORES = len(os.sched_getaffinity(0))
OBSERVERS = ("resnet18", "efficientnet_lite0")
_SIMD = ("simd_resizer", "simd_resizer_normalised") if find_spec("cykooz_resizer") else ()
INPUT_PATHS = ("reference", "torch_uint8", *_SIMD, "ddfast")


@pytest.fixture(scope="module")
def work(imagenet20: Path, bench_size: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RDEDConfig]:
    size = pair.SIZES[bench_size]
    train = pair.link_classes(imagenet20, tmp_path_factory.mktemp("rded") / "train", size.classes)
    return train, RDEDConfig(ipc=size.ipc, mipc=size.mipc)


@pytest.fixture(scope="module", params=OBSERVERS)
def baseline(
    request: pytest.FixtureRequest, work: tuple[Path, RDEDConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Observer, pair.Timed]:
    """Observer and the transcription's run with it: once for all precisions."""
    train, config = work
    observer = _observer(request.param)
    run = pair.run_reference(train, tmp_path_factory.mktemp("reference"), observer, config, CORES)
    return observer, run


def _observer(name: str) -> Observer:
    if name == "resnet18":  # published weights cannot be had everywhere; the arithmetic does not depend on them
        torch.manual_seed(0)
        return load_observer(name, random_weights=True, class_names=imagenet_wnids())
    pytest.importorskip("efficientnet_lite_pytorch", reason=f"{name} comes with the package efficientnet-lite-pytorch")
    return load_observer(name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_end_to_end(
    benchmark: Any,
    baseline: tuple[Observer, pair.Timed],
    work: tuple[Path, RDEDConfig],
    precision: str,
    tmp_path: Path,
    report_line: Callable[[str], None],
) -> None:
    (observer, theirs), (train, config) = baseline, work
    tiny = pair.link_classes(train, tmp_path / "tiny", 1)
    setup = pair.run_ddfast(tiny, tmp_path / "setup", observer, RDEDConfig(ipc=1, mipc=4), precision, CORES)
    runs: list[pair.Timed] = []

    def run() -> None:
        runs.append(pair.run_ddfast(train, tmp_path / str(len(runs)), observer, config, precision, CORES))

    benchmark.pedantic(run, rounds=1, iterations=1)
    ours = runs[-1]
    same = pair.agreement(theirs.result, ours.result.manifest, config.ipc)
    benchmark.extra_info.update(
        reference_wall=theirs.wall,
        reference_cpu=theirs.cpu,
        reference_stages=theirs.result.timings,
        ddfast_wall=ours.wall,
        ddfast_cpu=ours.cpu,
        setup_wall=setup.wall,
        setup_cpu=setup.cpu,
        speedup_wall=theirs.wall / ours.wall,
        speedup_cpu=theirs.cpu / ours.cpu,
        selection=same.text(),
        cores=CORES,
    )
    report_line(f"{observer.name} {precision}, {CORES} cores, {len(theirs.result.chosen)} patches: {same.text()}")
    for unit, before, after, start in (
        ("wall", theirs.wall, ours.wall, setup.wall),
        ("CPU", theirs.cpu, ours.cpu, setup.cpu),
    ):
        report_line(
            f"    {before:.1f} -> {after:.1f} s {unit}: {before / after:.2f}x; set-up {start:.1f} s, "
            f"{_beyond(before, after, start)}"
        )


def _beyond(before: float, after: float, setup: float) -> str:
    """The ratio of the work beyond set-up, unless set-up is so much of the run that the difference is noise."""
    if after - setup < 0.4 * after:
        return "run too short for a ratio beyond it"
    return f"{before / (after - setup):.2f}x beyond it"


class InputPath:
    """Source images to ``num_crop`` crops of 112 px by different means, one thread each; the same boxes for all."""

    def __init__(self, train: Path, config: RDEDConfig, images: int) -> None:
        self.config, self.train = config, train
        draws = list(pair.draws_of(train, config))
        each = -(-images // len(draws))
        self.draws = [reference.Draw(draw.paths[:each], draw.boxes[:each]) for draw in draws]
        self.images = sum(len(draw.paths) for draw in self.draws)

    def reference(self) -> None:
        """Pillow, full-image float conversion, float antialiased resizes, normalise."""
        normalize = transforms.Normalize(IMAGENET.mean, IMAGENET.std)
        pool = reference.ClassPool(
            self.train, 0, 0, self.config.num_crop, self.config.patch, normalize, draws=self.draws
        )
        for index in range(len(pool)):
            pool[index]

    def simd_resizer(self) -> None:
        """simplejpeg and fast_image_resize (AVX2, fixed point): the best existing pair; stops at uint8 crops."""
        for _ in self._simd_crops():
            pass

    def simd_resizer_normalised(self) -> None:
        """The same, and on to the normalised float32 batch the observer needs."""
        mean, std = (torch.tensor(value) * 255 for value in (IMAGENET.mean, IMAGENET.std))
        for crops in self._simd_crops():
            torch.from_numpy(np.stack(crops)).float().sub_(mean).div_(std)

    def _simd_crops(self) -> Iterator[list[np.ndarray]]:
        import cykooz_resizer as rust

        resizer, side = rust.Resizer(), self.config.patch
        algorithm = rust.ResizeAlg.convolution(rust.FilterType.bilinear)
        for path, boxes in self._files():
            pixels = simplejpeg.decode_jpeg(path.read_bytes())
            height, width = pixels.shape[:2]
            crops = []
            source = rust.ImageData(width, height, rust.PixelType.U8x3, pixels.tobytes())
            for top, left, box_height, box_width in boxes:
                target = rust.ImageData(side, side, rust.PixelType.U8x3)
                crop = rust.CropBox(left, top, box_width, box_height)
                options = rust.ResizeOptions(resize_alg=algorithm, crop_box=crop, use_alpha=False)
                resizer.resize(source, target, options)
                crops.append(np.frombuffer(target.get_buffer(), np.uint8).reshape(side, side, 3))
            yield crops

    def torch_uint8(self) -> None:
        """simplejpeg and torch's uint8 channels-last antialiased resize, not normalised."""
        side = self.config.patch
        for path, boxes in self._files():
            image = torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes())).permute(2, 0, 1)
            for top, left, height, width in boxes:
                crop = image[None, :, top : top + height, left : left + width]
                torch.nn.functional.interpolate(crop, (side, side), mode="bilinear", antialias=True)

    def ddfast(self) -> None:
        """The stream of ddfast in the calling thread: float-exact and normalised."""
        source = open_source(self.train)
        stream = open_stream("threads", workers=0)
        request = CropRequest((self.config.patch, self.config.patch), self.config.num_crop, IMAGENET)
        groups = []
        boxes_of: dict[tuple[int, int], Any] = {}
        for label, draw in enumerate(self.draws):
            positions = pair.draw_positions(self.config, label, source.count(label))[: len(draw.paths)]
            boxes_of.update({(label, int(p)): box for p, box in zip(positions, draw.boxes, strict=True)})
            groups.append((label, positions))

        def given(label: int, positions: np.ndarray, _sizes: np.ndarray) -> np.ndarray:
            return np.array([boxes_of[label, int(p)] for p in positions], np.int32).reshape(len(positions), -1, 4)

        for _ in stream.crops(source, groups, request, given, batch_images=32):
            pass
        stream.close()

    def _files(self) -> Iterator[tuple[Path, list[reference.Box]]]:
        for draw in self.draws:
            for path, boxes in zip(draw.paths, draw.boxes, strict=True):
                yield Path(path), boxes


@pytest.fixture(scope="module")
def input_path(work: tuple[Path, RDEDConfig], bench_size: str) -> InputPath:
    return InputPath(*work, {"smoke": 24, "medium": 120, "full": 400}[bench_size])


@pytest.fixture(scope="module")
def rates(input_path: InputPath) -> dict[str, float]:
    """Images per CPU second of each, the best of four interleaved passes, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in INPUT_PATHS}
    with _one_thread():
        for turn in range(5):
            for name in INPUT_PATHS:
                start = time.process_time()
                getattr(input_path, name)()
                if turn:  # the first pass warms up
                    seconds[name].append(time.process_time() - start)
    return {name: input_path.images / min(passes) for name, passes in seconds.items()}


@pytest.mark.benchmark(group="rded input path", timer=time.process_time)
@pytest.mark.parametrize("name", INPUT_PATHS)
def test_input_path(
    benchmark: Any, input_path: InputPath, rates: dict[str, float], name: str, report_line: Callable[[str], None]
) -> None:
    """Decode and five crops to 112 px, one core, CPU time."""
    with _one_thread():
        benchmark.pedantic(getattr(input_path, name), rounds=3, iterations=1)
    ratio = rates[name] / rates["reference"]
    benchmark.extra_info.update(images_per_second=rates[name], over_reference=ratio)
    report_line(f"input path {name}: {rates[name]:.0f} images/s of one core, {ratio:.2f}x the reference")


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
