"""D3 from start to finish: blocks of classes, each distilled on its own, anywhere; then one set of all of them.

    OUT/blocks/<i>/       experts, pictures of the way, and block.safetensors once it is done
    OUT/teacher/          experts of all classes, OUT/teacher.safetensors: the network they give
    OUT/split.json        which classes are in which block

Blocks are tasks of a ledger that any number of processes share. A block made in another folder counts as done once its
file is put in place.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ddfast._printable import printable
from ddfast.data import Source, require_images
from ddfast.methods._driver import CHECKPOINT, EXPERTS, require_classes, show_timings
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem, planned_normalization
from ddfast.methods.d3 import split
from ddfast.methods.d3.block import distil_block, help_block
from ddfast.methods.d3.config import D3Config
from ddfast.methods.d3.labels import (
    TEACHER_FILE,
    check_given,
    confusion,
    label_experts,
    make_teacher,
    open_teacher,
    whole_problem,
)
from ddfast.methods.d3.merge import merge
from ddfast.methods.d3.report import BETWEEN_FILE, MEANS_FILE, SAMPLES_FILE
from ddfast.methods.d3.stored_block import BLOCK_FILE, StoredBlock, block_bytes, read_block
from ddfast.runs import (
    TIMINGS_FILE,
    Ledger,
    RunError,
    Task,
    Timings,
    atomic_write_bytes,
    open_ledger,
    refuse_occupied,
)
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.sharing import teller, unclaimed, unless
from ddfast.store.files import IMAGES_FILE

BLOCKS, TEACHER, SPLIT_FILE = "blocks", "teacher", "split.json"
OUTPUTS = (
    *DEFAULT_OUTPUTS, BLOCKS, TEACHER, SPLIT_FILE, TIMINGS_FILE, MEANS_FILE, SAMPLES_FILE, BETWEEN_FILE
)  # fmt: skip
_POLL = 1.0  # seconds between two looks while another process works


def run(source: Source, out: Path, config: D3Config, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    With ``config.only_blocks`` it ends without a set while other blocks are missing.

    Raises:
        ValueError: settings and source do not fit together, or a block's file holds numbers that are not finite or a
            decoder for another resolution.
        NonFiniteLossError: a training or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, a block is missing that was to be merged (named),
            or the disk is full.
    """
    if observer is not None:
        raise ValueError("observer: got one, but d3 has none; the networks it needs are trained")
    worker = options.worker()
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
    require_classes(source, 2, "d3")
    require_images(source, 1, "d3")
    net = config.matching_config().fitting_net(len(source.class_names))
    blocks = _planned(config, source)
    count = config.blocks if blocks is None else len(blocks)
    only = _only(config, count)
    if only is None and _before(config):
        check_given(config, net)
    settings: dict[str, Any] = {
        "method": "d3",
        "config": {**config.identity(), "split": config.split if config.split in split.STRATEGIES else "given"},
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "normalization": planned_normalization(source, measured=False),
    }
    if blocks is not None:
        settings["blocks"] = [list(block) for block in blocks]
    tasks = [*map(_task, range(count)), *_before(config), "merge"]
    with open_ledger(
        out, tasks, settings, worker=worker, resume=options.resume, overwrite=options.overwrite,
        outputs=OUTPUTS,
    ) as ledger:  # fmt: skip
        if ledger.finished() or _Run(source, out, config, options, ledger, settings, blocks, only).all():
            ledger.finish()
            _tidy(out)


def _task(block: int) -> str:
    return f"block-{block}"


def _number(task: str) -> int:
    return int(task.removeprefix("block-"))


def _before(config: D3Config) -> list[str]:
    """Tasks beside the blocks."""
    confused = config.split == "confusion"
    return ["teacher"] * (confused or config.soft_labels == "expert") + ["split"] * confused


