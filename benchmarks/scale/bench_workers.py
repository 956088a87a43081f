"""One run by one and by two workers of one thread each: RDED's scoring, and experts.

    OMP_NUM_THREADS=1 pytest benchmarks/scale/bench_workers.py --benchmark-enable --bench-size full

The wall times of records are of whole runs; lines and notes are of the time in which all workers are at work. Two
workers on two idle cores should be twice as fast and spend the same CPU time; on a machine with other load only the
CPU time says what sharing costs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import ddfast
from benchmarks.methods.rded_pair import link_classes
from benchmarks.records import Labels
from benchmarks.scale.workers import Worked, timed_workers
from benchmarks.train.bench_trajectory import MACS_TRAINING, _pictures
from ddfast.bench.floor import Work
from ddfast.bench.measured import Check
from ddfast.nets import imagenet_wnids, load_observer
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import identify_worker
from ddfast.train.experts import ExpertConfig, train_experts

COUNTS = (1, 2)


@dataclass(frozen=True)
class Size:
    """Classes, pictures of each, crops of a picture, side of the canvas in pixels."""

    classes: int
    mipc: int
    crops: int
    side: int

    @property
    def images(self) -> int:
        """Pictures in all."""
        return self.classes * self.mipc


SIZES = {"smoke": Size(12, 6, 2, 112), "medium": Size(20, 20, 5, 112), "full": Size(20, 40, 5, 224)}


def score(out: Path, shard: str | None, progress: Callable[[int], None], given: tuple[Path, Size]) -> None:
    """A worker's part of RDED with a ResNet-18 of random weights; its pieces are pictures."""
    train, size = given
    torch.manual_seed(0)
    observer = load_observer("resnet18", random_weights=True, class_names=imagenet_wnids())
    ddfast.distill(
        "rded", train, observer=observer, out=out, shard=shard, ipc=1, factor=2, mipc=size.mipc, num_crop=size.crops,
        size=size.side, engine="torch", workers=0, check_classes=False, quiet=True, batch_images=4,
        on_progress=lambda event: progress(event.done),
    )  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """How many, pictures each is trained on for one epoch, width of the network."""

    experts: int
    images: int
    width: int


EXPERTS = {"smoke": Experts(8, 512, 32), "medium": Experts(8, 512, 128), "full": Experts(16, 1024, 128)}


def train_some(out: Path, shard: str | None, progress: Callable[[int], None], size: Experts) -> None:
    """A worker's part of MTT's experts; its pieces are experts."""
    images, labels = (part[: size.images] for part in _pictures())
    done: list[int] = []

    def one_more(number: int) -> None:
        done.append(number)
        progress(len(done))

    train_experts(
        FlatConvNet(width=size.width), images, labels, ExpertConfig(size.experts, 1), out, pictures="first",
        worker=identify_worker(shard), quiet=True, on_expert=one_more,
    )  # fmt: skip


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return found.hexdigest()


class Runs:
    """Runs of a job by some workers; the last of each number is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worked: dict[int, Worked] = {}
        self.digests: dict[int, str] = {}

    def __call__(self, count: int, job: Any, given: Any, pieces: int) -> str:
        """The digest of what came out."""
        out = self.folder / str(count)
        shutil.rmtree(out, ignore_errors=True)
        self.worked[count] = timed_workers(job, count, out, given, pieces, preload=(__name__,))
        self.digests[count] = digest(out)
        return self.digests[count]

    def notes(self, count: int, piece: str) -> dict[str, float]:
        """For the record."""
        worked = self.worked[count]
        return {f"{piece}s_per_s": worked.rate, f"cpu_s_per_{piece}": worked.cpu_each}

    def line(self, what: str, piece: str) -> str:
        """Two workers against one."""
        one, two = self.worked[1], self.worked[2]
        return (
            f"{what}: 1 worker {one.rate:.2f} {piece}s/s, 2 workers {two.rate:.2f} ({two.rate / one.rate:.2f}x); CPU "
            f"{one.cpu_each:.4f} and {two.cpu_each:.4f} s a {piece} ({two.cpu_each / one.cpu_each:.2f}x)"
        )


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("scoring"))


@pytest.fixture(scope="module")
def train(imagenet20: Path, tmp_path_factory: pytest.TempPathFactory, bench_size: str) -> Path:
    return link_classes(imagenet20, tmp_path_factory.mktemp("pictures") / "train", SIZES[bench_size].classes)


@pytest.mark.parametrize("count", COUNTS)
def test_scoring(case: Any, bench_size: str, train: Path, scoring: Runs, report_line: Any, count: int) -> None:
    size, name = SIZES[bench_size], f"{count} worker{'s' * (count > 1)}"
    record = case(
        lambda: scoring(count, score, (train, size), size.images),
        labels=Labels("workers, rded", name, "rded", f"{size.images} pictures", "float32", "torch"),
        # with several cores the wall time is quoted: the CPU clock of a case does not see the workers
        work=Work(size.images, "image", cores=max(COUNTS)),
        check=lambda found: Check("files that differ", float(found != scoring.digests.get(1, found)), 0),
        warmup=False,
        rounds=3 if bench_size == "full" else 1,
        notes=lambda: scoring.notes(count, "image"),
    )
    if record is not None and len(scoring.worked) == len(COUNTS):
        report_line(scoring.line("RDED scoring", "image"))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("count", COUNTS)
def test_experts(case: Any, bench_size: str, training: Runs, report_line: Any, count: int) -> None:
    size, name = EXPERTS[bench_size], f"{count} worker{'s' * (count > 1)}"
    shape = f"{size.experts} experts, {size.images} pictures each"
    flops = 2 * MACS_TRAINING * (size.width / 128) ** 2 * size.images * size.experts
    record = case(
        lambda: training(count, train_some, size, size.experts),
        labels=Labels("workers, experts", name, "train_experts", shape, "float32", "torch"),
        work=Work(size.images * size.experts, "image", flops=flops, cores=max(COUNTS)),
        check=lambda found: Check("files that differ", float(found != training.digests.get(1, found)), 0),
        warmup=False,
        rounds=3 if bench_size == "full" else 1,
        notes=lambda: training.notes(count, "expert"),
    )
    if record is not None and len(training.worked) == len(COUNTS):
        report_line(training.line("experts", "expert"))
