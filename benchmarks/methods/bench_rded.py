"""RDED end to end against the transcription of the reference.

    pytest benchmarks/methods/bench_rded.py --benchmark-enable --bench-size full

Both sides distil the same pictures with the same crops and observer on the same cores, in one process, one after the
other. Nothing is reported unless both chose the same patches. Times are of whole runs, ddfast's set-up (engine
compilation, calibration) included; a run on four pictures measures the set-up, and the ratio beyond it, which a large
run tends to, is in the notes. The transcription gets as many loader workers as there are cores.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import torch

from benchmarks.methods import rded_pair as pair
from benchmarks.records import Labels
from ddfast.bench import work as jobs
from ddfast.bench.floor import Work
from ddfast.bench.measured import Check
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets import Observer, build_forward, imagenet_wnids, load_observer

CORES = len(os.sched_getaffinity(0))
OBSERVERS = ("resnet18", "efficientnet_lite0")


class EndToEnd:
    """The work, and the transcription's run of it with each observer: once for all precisions."""

    def __init__(self, train: Path, config: RDEDConfig, folder: Path) -> None:
        self.train, self.config, self._folder = train, config, folder
        self.reference = functools.cache(self._reference)
        self.observer = functools.cache(_observer)
        self.setup = functools.cache(self._setup)

    def _reference(self, observer: str) -> pair.Timed:
        out = self._folder / f"reference_{observer}"
        return pair.run_reference(self.train, out, self.observer(observer), self.config, CORES)

    def _setup(self, observer: str, precision: str) -> pair.Timed:
        """ddfast on four pictures."""
        tiny = pair.link_classes(self.train, self._folder / f"tiny_{observer}_{precision}", 1)
        out, config = self._folder / f"setup_{observer}_{precision}", RDEDConfig(ipc=1, mipc=4)
        return pair.run_ddfast(tiny, out, self.observer(observer), config, precision, CORES)

    def work(self, observer: str, precision: str) -> Work:
        """Decode, crops and the forward of every crop, without what the empty canvas makes superfluous.

        Read are the files, written the crops, in ``precision``; the logits and the mosaics are nothing beside them.
        """
        encoded, pixels = 0, 0
        boxes: list[Any] = []
        index: list[int] = []
        sizes: list[int] = []
        for draw in pair.draws_of(self.train, self.config):
            for path, drawn in zip(draw.paths, draw.boxes, strict=True):
                data = Path(path).read_bytes()
                height, width = simplejpeg.decode_jpeg_header(data)[:2]
                encoded, pixels = encoded + len(data), pixels + height * width
                index += [len(sizes)] * len(drawn)
                boxes += drawn
                sizes.append(3 * height * width)
        crops = jobs.crops(boxes, index, sizes, self.config.patch, 4 if precision == "fp32" else 2)
        net = build_forward(self.observer(observer), patch=self.config.patch, canvas=self.config.size, engine="torch")
        flops = 2.0 * net.info["macs_active"] * len(boxes)
        return Work(len(sizes), "image", crops.bytes + encoded, flops, precision, encoded, pixels, CORES)


def _observer(name: str) -> Observer:
    if name == "resnet18":  # published weights cannot be had everywhere; the arithmetic does not depend on them
        torch.manual_seed(0)
        return load_observer(name, random_weights=True, class_names=imagenet_wnids())
    pytest.importorskip("efficientnet_lite_pytorch", reason=f"{name} comes with the package efficientnet-lite-pytorch")
    return load_observer(name)


@pytest.fixture(scope="module")
def both(imagenet20: Path, bench_size: str, tmp_path_factory: pytest.TempPathFactory) -> EndToEnd:
    size = pair.SIZES[bench_size]
    folder = tmp_path_factory.mktemp("rded")
    train = pair.link_classes(imagenet20, folder / "train", size.classes)
    return EndToEnd(train, RDEDConfig(ipc=size.ipc, mipc=size.mipc), folder)


def _labels(both: EndToEnd, observer: str, name: str, precision: str, **more: Any) -> Labels:
    size = both.config
    classes = len(list(both.train.iterdir()))
    shape = (
        f"{observer}, {classes} classes x {size.mipc} pictures x {size.num_crop} crops, IPC {size.ipc}, {CORES} cores"
    )
    return Labels(f"RDED {observer}", name, "rded", shape, precision, more.pop("backend", "auto"), **more)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_reference(case: Any, both: EndToEnd, observer: str) -> None:
    """The definition itself: all that can be wrong is how many patches it chose."""
    expected = len(list(both.train.iterdir())) * both.config.ipc * both.config.factor**2
    case(
        lambda: both.reference(observer),
        labels=_labels(
            both, observer, "transcription", "fp32", backend="torch", baseline="transcription of RDED's code"
        ),
        work=both.work(observer, "fp32"),
        check=lambda run: Check("patches missing", expected - len(run.result.chosen), 0),
        rounds=1,
        warmup=False,
        notes=lambda: {f"{name}_s": seconds for name, seconds in both.reference(observer).result.timings.items()},
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_ddfast(
    case: Any, both: EndToEnd, observer: str, precision: str, tmp_path: Path, report_line: Callable[[str], None]
) -> None:
    theirs, setup = both.reference(observer), both.setup(observer, precision)
    runs: list[pair.Timed] = []

    def run() -> pair.Timed:
        out = tmp_path / str(len(runs))
        runs.append(pair.run_ddfast(both.train, out, both.observer(observer), both.config, precision, CORES))
        return runs[-1]

    def check(ours: pair.Timed) -> Check:
        same = pair.agreement(theirs.result, ours.result.manifest, both.config.ipc)
        report_line(f"RDED {observer} {precision}: {same.text()}; {_ratios(theirs, runs[-1], setup)}")
        return Check("patches other than the transcription's, float32 ties apart", 0, 0)

    case(
        run,
        labels=_labels(both, observer, f"ddfast-{precision}", precision),
        work=both.work(observer, precision),
        check=check,
        rounds=1,
        warmup=False,
        notes=lambda: _notes(theirs, runs[-1], setup),
    )


def _ratios(theirs: pair.Timed, ours: pair.Timed, setup: pair.Timed) -> str:
    return (
        f"{theirs.wall:.1f} -> {ours.wall:.1f} s wall ({theirs.wall / ours.wall:.2f}x), {theirs.cpu:.1f} -> "
        f"{ours.cpu:.1f} s CPU; set-up {setup.wall:.1f} s, {_beyond(theirs.wall, ours.wall, setup.wall)}"
    )


def _notes(theirs: pair.Timed, ours: pair.Timed, setup: pair.Timed) -> dict[str, float]:
    notes = {"setup_wall_s": setup.wall, "setup_cpu_s": setup.cpu, "speedup_cpu": theirs.cpu / ours.cpu}
    rescored = ours.result.manifest["selection"]["rescored"]
    notes |= {f"crops_scored_again_{precision}": count for precision, count in rescored.items()}
    if ours.wall - setup.wall >= 0.4 * ours.wall:
        notes["speedup_beyond_setup"] = theirs.wall / (ours.wall - setup.wall)
    return notes


def _beyond(before: float, after: float, setup: float) -> str:
    """The ratio of the work beyond set-up, unless set-up is so much of the run that the difference is noise."""
    if after - setup < 0.4 * after:
        return "run too short for a ratio beyond it"
    return f"{before / (after - setup):.2f}x beyond it"
