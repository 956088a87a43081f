"""Everything a GPU can tell about ddfast, in parts that each end within a few minutes.

    python -m benchmarks.gpu_pack --out DIR [--part K] [--data DIR] [--wheels DIR] [--dry-run]

Needs torch >= 2.11, triton >= 3.6, nvcc, and no network. Builds ``_cuda`` for the card, runs the gpu tests and
compute-sanitizer, then kernels, forward and end-to-end runs against their baselines; writes ``summary.md`` and
``pack.tar.gz`` anew after every step, so that whatever ends the pack, what was measured is there. No step can fail the
others. ``--dry-run`` runs all of it on the CPU at smoke sizes, for machines without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_pack import machine, parts, summary
from benchmarks.gpu_pack.steps import outcome_path, run_step

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts asked for; 0 unless something failed."""
    asked = _parser().parse_args(arguments)
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    if asked.wheels:
        machine.install_wheels(asked.wheels, sys.executable, out / "site")
        _add_site(out / "site")
    if missing := machine.missing_packages():
        print(f"not installed: {', '.join(missing)}; install them, or bring their wheels with --wheels DIR")
        return 2
    found = machine.look()
    if found.no_gpu and not asked.dry_run:
        print(f"{found.no_gpu}; --dry-run runs everything else")
        return 2
    data = asked.data.resolve() if asked.data else None
    plan = parts.Plan(sys.executable, ROOT, out, asked.dry_run, data)
    wanted = [step for step in parts.steps(plan, found) if asked.part in (None, step.part)]
    failed = 0
    for part in sorted({step.part for step in wanted}):
        end = time.monotonic() + 60 * asked.minutes
        here = [step for step in wanted if step.part == part]
        if part == 1 or not found.built:
            here.insert(0, parts.build(plan, found, part))
            found = replace(found, built=True)
        for step in here:
            if asked.resume and _passed(out, step.part, step.name):
                continue
            outcome = run_step(step, out, end - time.monotonic())
            outcome.write(out)
            summary.write(out, _describe(), asked.dry_run)
            print(f"part {part} {step.name}: {outcome.status} in {outcome.seconds:.1f} s  {outcome.detail}", flush=True)
            failed += outcome.status in ("failed", "timed out", "not started")
    print(f"{failed} steps failed or did not start; see {out / 'summary.md'}")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is measured")
    parser.add_argument("--part", type=int, choices=list(parts.TITLES), help="one part only (default: all in order)")
    parser.add_argument("--minutes", type=float, default=9.0, help="most minutes a part may take")
    parser.add_argument("--data", type=Path, help="folder of ImageNet class folders (default: made-up pictures)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, for machines without a network")
    parser.add_argument("--resume", action="store_true", help="leave out steps that have passed already")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU at smoke sizes: everything but the device")
    return parser


def _add_site(site: Path) -> None:
    """Makes brought packages visible here and to every step."""
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))


def _passed(out: Path, part: int, name: str) -> bool:
    path = outcome_path(out, part, name)
    return path.exists() and json.loads(path.read_text())["status"] == "passed"


def _describe() -> list[str]:
    from ddfast.bench.machine import describe

    found = describe()
    return [f"- {key}: {value}" for key, value in found.items()]


if __name__ == "__main__":
    raise SystemExit(main())
