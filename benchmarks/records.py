"""Result files: what one suite measured on one machine, as JSON checked against ``results/schema.json``."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.commit import commit
from ddfast.bench import machine
from ddfast.bench.floor import Floor, Work
from ddfast.bench.measured import Check, Ratio, Spread

SCHEMA_VERSION = 1
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Labels:
    """What was run. Cases of one ``group`` do the same job; ``baseline`` is None for ddfast, else name and version."""

    group: str
    name: str
    op_or_method: str
    shape: str
    dtype: str
    backend: str
    baseline: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Timing:
    """Of one call. ``device`` is None on a CPU; on a GPU it is what rates and x of the limit are taken from."""

    rounds: int
    iterations: int
    wall: Spread
    cpu: Spread | None = None
    device: Spread | None = None

    def quoted(self, cores: int = 1) -> float:
        """Median seconds to quote: of the device; of the CPU clock on one core (blind to others' load); else wall."""
        if self.device:
            return self.device.median
        return self.cpu.median if self.cpu and cores == 1 else self.wall.median


@dataclass(frozen=True)
class Record:
    """One measured case."""

    labels: Labels
    timing: Timing
    work: Work
    check: Check
    floor: Floor | None = None
    over_ddfast: Ratio | None = None
    notes: Mapping[str, str | float | bool] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What is quoted."""
        return self.timing.quoted(self.work.cores)

    @property
    def x_of_limit(self) -> float | None:
        """Quoted seconds over the floor."""
        return self.seconds / self.floor.seconds if self.floor else None

    def as_dict(self) -> dict[str, Any]:
        """As in the result file."""
        timing, work, seconds = self.timing, self.work, self.seconds
        return {
            **asdict(self.labels),
            "rounds": timing.rounds,
            "iterations": timing.iterations,
            "wall_s": asdict(timing.wall),
            "cpu_s": asdict(timing.cpu) if timing.cpu else None,
            "device_s": asdict(timing.device) if timing.device else None,
            "seconds": seconds,
            "cores": work.cores,
            "items": work.items,
            "unit": work.unit,
            "bytes": work.bytes,
            "flops": work.flops,
            "gb_per_s": work.bytes / seconds / 1e9 or None,
            "gflop_per_s": work.flops / seconds / 1e9 or None,
            "limit": asdict(self.floor) if self.floor else None,
            "x_of_limit": self.x_of_limit,
            "over_ddfast": asdict(self.over_ddfast) if self.over_ddfast else None,
            "correctness": asdict(self.check),
            "notes": dict(self.notes),
        }

    def line(self) -> str:
        """Milliseconds, GB/s or GFLOP/s, x of the limit and ratio to ddfast."""
        seconds, work = self.seconds, self.work
        rate = f"{work.flops / seconds / 1e9:9.2f} GFLOP/s" if work.flops else f"{work.bytes / seconds / 1e9:9.2f} GB/s"
        limit = f"{self.x_of_limit:8.2f} x of the limit ({self.floor.binding})" if self.floor else ""
        ratio = f"   {self.over_ddfast.median:.2f}x ddfast's time" if self.over_ddfast else ""
        return f"{self.labels.name:32s} {1e3 * seconds:10.4f} ms {rate:>18s} {limit}{ratio}"


def document(suite: str, size: str, records: Iterable[Record], ceilings: Mapping[str, Any] | None) -> dict[str, Any]:
    """A result file's content, validated where jsonschema is installed; a bare machine's is when it is read here."""
    now = datetime.datetime.now(datetime.timezone.utc)
    made = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "size": size,
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "ceilings": dict(ceilings) if ceilings else None,
        "records": [record.as_dict() for record in records],
    }
    if find_spec("jsonschema"):
        validate(made)
    return made


def validate(content: Any) -> None:
    """Check a result file's content.

    Raises:
        ValueError: what is wrong, and where.
    """
    import jsonschema

    schema = json.loads((RESULTS / "schema.json").read_text())
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise ValueError(f"result file: at {where}: {error.message}")


def write(content: Mapping[str, Any], folder: Path) -> Path:
    """Write ``<folder>/<machine slug>/<suite>.json``, replacing an older one in one step."""
    target = folder / content["machine"]["slug"] / f"{content['suite']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(_rounded(content), indent=1) + "\n")
    os.replace(temporary, target)
    return target


def load_all(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All result files below ``folder``, validated, by machine and suite.

    Raises:
        ValueError: a file that is not JSON or does not fit the schema, named.
    """
    found = []
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text())
            validate(content)
        except ValueError as error:
            raise ValueError(f"{path.name} in {path.parent.name}: {error}") from error
        found.append(content)
    return found


def _rounded(value: Any) -> Any:
    """Six significant digits are more than any clock here gives."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
