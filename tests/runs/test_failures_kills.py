"""SIGKILL at seeded random moments in every phase; each run goes on to an unbroken one's bytes.

More kills, at chosen moments: tests/methods/test_rded_failures.py, test_d3_pipeline.py, test_pdd.py and
tests/evaluation/test_killed.py.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from ddfast.methods import _problem
from tests.runs.failure_driver import Tally, torment
from tests.runs.failure_phases import PHASES

DAILY = {"relabel": 3, "experts": 3, "mtt": 2, "idc": 2, "coreset": 2}
NIGHTLY = 200


def tormented(folder: Path, kills: dict[str, int], seed: int) -> list[Tally]:
    """The phases one after the other, in a process that has imported them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.failure_driver", "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return [pool.submit(torment, name, folder, count, seed).result() for name, count in kills.items()]


def test_killed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    tallies = tormented(tmp_path, DAILY, 0)
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert {tally.phase: tally.kills for tally in tallies} == DAILY


@pytest.mark.parametrize("name", ["idc", "pdd"])
def test_a_set_whose_worker_ended_before_it_drew_the_set_gets_its_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = _problem.atomic_write_bytes

    def ending(path: Path, data: bytes) -> None:
        if path.name == "contact_sheet.png":
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(_problem, "atomic_write_bytes", ending)
        with pytest.raises(KeyboardInterrupt):
            PHASES[name].run(tmp_path / "set")
    assert (tmp_path / "set" / "manifest.json").exists()
    PHASES[name].run(tmp_path / "set")
    assert (tmp_path / "set" / "contact_sheet.png").exists()


@pytest.mark.nightly
def test_two_hundred_kills_over_all_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share, rest = divmod(NIGHTLY, len(PHASES))
    kills = {name: share + (number < rest) for number, name in enumerate(PHASES)}
    tallies = tormented(tmp_path, kills, 1)
    with capsys.disabled():
        for tally in tallies:
            print(
                f"\n{tally.phase}: {tally.by_clock} kills by the clock and {tally.at_operations} at one of "
                f"{tally.operations} file operations, {tally.trials} runs of {tally.length:.2f} s",
                end="",
            )
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert sum(tally.kills for tally in tallies) == NIGHTLY
