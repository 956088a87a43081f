"""Several workers on one folder: matching methods, PDD and D3 end in the same bytes, whoever does what, or dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.methods import get_method
from ddfast.methods._problem import Problem
from ddfast.methods.d3 import block as d3_block
from ddfast.methods.d3 import pipeline as d3
from ddfast.methods.mtt import experts as mtt_experts
from ddfast.methods.pdd import pipeline as pdd
from ddfast.methods.pdd.part import Part
from ddfast.runs import Ledger, RunError
from ddfast.train import experts
from ddfast.train.matching.distribution import DistributionMatcher
from ddfast.train.trajectories import TrajectoryStore, write_replay_buffer
from tests.methods import matching_case
from tests.methods.d3_case import contents
from tests.runs.matching_workers import RUNS, Hold, start, together, work


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for method in (Ledger.claim_or_wait, Ledger.claims):
        monkeypatch.setitem(method.__kwdefaults__, "poll", 0.02)
    monkeypatch.setattr(d3, "_POLL", 0.02)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Every file of each run by a single worker."""
    found = {}
    for name in RUNS:
        out = tmp_path_factory.mktemp("alone") / name
        together(name, out, 1)
        found[name] = contents(out)
    return found


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", RUNS)
def test_many_workers_end_in_the_bytes_of_one(
    alone: dict[str, dict[str, bytes]], tmp_path: Path, name: str, count: int
) -> None:
    together(name, tmp_path / "out", count)
    assert contents(tmp_path / "out") == alone[name]


def test_each_expert_and_each_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, int]] = []
    plain = TrajectoryStore.write

    def counted(store: TrajectoryStore, expert: int, epoch: int, theta: torch.Tensor) -> None:
        written.append((str(store.path.parent.relative_to(tmp_path)), expert, epoch))
        plain(store, expert, epoch, theta)

    monkeypatch.setattr(TrajectoryStore, "write", counted)
    together("pdd", tmp_path, 3)
    stages = [
        (f"stages/{stage}/experts", expert, epoch) for stage in range(3) for expert in range(3) for epoch in range(3)
    ]
    starts = [(f"stages/{stage}/starts", network, 0) for stage in range(3) for network in range(3)]
    assert sorted(written) == sorted(stages + starts)


def test_two_processes_through_the_command_line(alone: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    """The one with the lower number comes last."""
    out, source = tmp_path / "out", matching_case.source()
    np.savez(
        tmp_path / "colours.npz", images=source._images, labels=source._labels, class_names=np.array(source.class_names)
    )
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in RUNS["mtt"][1].items() if name != "zca"]
    command = [sys.executable, "-m", "ddfast", "distill", "mtt", "--data", str(tmp_path / "colours.npz"), "--out",
               str(out), "--no-zca", "--device", "cpu", "--resume", *flags]  # fmt: skip
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = []
    for index in (1, 0):
        workers.append(subprocess.Popen([*command, "--shard", f"{index}/2"], env=environ, stderr=subprocess.PIPE))
        time.sleep(0.5)
    errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert "Traceback" not in "".join(errors)
    assert contents(out) == alone["mtt"]


