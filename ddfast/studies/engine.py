"""Studies: sets distilled in several ways and with several seeds, judged alike, in tables that one command makes.

Every set and every evaluation of a seed is a task that leaves a file behind; a study stopped anywhere goes on with the
task it was stopped in.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddfast.data import Source
from ddfast.evaluation import continual, evaluate
from ddfast.evaluation.inputs import opened
from ddfast.methods import distill_to
from ddfast.runs import RunError, atomic_write_bytes, identify_worker
from ddfast.store.manifest import current_versions
from ddfast.studies.few import few
from ddfast.studies.tables import Table, markdown


@dataclass(frozen=True)
class Made:
    """A set to distil: a method and its options (those of `ddfast.distill`), to which the study adds ``seed``."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """How sets are judged, once for each seed: one by `ddfast.evaluate`, or several by `ddfast.continual`.

    Attributes:
        sets: names among the study's.
        settings: of that call; ``seed`` follows from the study's.
        call: evaluate or continual.
    """

    sets: tuple[str, ...]
    settings: Mapping[str, Any]
    call: str = "evaluate"


@dataclass(frozen=True)
class Study:
    """What is distilled, how it is judged, and what the tables show.

    Attributes:
        name: of the command.
        about: one line for people.
        data: what `ddfast.data.open_source` takes when nothing else is named; None where the user has to.
        sets: by name.
        judged: by name; its results are called ``name/distilled``, ``name/random-images`` (of several students
            ``name/distilled resnet10``, with soft labels ``name/distilled soft``, of several sets
            ``name/SET distilled``), of continual ones ``name/SET 4`` (classes) and ``name/SET average``.
        tables: of these results.
        pictures: real ones of each class and test ones, of which a bigger set gives as many; None for all there are.
    """

    name: str
    about: str
    data: str | None
    sets: Mapping[str, Made]
    judged: Mapping[str, Judged]
    tables: tuple[Table, ...]
    pictures: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, one in self.judged.items():
            if unknown := [each for each in one.sets if each not in self.sets]:
                raise ValueError(f"judged: {name} is of {unknown[0]!r}, expected sets among {', '.join(self.sets)}")


def run_study(
    study: Study, out: Path, *, data: str | Path | None = None, seeds: int = 3, device: str = "auto",
    processes: int | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Does what is not done yet, then writes ``table.json`` and ``table.md``.

    Args:
        study: what.
        out: folder for everything; an earlier call may have begun it.
        data: the real set, with a split ``test``; None for the study's own.
        seeds: 0, 1, ... of distillation and students.
        device, processes, quiet: as in `ddfast.evaluate`.

    Returns:
        What ``table.json`` holds.

    Raises:
        ValueError: no data, or settings that do not fit them.
        RunError: ``out`` holds a task with other settings or data, or the disk is full.
    """
    named = study.data if data is None else data
    if named is None:
        raise ValueError(f"data: {study.name} has none of its own; expected --data, a set with a split test")
    train, test = opened("data", named), opened("data", f"{named}:test")
    if study.pictures is not None:
        train, test = (few(source, each) for source, each in zip((train, test), study.pictures, strict=True))
    return _Run(study, out, train, test, device, processes, quiet).all(seeds)


