"""RDED from JPEGs to mosaics against the same steps in plain torch, on all cores (or the GPU); wall time.

Both must choose the same patches, up to ties in float32. The rate is that beyond ddfast's set-up, which a long run
tends to.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast import _machine
from ddfast.bench import rivals
from ddfast.bench.cases import Setting
from ddfast.bench.floor import Floor, Work, floor_of
from ddfast.bench.forward_case import CANVAS, PATCH, observer
from ddfast.bench.input_case import Drawn, cost, files_of
from ddfast.bench.machine import package
from ddfast.bench.measured import Check, Ratio
from ddfast.bench.op_cases import CROPS
from ddfast.bench.pictures import make_pictures
from ddfast.bench.results import Result, wrong
from ddfast.methods import distill_to
from ddfast.nets import build_forward
from ddfast.nets.settings import full_float32

CLASSES = {"cpu": 2, "cuda": 10}
WARM = 0.25  # share of the pictures after which the pipeline runs evenly
IMAGENET_PICTURES = 300_000
TIE = 2e-5  # relative to 1 + loss: several float32 errors of a loss
Key = tuple[str, tuple[int, ...]]  # sample, box


@dataclass(frozen=True)
class Run:
    """Wall seconds before the first picture; pictures a second from then to the finished folder."""

    setup: float
    rate: float


def rded(setting: Setting, ceilings: dict[str, Any]) -> Result:
    """Measures the case; the rival runs once, before."""
    each, ipc = setting.count(8, 40, 300), 1 if setting.quick else 2
    train, out = make_pictures(setting.folder, CLASSES[setting.device], each), setting.folder / "distilled"
    files, precision = files_of(train), "fp16" if setting.device == "cuda" else "fp32"
    if setting.device == "cuda":  # neither side is timed while its libraries load
        _losses(copy.deepcopy(observer().module).cuda(), files[:8], 0, "cuda")
    begin = time.perf_counter()
    scores = _plain(files, setting.device, ipc, setting.folder / "plain")
    rival_seconds = time.perf_counter() - begin
    for _ in range(2 if setting.device == "cuda" else 1):  # the first run compiles kernels
        run = _ddfast(train, out, each, ipc, precision, setting.device)
    check = _check(scores, json.loads((out / "manifest.json").read_text()), ipc)
    cores = _machine.cores()
    result = Result(
        "RDED", setting.device,
        f"{len(files)} JPEGs of 500x375 x {CROPS} crops, ResNet-18 {precision}, {cores} cores, from files to mosaics",
        check=check, items=len(files), unit="picture",
    )  # fmt: skip
    if not check.passed:
        return replace(result, reason=wrong("ddfast's choice", check))
    seconds = len(files) / run.rate
    over = rival_seconds / seconds
    return replace(
        result,
        seconds=seconds,
        floor=_floor(files, precision, cores, ceilings, setting.device),
        rival=f"{package('torch')} eager fp32 + {package('pillow')}, one process",
        rival_seconds=rival_seconds,
        over=Ratio(over, over, over, 1),
        note=_extrapolation(run, files, precision, setting),
    )


def _ddfast(train: Path, out: Path, each: int, ipc: int, precision: str, device: str) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    marks: list[tuple[float, int]] = []
    begin = time.perf_counter()
    distill_to(
        "rded", train, out, observer=observer(), ipc=ipc, mipc=each, num_crop=CROPS, precision=precision, device=device,
        check_classes=False, quiet=True, batch_images=max(2, min(16, each // 4)) if device == "cpu" else 64,
        on_progress=lambda event: marks.append((time.perf_counter(), event.done)),
    )  # fmt: skip
    rate = steady_rate(marks, time.perf_counter())
    first, done = marks[0]
    return Run(max(0.0, first - begin - done / rate), rate)


def steady_rate(marks: list[tuple[float, int]], end: float) -> float:
    """Pictures a second from the mark (time, done) at which a quarter is done to the end.

    Until then the pipeline fills: pictures that were decoded ahead would be counted without their time.
    """
    total = marks[-1][1]
    start, done = next((mark for mark in marks if mark[1] >= WARM * total and mark[1] < total), marks[0])
    return (total - done) / (end - start)


def _plain(files: Drawn, device: str, ipc: int, out: Path) -> list[dict[Key, float]]:
    """Loss of every crop, by class; writes the mosaics of the best crop of each of the best pictures."""
    net = copy.deepcopy(observer().module).to(device).to(memory_format=torch.channels_last).eval()
    known: list[dict[Key, float]] = []
    out.mkdir(exist_ok=True)
    names = observer().class_names or ()
    for folder in sorted({path.parent for path, _ in files}):
        here = [pair for pair in files if pair[0].parent == folder]
        losses = _losses(net, here, names.index(folder.name), device)
        rows = zip(here, losses.tolist(), strict=True)
        keyed = [(_key(path, box), loss) for (path, boxes), row in rows for box, loss in zip(boxes, row, strict=True)]
        known.append(dict(keyed))
        best = losses.min(1)
        order = best.values.argsort(stable=True)[: 4 * ipc].tolist()
        pictures = [rivals.decode(here[k][0].read_bytes()) for k in order]
        boxes = [here[k][1][int(best.indices[k])] for k in order]
        for number, image in enumerate(rivals.paste(pictures, range(len(order)), boxes, CANVAS)):
            rivals.save(image, out / f"{folder.name}_{number}.jpg")
    return known


def _losses(net: torch.nn.Module, files: Drawn, label: int, device: str) -> Tensor:
    """[pictures, crops], float32 arithmetic, eight pictures (on a GPU 64) at a time."""
    found, many = [], 64 if device == "cuda" else 8
    with torch.inference_mode(), full_float32():
        for first in range(0, len(files), many):
            crops = [rivals.input_path(path.read_bytes(), boxes, PATCH) for path, boxes in files[first : first + many]]
            canvas = rivals.pad(torch.cat(crops).to(device), CANVAS).contiguous(memory_format=torch.channels_last)
            labels = torch.full((len(crops),), label, device=device)
            found.append(rivals.cross_entropy_minimum(net(canvas).view(len(crops), CROPS, -1), labels)[0].cpu())
    return torch.cat(found)


def _key(path: Path, box: list[int]) -> Key:
    return f"{path.parent.name}/{path.name}", tuple(box)


def _check(known: list[dict[Key, float]], manifest: dict[str, Any], ipc: int) -> Check:
    """The plain losses of what ddfast chose against those of the plain choice, each in ascending order."""
    worst = 0.0
    for label, losses in enumerate(known):
        cells = [cell for image in manifest["images"] if image["label"] == label for cell in image["cells"]]
        best: dict[str, float] = {}
        for (sample, _), loss in losses.items():
            best[sample] = min(loss, best.get(sample, math.inf))
        wanted = sorted(best.values())[: 4 * ipc]
        chosen = {cell["sample"]: (cell["sample"], tuple(cell["box"])) for cell in cells}  # a picture counts once
        got = sorted(losses.get(key, math.inf) for key in chosen.values())
        pairs = zip(got, wanted, strict=True) if len(got) == len(wanted) else [(math.inf, 0.0)]
        worst = max([worst, *(abs(a - b) / (1 + b) for a, b in pairs)])
    return Check("loss of the chosen patches off that of plain torch's choice, relative", worst, TIE)


def _floor(files: Drawn, precision: str, cores: int, ceilings: dict[str, Any], device: str) -> Floor | None:
    """Decoding, crops and forward on the same cores; on a GPU the forward runs beside the cores."""
    net = build_forward(observer(), patch=PATCH, canvas=CANVAS, engine="torch")
    flops = 2.0 * net.info["macs_active"] * CROPS * len(files)
    cpu = replace(cost(files), cores=cores)
    if device == "cpu":
        return floor_of(replace(cpu, flops=cpu.flops + flops), ceilings)
    gpu = Work(len(files), "picture", flops=flops, precision="fp32" if precision == "fp32" else "bf16")
    both = [floor_of(cpu, ceilings), floor_of(gpu, ceilings, device)]
    return max((each for each in both if each), key=lambda floor: floor.seconds, default=None)


def _extrapolation(run: Run, files: Drawn, precision: str, setting: Setting) -> str:
    total = run.setup + IMAGENET_PICTURES / run.rate
    size = sum(path.stat().st_size for path, _ in files) / len(files) / 1e3
    return (
        f"RDED on {setting.device}: {run.rate:.1f} pictures/s beyond {run.setup:.1f} s of set-up; ImageNet-1K (300,000 "
        f"pictures) would take {total / 3600:.2f} h at this rate, assuming pictures like these made-up ones (500x375, "
        f"{size:.0f} kB) in the file cache, a ResNet-18, {precision}, and nothing else running"
        + (f"; {len(files)} pictures are too few for a rate to quote" if setting.quick else "")
    )
