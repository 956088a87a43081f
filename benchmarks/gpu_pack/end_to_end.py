"""RDED on one machine from JPEGs to mosaics: seconds, rates, stages, and what that means for ImageNet-1K.

    python -m benchmarks.gpu_pack.end_to_end --made DIR --device cuda --size full --name rded-bf16 --out DIR

Without real pictures, made-up ones of ImageNet's mean size are written once: their content does not matter for speed.
Random weights do not matter for the forward, but their scores lie closer together than a trained observer's, so more
crops are scored again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ddfast
from ddfast.bench.end_to_end import steady_rate
from ddfast.bench.pictures import make_pictures
from ddfast.nets import Observer, imagenet_wnids, load_observer

SIZES = {"smoke": (2, 12, 1), "full": (20, 300, 10)}  # classes, pictures a class, IPC
IMAGENET_PICTURES = 300_000


def _observer() -> Observer:
    torch.manual_seed(0)
    return load_observer("resnet18", random_weights=True, class_names=imagenet_wnids())


@dataclass(frozen=True)
class Run:
    """Wall seconds of a whole run, those before the first batch, pictures/s once it runs evenly, the printed report."""

    seconds: float
    setup: float
    rate: float
    report: str


def _distil(source: Any, out: Path, observer: Observer, settings: dict[str, Any]) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    printed, begin = io.StringIO(), time.perf_counter()
    marks: list[tuple[float, int]] = []
    settings = {**settings, "on_progress": lambda event: marks.append((time.perf_counter(), event.done))}
    with contextlib.redirect_stderr(printed):
        ddfast.distill("rded", source, observer=observer, out=out, check_classes=False, **settings)
    end = time.perf_counter()
    return Run(end - begin, marks[0][0] - begin, steady_rate(marks, end), printed.getvalue())


def _trace(run: Any, path: Path, cuda: bool) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if cuda else [])
    with torch.profiler.profile(activities=activities) as profile:
        run()
    path.parent.mkdir(parents=True, exist_ok=True)
    profile.export_chrome_trace(str(path))
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    path.with_suffix("").with_suffix(".txt").write_text(profile.key_averages().table(sort_by=order, row_limit=40))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.end_to_end", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, help="folder of ImageNet class folders")
    where.add_argument("--made", type=Path, help="folder for made-up pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--classes", type=int, help="another number of classes than the full size has")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--stream", default="auto")
    parser.add_argument("--trace", action="store_true", help="write a torch.profiler trace instead of timing")
    asked = parser.parse_args()
    classes, each, ipc = SIZES[asked.size]
    if asked.classes and asked.size == "full":
        classes = asked.classes
    source = asked.data or make_pictures(asked.made, classes, each)
    observer, work = _observer(), asked.out / "work"
    settings = {
        "ipc": ipc, "mipc": each, "device": asked.device, "engine": asked.engine, "precision": asked.precision,
        "stream": asked.stream, "overwrite": True,
    }  # fmt: skip
    if asked.trace:
        run = lambda: _distil(source, work, observer, settings)  # noqa: E731
        run()
        _trace(run, asked.out / "traces" / f"{asked.name}.json.gz", asked.device == "cuda")
        return
    first = _distil(source, work, observer, settings)  # compiles kernels, fills caches
    result = _result(asked, settings, Path(source), first, _distil(source, work, observer, settings))
    target = asked.out / "end_to_end" / f"{asked.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(result["report"]))
    print(
        f"{asked.name}: {result['pictures']} pictures in {result['seconds']:.1f} s, "
        f"{result['setup_seconds']:.1f} s of it set-up; ImageNet-1K at this rate {result['imagenet_1k_seconds']:.0f} s"
    )


def _result(asked: argparse.Namespace, settings: dict[str, Any], source: Path, first: Run, run: Run) -> dict[str, Any]:
    folders = [folder for folder in sorted(source.iterdir()) if folder.is_dir()]
    pictures = sum(min(len(list(folder.iterdir())), settings["mipc"]) for folder in folders)
    sizes = [file.stat().st_size for folder in folders for file in sorted(folder.iterdir())[:20]]
    return {
        "name": asked.name,
        "settings": {key: value for key, value in settings.items() if key != "overwrite"},
        "pictures": pictures,
        "made_up_pictures": asked.data is None,
        "mean_jpeg_bytes": round(float(np.mean(sizes))),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "seconds": round(run.seconds, 3),
        "setup_seconds": round(run.setup, 3),
        "seconds_first_run": round(first.seconds, 3),
        "pictures_per_second": round(run.rate, 1),
        "imagenet_1k_seconds": round(run.setup + IMAGENET_PICTURES / run.rate, 1),
        "report": [line for line in run.report.splitlines() if line.strip()],
    }


if __name__ == "__main__":
    main()