@dataclass
class _Run:
    study: Study
    out: Path
    train: Source
    test: Source
    device: str
    processes: int | None
    quiet: bool
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # of tasks done, of any seed

    def all(self, seeds: int) -> dict[str, Any]:
        """Task after task, the first seed's first."""
        tasks = [
            (kind, name, seed)
            for seed in range(seeds)
            for kind, names in (("sets", self.study.sets), ("judged", self.study.judged))
            for name in names
        ]
        records = {task: self._known(*task) for task in tasks}
        for number, task in enumerate(tasks, start=1):
            if records[task] is None:
                records[task] = self._do(*task)
                if not self.quiet:
                    left = self._left([each for each in tasks if records[each] is None])
                    print(f"[{number}/{len(tasks)}] {task[1]}, seed {task[2]}; {left}", file=sys.stderr, flush=True)
        table = self._table(seeds, {task: record for task, record in records.items() if record is not None})
        atomic_write_bytes(self.out / "table.json", json.dumps(table, indent=1).encode())
        text = "\n".join(markdown(each, table) for each in self.study.tables)
        atomic_write_bytes(self.out / "table.md", text.encode(errors="backslashreplace"))
        return table

    def _place(self, kind: str, name: str, seed: int) -> Path:
        return self.out / f"seed{seed}" / kind / name

    def _known(self, kind: str, name: str, seed: int) -> dict[str, Any] | None:
        path = self._place(kind, name, seed).with_suffix(".json")
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        if (wanted := self._identity(kind, name)) != record["identity"]:
            other = next(key for key in wanted if wanted[key] != record["identity"].get(key))
            raise RunError(
                f"{path}: was made with {other} {record['identity'].get(other)!r}, expected {wanted[other]!r}; remove "
                "it with its folder, or choose another one"
            )
        self.seconds[kind, name] = record["seconds"]
        return record

    def _identity(self, kind: str, name: str) -> dict[str, Any]:
        """What decides a task's result, as JSON."""
        names = (name,) if kind == "sets" else self.study.judged[name].sets
        made = {each: {"method": self.study.sets[each].method, **self.study.sets[each].options} for each in names}
        how = {} if kind == "sets" else dict(self.study.judged[name].settings)
        data = [self.train.fingerprint(), *([] if kind == "sets" else [self.test.fingerprint()])]
        found: dict[str, Any] = json.loads(json.dumps({"sets": made, "settings": how, "data": data}))
        return found

    def _do(self, kind: str, name: str, seed: int) -> dict[str, Any]:
        place, began, spent = self._place(kind, name, seed), time.monotonic(), time.process_time()
        found = self._distil(name, seed, place) if kind == "sets" else self._judge(name, seed, place)
        record: dict[str, Any] = {
            "identity": self._identity(kind, name), "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - spent, 1), "values": found,
        }  # fmt: skip
        self.seconds[kind, name] = record["seconds"]
        atomic_write_bytes(place.with_suffix(".json"), json.dumps(record).encode())
        return record

    def _distil(self, name: str, seed: int, place: Path) -> dict[str, list[float]]:
        made = self.study.sets[name]
        distill_to(
            made.method, self.train, place, seed=seed, device=self.device, quiet=self.quiet, resume=True, **made.options
        )
        return {}

    def _judge(self, name: str, seed: int, place: Path) -> dict[str, list[float]]:
        one = self.study.judged[name]
        folders = [self._place("sets", each, seed) for each in one.sets]
        call: Any = continual if one.call == "continual" else evaluate
        report = call(
            folders, self.test, train=self.train, out=place, seed=1000 * seed, device=self.device,
            processes=self.processes, worker=identify_worker(), quiet=self.quiet, resume=True, **one.settings,
        ).report  # fmt: skip
        found: dict[str, list[float]] = {}
        for row in report["results"]:
            if one.call == "continual":
                memory = next(each["name"] for each in report["sets"] if each["key"] == row["set"])
                steps = zip((*report["seen"], "average"), (*row["top1"], row["average"]), strict=True)
                found |= {f"{memory} {step}": entry["values"] for step, entry in steps}
            elif row["augmented"]:
                found[_result(row, report)] = row["top1"]["values"]
        return found

    def _left(self, tasks: list[tuple[str, str, int]]) -> str:
        """The time left, from tasks of the same name, or else of the mean one so far."""
        mean = sum(self.seconds.values()) / len(self.seconds)
        left = sum(self.seconds.get((kind, name), mean) for kind, name, _ in tasks)
        return f"about {left / 60:.0f} minutes left"

    def _table(self, seeds: int, records: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> dict[str, Any]:
        values: dict[str, list[list[float]]] = {}
        for (_, name, _), record in records.items():
            for entry, found in record["values"].items():
                values.setdefault(f"{name}/{entry}", []).append([round(value, 5) for value in found])
        return {
            "name": self.study.name,
            "about": self.study.about,
            "data": {
                source.name: sum(source.count(label) for label in range(len(source.class_names)))
                for source in (self.train, self.test)
            },
            "seeds": seeds,
            "cpu_minutes": round(sum(record["cpu_seconds"] for record in records.values()) / 60, 1),
            "sets": {name: {"method": made.method, **made.options} for name, made in self.study.sets.items()},
            "judged": {
                name: {"sets": list(one.sets), "call": one.call, **one.settings}
                for name, one in self.study.judged.items()
            },
            "values": values,
            "versions": current_versions(),
        }


def _result(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """A row's name: ``SET images STUDENT soft``, each part where it tells rows of the report apart."""
    names = {each["key"]: each["name"] for each in report["sets"]}
    made = f"{names[row['set']]} " if len(names) > 1 else ""
    student = f" {row['student']}" if len(report["students"]) > 1 else ""
    return f"{made}{row['images']}{student}{' soft' if row['labels'] == 'soft' else ''}"