def _planned(config: D3Config, source: Source) -> split.Blocks | None:
    """The blocks, where they are known before any training."""
    names = tuple(source.class_names)
    if config.split == "contiguous":
        return split.contiguous_blocks(len(names), config.blocks)
    if config.split == "random":
        return split.random_blocks(len(names), config.blocks, config.seed)
    if config.split == "confusion":
        split.contiguous_blocks(len(names), config.blocks)  # refuses too many
        return None
    blocks = split.given_blocks(config.split, names)
    if config.blocks not in (1, len(blocks)):
        raise ValueError(f"blocks: got {config.blocks}, but split lists {len(blocks)}; leave blocks out")
    return blocks


def _only(config: D3Config, count: int) -> tuple[int, ...] | None:
    if config.only_blocks is None:
        return None
    only = split.parse_only(config.only_blocks)
    if only and only[-1] >= count:
        raise ValueError(f"only_blocks: got {only[-1]}, expected 0 to {count - 1}: there are {count} blocks")
    return only


def _tidy(out: Path) -> None:
    for folder in (out / BLOCKS).glob("*"):
        (folder / CHECKPOINT).unlink(missing_ok=True)


class _Run:
    def __init__(
        self, source: Source, out: Path, config: D3Config, options: RunOptions, ledger: Ledger,
        settings: dict[str, Any], blocks: split.Blocks | None, only: tuple[int, ...] | None,
    ) -> None:  # fmt: skip
        self.source, self.out, self.config, self.options = source, out, config, options
        self.ledger, self.settings, self.planned, self.only = ledger, settings, blocks, only
        self._problem: Problem | None = None
        self.work = {"teacher": self._teacher, "split": self._split, "merge": self._merge}

    def all(self) -> bool:
        """Whether the set is written."""
        before = _before(self.config)
        if self.planned is None:
            for task in before:
                self._do([task])
        names = [_task(number) for number in range(len(self.blocks))]
        here = [
            name
            for number, name in enumerate(names)
            if self.only is None or number in self.only or self._path(number).exists()
        ]
        self._do([*here, *(before if self.only is None else [])])
        missing = [number for number, name in enumerate(names) if not self.ledger.completed(name)]
        if missing:
            self._say_missing(missing)
            return False
        self._do(before)
        self._do(["merge"])
        return True

    @cached_property
    def blocks(self) -> split.Blocks:
        """Classes of each block."""
        if self.planned is not None:
            return self.planned
        return split.given_blocks(str(self.out / SPLIT_FILE), self.source.class_names)

    @property
    def problem(self) -> Problem:
        """The task of all classes; its pictures are read when they are first needed."""
        if self._problem is None:
            self._problem = whole_problem(self.source, self.config, self.options)
        return self._problem

    def _do(self, tasks: Sequence[str]) -> None:
        """Works until these are done, by this worker or another."""
        told = False
        while left := [name for name in tasks if not self.ledger.completed(name)]:
            task = self.ledger.claim_next(tasks)
            if task is not None:
                self._one(task)
            elif not any(map(self._help, left)):
                if not told and (held := [name for name in left if self.ledger.busy(name)]):
                    self._problem, told = None, True  # not held in memory, maybe for hours
                    teller(self.options.quiet)(self.ledger.waiting_line(held[0]))
                time.sleep(_POLL)

    def _one(self, task: Task) -> None:
        with unless(lambda: self.ledger.completed(task.id)), task:
            if task.id in self.work:
                self.work[task.id](task)
            else:
                self._block(task, _number(task.id))

    def _help(self, name: str) -> bool:
        """Trains experts for a task that another worker holds; whether there was anything to train."""
        block = name not in self.work
        folder = self._path(_number(name)).parent if block else self.out / TEACHER
        if (not block and name != "teacher") or not unclaimed(folder / EXPERTS):
            return False

        def wanted() -> bool:
            return not self.ledger.completed(name)

        with unless(lambda: not wanted()):
            if block:
                help_block(self.source, self.blocks[_number(name)], self.config, folder, self.options, wanted)
            else:
                label_experts(self.problem, self.config, self.options, folder, wanted)
        return True

    def _path(self, number: int) -> Path:
        return self.out / BLOCKS / str(number) / BLOCK_FILE

    def _read(self, number: int) -> StoredBlock:
        names = tuple(self.source.class_names)
        return read_block(self._path(number), number, self.blocks[number], self.settings, names, self.config)

    def _block(self, task: Task, number: int) -> None:
        """One block, from wherever an earlier call was stopped in it, or as it was made elsewhere."""
        path = self._path(number)
        if path.exists():
            self._read(number)
            content = path.read_bytes()
        else:
            made = distil_block(
                self.source, self.blocks[number], self.config, path.parent, self.options, block=number, task=task
            )
            content = block_bytes(made, number, self.blocks[number], self.settings)
        task.write_bytes(f"{BLOCKS}/{number}/{BLOCK_FILE}", content)
        task.complete()
        (path.parent / CHECKPOINT).unlink(missing_ok=True)

    def _teacher(self, task: Task) -> None:
        folder = self.out / TEACHER
        folder.mkdir(exist_ok=True)
        with Timings(folder / TIMINGS_FILE).part("experts of all classes"):
            content = make_teacher(self.problem, self.config, self.options, folder)
        task.write_bytes(TEACHER_FILE, content)
        task.complete()

    def _split(self, task: Task) -> None:
        matrix = confusion(open_teacher(self.out / TEACHER_FILE), self.problem)
        task.write_bytes(SPLIT_FILE, self._split_bytes(split.confusion_blocks(matrix, self.config.blocks)))
        task.complete()

    def _split_bytes(self, blocks: split.Blocks) -> bytes:
        about = {"split": self.settings["config"]["split"], "blocks": [list(block) for block in blocks]}
        return (json.dumps(about) + "\n").encode()

    def _merge(self, task: Task) -> None:
        if self.planned is not None:
            task.write_bytes(SPLIT_FILE, self._split_bytes(self.blocks))
        parts = [self._read(number) for number in range(len(self.blocks))]
        teacher = None if self.config.soft_labels == "none" else open_teacher(self.out / TEACHER_FILE)
        timings = Timings()
        with timings.part("merging"):
            merge(self.problem, self.config, self.out, self.blocks, parts, teacher)
        gathered = self._gathered(timings)
        atomic_write_bytes(self.out / TIMINGS_FILE, json.dumps(gathered.as_json(), indent=1).encode())
        show_timings(gathered, "d3", self.options)
        task.record_file(IMAGES_FILE)
        task.complete()

    def _gathered(self, last: Timings) -> Timings:
        """Seconds of all parts of the run, wherever they were spent."""
        found = Timings()
        for number in range(len(self.blocks)):
            found.add(Timings(self._path(number).parent / TIMINGS_FILE), section=f"block {number}")
        found.add(Timings(self.out / TEACHER / TIMINGS_FILE))
        found.add(last)
        return found

    def _say_missing(self, missing: Sequence[int]) -> None:
        """What is still to be done; an error where these blocks were to be merged.

        Raises:
            RunError: nothing but merging was asked for.
        """
        names = self.source.class_names
        shown = [f"{number} ({', '.join(names[k] for k in self.blocks[number][:3])}, ...)" for number in missing[:10]]
        which = f"{', '.join(shown)}{' ...' if len(missing) > 10 else ''}"
        help_text = (
            f"distil {'it' if len(missing) == 1 else 'them'} with --only-blocks {','.join(map(str, missing))}, or put "
            f"{BLOCKS}/<number>/{BLOCK_FILE} from where {'it was' if len(missing) == 1 else 'they were'} made into "
            "this folder"
        )
        if not self.only:
            raise RunError(f"{self.out}: cannot merge, block {which} is missing: {help_text}")
        if not self.options.quiet:
            print(printable(f"{self.out}: block {which} is missing still; {help_text}"), file=sys.stderr)