def test_a_worker_takes_over_from_a_killed_one(
    alone: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It waits without pictures, and goes on from the checkpoint."""
    out, advanced, read = tmp_path / "out", [], []
    program = (
        "import sys, time; from pathlib import Path; from tests.runs.matching_workers import work\n"
        "from ddfast.train.matching.distribution import DistributionMatcher as Matcher; plain = Matcher.advance\n"
        "def advance(matcher):\n"
        "    if matcher.iteration == 3:\n"
        "        print('third', flush=True)\n"
        "        time.sleep(600)\n"
        "    return plain(matcher)\n"
        "Matcher.advance = advance\n"
        "work('dm', Path(sys.argv[1]))\n"
    )
    command, environ = [sys.executable, "-c", program, str(out)], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, cwd=Path(__file__).parents[2]) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == b"third\n"
            plain = DistributionMatcher.advance
            monkeypatch.setattr(
                DistributionMatcher, "advance", lambda matcher: (advanced.append(matcher.iteration), plain(matcher))[1]
            )
            of = Problem._read
            monkeypatch.setattr(Problem, "_read", lambda *given: (read.append(given), of(*given))[1])
            second = start(lambda: work("dm", out, 1, 2, quiet=False))
            said = wait_for(capfd, "waiting for task distill")
            assert f"process {first.pid} on " in said
            time.sleep(0.2)
            assert said.count("waiting") == 1
            assert not read
        finally:
            first.kill()
    second.result(120)
    assert advanced == [2, 3, 4, 5]
    assert contents(out) == alone["dm"]


def wait_for(capfd: pytest.CaptureFixture[str], text: str) -> str:
    said, limit = "", time.monotonic() + 60
    while text not in said:
        assert time.monotonic() < limit, f"said only {said!r}"
        time.sleep(0.05)
        said += capfd.readouterr().err
    return said


@pytest.mark.parametrize("finished", [False, True])
def test_a_worker_that_stood_still_too_long_leaves_the_newer_one_alone(
    alone: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """Awake again while the newer one is at it, it stops with an error; after the end there is nothing to stop for."""
    out = tmp_path / "out"
    slow, new = Hold(DistributionMatcher.advance, 4), Hold(DistributionMatcher.advance, 3)
    monkeypatch.setattr(
        DistributionMatcher, "advance",
        lambda matcher: (new if threading.get_ident() == new.thread else slow)(matcher),
    )  # fmt: skip
    first = start(lambda: (slow.here(), work("dm", out))[1])
    assert slow.reached.wait(60)
    os.utime(out / "tasks/distill.lease-0", (0, 0))  # as if its heartbeat had stood still
    second = start(lambda: (new.here(), work("dm", out, 1, 2))[1])
    assert new.reached.wait(60)
    if finished:
        new.go.set()
        second.result(60)
        slow.go.set()
        first.result(60)
    else:
        before = contents(out)
        slow.go.set()
        with pytest.raises(RunError, match="another worker has taken over task distill, since this one stood still"):
            first.result(60)
        after = contents(out)
        assert {name: after[name] for name in before} == before
        new.go.set()
        second.result(60)
    assert contents(out) == alone["dm"]


LATE: dict[str, tuple[str, Any, str, int]] = {
    "before the second stage's experts": ("pdd", mtt_experts, "train_experts", 3),
    "waiting for the second stage's experts": ("pdd", experts._Training, "run", 3),
    "before the second stage's networks": ("pdd", pdd, "pooled_starts", 1),
    "before the first set is read": ("pdd", Part, "read", 1),
    "before the experts": ("mtt", mtt_experts, "train_experts", 1),
    "with pictures": ("dm", Problem, "_read", 1),
    "before a block's experts": ("d3", d3_block, "train_experts", 1),
    "before the merge": ("d3", d3, "merge", 1),
}


@pytest.mark.parametrize("point", LATE)
def test_what_a_finished_worker_tidied_away_is_not_missed(
    alone: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """One stops at a point while another does all the rest, takes over what the first held, and tidies up. Let go, it
    trains nothing anew."""
    name, place, function, number = LATE[point]
    out, hold = tmp_path / "out", Hold(getattr(place, function), number)
    monkeypatch.setattr(place, function, lambda *args, **named: hold(*args, **named))
    late = start(lambda: (hold.here(), work(name, out, 1, 2))[1])
    assert hold.reached.wait(60)
    for lease in out.rglob("*.lease-0"):
        os.utime(lease, (0, 0))
    work(name, out, 0, 2)
    # what the late one, alive, has begun to write is its own
    whole = {file: data for file, data in contents(out).items() if not file.startswith(TEMPORARY_PREFIX)}
    assert whole == alone[name]
    written: list[Any] = []
    monkeypatch.setattr(TrajectoryStore, "write", lambda *given: written.append(given))
    hold.go.set()
    late.result(60)
    assert not written
    assert contents(out) == alone[name]
    assert not list(out.rglob("tasks"))


def test_workers_without_a_block_train_experts_of_another_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = {"blocks": 1, "experts": 3, "soft_labels": "none"}
    work("d3", tmp_path / "alone", **changes)
    out, hold = tmp_path / "out", Hold(experts._Training._pass)
    monkeypatch.setattr(experts._Training, "_pass", lambda *args: hold(*args))
    first = start(lambda: (hold.here(), work("d3", out, **changes))[1])
    assert hold.reached.wait(60)
    second = start(lambda: work("d3", out, 1, 2, quiet=False, **changes))
    store, limit = TrajectoryStore.open(out / "blocks/0/experts"), time.monotonic() + 60
    while [store.epochs_done(number) for number in range(3)] != [0, 2, 2]:
        assert time.monotonic() < limit
        time.sleep(0.05)
    hold.go.set()
    first.result(60)
    second.result(60)
    assert contents(out) == contents(tmp_path / "alone")


def test_buffers_are_imported_by_one_of_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    net = get_method("mtt").configure(None, **RUNS["mtt"][1]).net(3)
    thetas = [[net.split(torch.randn(net.size, generator=generator)) for _ in range(3)] for _ in range(2)]
    write_replay_buffer(tmp_path / "X_NO_ZCA/replay_buffer_0.pt", thetas)
    hold = Hold(TrajectoryStore.write, 3)
    monkeypatch.setattr(TrajectoryStore, "write", lambda *args: hold(*args))
    out, changes = tmp_path / "out", {"buffers": str(tmp_path / "X_NO_ZCA"), "iterations": 2, "eval_every": 2}
    first = start(lambda: (hold.here(), work("mtt", out, **changes))[1])
    assert hold.reached.wait(60)
    second = start(lambda: work("mtt", out, 1, 2, quiet=False, **changes))
    wait_for(capfd, "waiting for task import")
    hold.go.set()
    first.result(60)
    second.result(60)
    store = TrajectoryStore.open(out / "experts")
    assert all(
        torch.equal(store.snapshot(number, epoch), net.join(thetas[number][epoch]))
        for number in range(2)
        for epoch in range(3)
    )
