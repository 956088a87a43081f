"""The floor model of RDED synthesis: how long the work must take on a machine, stage by stage, and what binds it.

    t_read   = n * bytes / disk
    t_decode = n * (a * bytes + b * pixels) / cores          a, b fitted to real JPEGs at start
    t_crop   = n * m * c / cores                             c measured at start, seconds a crop
    t_score  = n * m * 2 * macs * s / peak                   s = 1, or the share left by the constant-frame skip
    t_link   = min(n * bytes, n * m * 3 * patch**2) / link   JPEG bytes or uint8 crops to the GPU
    t_save   = classes * ipc * e / cores

Stages on different resources overlap, stages on the same resource add up: the limit is the busiest resource, and
"x of the limit" is measured time / limit. ``python -m benchmarks.limit`` measures this machine and prints the table.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.stage_rates import stage_rates
from ddfast.bench.ceilings import Ceilings, measure

RESNET18_MACS = 1.814e9
RESNET18_SKIP = 0.749  # share of the MACs a 112 px patch on a 224 px empty canvas can influence


@dataclass(frozen=True)
class Workload:
    """What is to be done; the defaults are ImageNet-1K at IPC 10 with ResNet-18 at 224 px.

    ``mean_bytes`` and ``mean_pixels`` are of one source JPEG, ``macs`` of one forward on the full canvas,
    ``active_share`` is 1 or the share of the MACs that is left by the constant-frame skip.
    """

    images: int = 300_000
    crops: int = 5
    classes: int = 1000
    ipc: int = 10
    patch: int = 112
    mean_bytes: float = 110e3
    mean_pixels: float = 0.181e6
    macs: float = RESNET18_MACS
    active_share: float = 1.0


@dataclass(frozen=True)
class Gpu:
    """An accelerator: bf16 FLOP/s, link bytes/s (data sheet); published forward images/s, compiled and eager."""

    name: str
    flops: float
    link: float
    forward_rate: float | None = None
    eager_rate: float | None = None
    source: str = "vendor specification"


GPUS = {
    "rtx4090": Gpu(
        "RTX 4090",
        165e12,
        25e9,
        25_949,
        18_247,
        "vendor specification; forward rates: timm's published AMP channels-last ResNet-18 at 224, compiled and eager",
    ),
    "h200": Gpu("H200", 989e12, 50e9, source="vendor specification; no published ResNet-18 rate found"),
}


@dataclass(frozen=True)
class Stage:
    """Seconds a stage must take on its resource."""

    name: str
    resource: str
    seconds: float


@dataclass(frozen=True)
class Limit:
    """The stages, the busiest resource and its seconds (= the pipelined limit)."""

    stages: tuple[Stage, ...]
    binding: str
    seconds: float

    def by_resource(self) -> dict[str, float]:
        """Seconds each resource is busy."""
        total: dict[str, float] = {}
        for stage in self.stages:
            total[stage.resource] = total.get(stage.resource, 0.0) + stage.seconds
        return total

    def x_of_limit(self, measured: float) -> float:
        """Measured wall seconds over the limit."""
        return measured / self.seconds


def limit(
    work: Workload,
    ceilings: Ceilings,
    *,
    cores: int,
    gpu: Gpu | None = None,
    precision: str = "fp32",
    disk: float = 3.5e9,
    use_published_rate: bool = False,
) -> Limit:
    """Least time for ``work`` on ``cores`` cores of this kind and, if given, a GPU that runs the observer.

    Args:
        work: see ``Workload``.
        ceilings: of one core, from ``ddfast.bench.ceilings.measure`` or set by hand.
        cores: number of CPU cores, >= 1.
        gpu: runs the observer at its bf16 peak; without one the cores do it at ``precision``.
        precision: ``fp32`` or ``bf16``, of the forward on CPU cores.
        disk: bytes/s; infinity when the files are cached.
        use_published_rate: take the GPU's published forward rate instead of its peak.

    Raises:
        ValueError: no cores, unknown precision, or a published rate that is not known.
    """
    if cores < 1:
        raise ValueError(f"cores: got {cores}, expected 1 or more")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: got {precision!r}, expected fp32 or bf16")
    number = work.images * work.crops
    read = work.images * work.mean_bytes
    decode = work.images * (ceilings.decode_per_byte * work.mean_bytes + ceilings.decode_per_pixel * work.mean_pixels)
    flops = number * 2 * work.macs * work.active_share
    stages = [
        Stage("read", "disk", read / disk),
        Stage("decode", "cores", decode / cores),
        Stage("crop", "cores", number * ceilings.crop_seconds * (work.patch / 112) ** 2 / cores),
        Stage("save", "cores", work.classes * work.ipc * ceilings.encode_seconds / cores),
    ]
    if gpu is None:
        peak = ceilings.fp32_flops if precision == "fp32" else ceilings.bf16_flops
        stages.append(Stage("score", "cores", flops / (peak * cores)))
    else:
        stages.append(Stage("link", "link", min(read, number * 3 * work.patch**2) / gpu.link))
        stages.append(Stage("score", "gpu", _gpu_seconds(number, flops, work, gpu, use_published_rate)))
    return _busiest(stages)


def predict(work: Workload, seconds_per_image: dict[str, float], *, cores: int, gpu: Gpu, forward_rate: float) -> Limit:
    """Time of the whole job from measured stage rates: CPU stages spread over the cores, the forward on the GPU.

    Args:
        work: see ``Workload``.
        seconds_per_image: measured core-seconds a source image of each CPU stage, e.g. ``{"decode": .., "crop": ..}``.
        cores: number of CPU cores.
        gpu: for the link.
        forward_rate: measured or published crops/s of the observer on that GPU.
    """
    number = work.images * work.crops
    stages = [Stage(name, "cores", work.images * each / cores) for name, each in seconds_per_image.items()]
    stages.append(Stage("link", "link", number * 3 * work.patch**2 * PATCH_BYTES / gpu.link))
    stages.append(Stage("score", "gpu", number * work.active_share / forward_rate))
    return _busiest(stages)


def _gpu_seconds(number: int, flops: float, work: Workload, gpu: Gpu, published: bool) -> float:
    if not published:
        return flops / gpu.flops
    if gpu.forward_rate is None:
        raise ValueError(f"use_published_rate: no forward rate of {gpu.name} is known; use its peak")
    return number * work.active_share / gpu.forward_rate * (work.macs / RESNET18_MACS)


def _busiest(stages: list[Stage]) -> Limit:
    draft = Limit(tuple(stages), "", 0.0)
    busy = draft.by_resource()
    binding = max(busy, key=lambda name: busy[name])
    return replace(draft, binding=binding, seconds=busy[binding])


def table(title: str, result: Limit) -> str:
    """The stages of a limit as text, the binding resource marked."""
    lines = [title]
    for stage in result.stages:
        mark = "*" if stage.resource == result.binding else " "
        lines.append(f"  {mark} {stage.name:8s} on {stage.resource:6s} {stage.seconds:12.2f} s")
    lines.append(f"    limit {result.seconds:.1f} s, bound by {result.binding}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure this machine's ceilings and print the limits with their assumptions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with JPEGs for the decode fit (default: made-up pictures)")
    parser.add_argument("--images", type=int, default=Workload.images, help="source images")
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="CPU cores of the CPU-only rows"
    )
    parser.add_argument("--gpu-cores", type=int, default=16, help="CPU cores beside the GPU")
    parser.add_argument("--disk", type=float, default=3.5, help="GB/s; 0 when the files are cached")
    parser.add_argument("--measured", type=float, help="measured wall seconds of the CPU-only fp32 run")
    options = parser.parse_args(arguments)
    ceilings = measure(options.data)
    work = Workload(images=options.images, classes=max(1, options.images // 300))
    skipped = replace(work, active_share=RESNET18_SKIP)
    disk = options.disk * 1e9 or float("inf")
    print(ceilings.text())
    print(
        f"assumed: {work.images} images of {work.mean_bytes / 1e3:.0f} kB and {work.mean_pixels / 1e6:.3f} MP, "
        f"{work.crops} crops of {work.patch} px, {work.macs / 1e9:.3f} GMAC a crop, disk "
        f"{options.disk or 'cached'} GB/s"
    )
    for precision in ("fp32", "bf16"):
        result = limit(skipped, ceilings, cores=options.cores, precision=precision, disk=disk)
        print(table(f"{options.cores} cores, {precision}, constant-frame skip", result))
        if options.measured and precision == "fp32":
            print(f"    measured {options.measured:.1f} s = {result.x_of_limit(options.measured):.2f} x of the limit")
    for gpu in GPUS.values():
        beside = f"{gpu.name} + {options.gpu_cores} of these cores"
        print(
            table(f"{beside}, bf16 peak, skip", limit(skipped, ceilings, cores=options.gpu_cores, gpu=gpu, disk=disk))
        )
        if gpu.forward_rate:
            published = limit(work, ceilings, cores=options.gpu_cores, gpu=gpu, disk=disk, use_published_rate=True)
            print(table(f"{beside}, published forward rate, no skip", published))
        print(f"    {gpu.name}: {gpu.source}")
    if options.data:
        print(_prediction(options.data, ceilings, skipped, options.gpu_cores))


PATCH_BYTES = 4  # patches go to the GPU as float32, so that they can be scored again there
# Share of its bf16 peak that timm's published RTX 4090 forward reaches; assumed for a GPU without a published rate.
PUBLISHED_SHARE = 0.57
# Seen with a trained EfficientNet-Lite0 at fp16; a float32 forward without TF32 takes about four times as long.
RESCORED_SHARE, RESCORED_COST = 0.053, 4


def _prediction(data: Path, ceilings: Ceilings, work: Workload, cores: int) -> str:
    """The whole job predicted from ddfast's own stage rates measured here on one core, and published GPU rates."""
    rates = stage_rates(data)
    here = ceilings.decode_per_byte * rates.mean_bytes + ceilings.decode_per_pixel * rates.mean_pixels
    more = ceilings.decode_per_byte * work.mean_bytes + ceilings.decode_per_pixel * work.mean_pixels - here
    patches = work.classes * work.ipc * 4
    seconds = {
        "input": rates.input_seconds + more,
        "stitch": (rates.stitch_seconds + more) * patches / work.images,
    }
    lines = [
        "predicted from measured stages of one core: "
        f"{1e6 * rates.input_seconds:.0f} us to read, decode and cut a picture of {rates.mean_bytes / 1e3:.0f} kB, "
        f"{1e6 * rates.stitch_seconds:.0f} us a stitched and encoded patch; {1e6 * more:.0f} us more to decode "
        f"{work.mean_bytes / 1e3:.0f} kB; {RESCORED_SHARE:.1%} of the crops scored again in float32 at {RESCORED_COST} "
        "times the cost; set-up of a few seconds not counted"
    ]
    for gpu in GPUS.values():
        assumed = PUBLISHED_SHARE * gpu.flops / (2 * work.macs)
        known = {"compiled, published": gpu.forward_rate, "eager, published": gpu.eager_rate}
        forwards = {name: rate for name, rate in known.items() if rate}
        for name, rate in (forwards or {f"assumed: {PUBLISHED_SHARE:.0%} of its peak": assumed}).items():
            effective = rate / (1 + RESCORED_SHARE * RESCORED_COST)
            result = predict(work, seconds, cores=cores, gpu=gpu, forward_rate=effective)
            lines.append(table(f"{gpu.name} + {cores} of these cores, forward {rate:.0f} crops/s ({name})", result))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
