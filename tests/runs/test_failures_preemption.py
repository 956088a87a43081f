"""SIGTERM and the warnings before it: tasks are given back, checkpoints saved, the same bytes when gone on with.

What submitit's jobs do with it is in test_submit.py; Ctrl-C on the command line in tests/test_cli.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from ddfast.methods import distill_to
from ddfast.runs import Ledger, Preempted, lease, preemptible, preemption
from tests.methods import matching_case
from tests.runs.failure_driver import preempted
from tests.runs.failure_phases import PHASES

DAILY = {"relabel": 2, "mtt": 2}


def stopped(work: Callable[[], object]) -> Preempted:
    """What ``work`` ended with."""
    with pytest.raises(Preempted) as caught, preemptible():
        work()
    return caught.value


def test_every_signal_unwinds_once_and_handlers_are_put_back() -> None:
    for number in preemption.SIGNALS:
        unwound: list[int] = []

        def work(number: int = number, unwound: list[int] = unwound) -> None:
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(signal.SIGTERM)  # the launcher's second, to all processes of the job
                unwound.append(number)

        stop = stopped(work)
        assert unwound == [number]
        assert (str(stop), stop.exit_code) == (signal.Signals(number).name, 128 + number)
        assert signal.getsignal(number) is signal.SIG_DFL


def test_a_later_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "SAME_STOP", 0.05)
    child = os.fork()
    if child == 0:
        try:
            with preemptible():
                try:
                    signal.raise_signal(signal.SIGTERM)
                finally:
                    time.sleep(0.2)
                    signal.raise_signal(signal.SIGTERM)
                    os._exit(3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


class Slow:
    """Python drops what is raised while this is destroyed."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    def work() -> None:
        for _ in range(2):
            Slow()
            time.sleep(20)

    begin = time.monotonic()
    stopped(work)
    assert time.monotonic() - begin < 5


def test_another_error_after_the_signal_is_the_same_stop() -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("a loader's process was ended too")

    assert isinstance(stopped(work).__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="own"), preemptible():
        raise RuntimeError("own")


def test_signals_of_others_children_and_threads_are_left_alone() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as under nohup
    try:
        with preemptible():
            signal.raise_signal(signal.SIGUSR1)
            child = os.fork()
            if child == 0:
                try:
                    signal.raise_signal(signal.SIGTERM)
                finally:
                    os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    entered = []

    def elsewhere() -> None:
        with preemptible():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


def test_waiting_ends_at_once_and_nested_tasks_are_given_back(tmp_path: Path) -> None:
    other = Ledger.create(tmp_path / "outer", ["a", "b"], {})
    other.claim("b")
    begin = time.monotonic()
    ledger, inner = Ledger.resume(tmp_path / "outer", ["a", "b"], {}), Ledger.create(tmp_path / "inner", ["c"], {})

    def work() -> None:
        with ledger, ledger.claim("a"), inner, inner.claim("c") as task:
            task.write_bytes("c.bin", b"half")
            ledger.claim_or_wait("b", poll=600.0)

    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    stopped(work)
    assert time.monotonic() - begin < 5
    assert (ledger.status().running, ledger.status().free) == (1, 1)  # b, and a
    assert inner.status().free == 1
    assert not list((tmp_path / "inner").glob("*.bin"))
    assert not list((tmp_path / "outer" / "tasks").glob("*.failed-*"))
    other.close()


def test_a_signal_between_a_lease_and_our_note_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = lease.create_exclusive

    def interrupted(path: Path, data: bytes) -> bool:
        made = make(path, data)
        signal.raise_signal(signal.SIGTERM)
        return made

    def work() -> None:
        with Ledger.create(tmp_path, ["a"], {}) as ledger:
            ledger.claim_next()

    monkeypatch.setattr(lease, "create_exclusive", interrupted)
    stopped(work)
    assert (tmp_path / "tasks" / "a.lease-0").stat().st_mtime_ns == 0


def test_a_matching_saves_its_state_wherever_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(matcher: matching_case.DriftMatcher) -> None:
        if matcher.iteration == 4:
            signal.raise_signal(signal.SIGTERM)

    settings = {**matching_case.SETTINGS, "ipc": 1, "quiet": True, "device": "cpu"}
    with matching_case.drift_method():
        distill_to("drift", matching_case.source(), tmp_path / "whole", **settings)
        with monkeypatch.context() as patch:
            patch.setattr(matching_case.DriftMatcher, "halfway", stopping)
            stopped(lambda: distill_to("drift", matching_case.source(), tmp_path / "cut", **settings))
        kept = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
        assert kept["matcher"]["iteration"] == 4
        distill_to("drift", matching_case.source(), tmp_path / "cut", resume=True, **settings)
    ends = [(tmp_path / name / "manifest.json").read_bytes() for name in ("whole", "cut")]
    assert ends[0] == ends[1]


def all_preempted(folder: Path, stops: dict[str, int], seed: int) -> None:
    """SIGTERMs in phases, which have gone on to the same bytes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.failure_driver", "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = [pool.submit(preempted, name, folder, times, seed).result() for name, times in stops.items()]
    assert [fault for one in found for fault in one.faults] == []
    assert {one.phase: one.stops for one in found} == stops
    assert max(one.slowest for one in found) < 20  # at once, but on a machine that has other work


def test_preempted_commands_give_back_their_tasks_and_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    all_preempted(tmp_path, DAILY, 0)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(PHASES))
def test_preempted_commands_of_every_phase(name: str, tmp_path: Path) -> None:
    all_preempted(tmp_path, {name: 4}, 1)
