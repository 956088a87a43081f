"""What is seen of a run from outside, while workers are at it: states, nested ledgers, workers, pace."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ddfast.cli import main
from ddfast.runs import Ledger, lookout
from ddfast.runs.lookout import Lookout
from ddfast.runs.overview import LedgerView, TaskView
from ddfast.runs.show import describe_overview, watch
from ddfast.runs.upkeep import clean, retry

TASKS = [f"t{number}" for number in range(6)]


def make(root: Path, tasks: list[str] = TASKS, **options: Any) -> Ledger:
    return Ledger.create(root, tasks, {"method": "rded"}, outputs=("*",), **options)


def finish(ledger: Ledger, count: int) -> None:
    for _ in range(count):
        task = ledger.claim_next()
        assert task is not None
        with task:
            task.write_bytes(f"00000/{task.id}.bin", b"x")
            task.complete({"loss": 1.0})


def fail(ledger: Ledger, text: str = "no luck") -> None:
    task = ledger.claim_next()
    assert task is not None
    with pytest.raises(ArithmeticError), task:
        raise ArithmeticError(text)


def states(root: Path, **options: float) -> dict[str, str]:
    return {task.task: task.state for task in Lookout(root, **options).look().ledgers[0].tasks}


def files_below(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


def dead_worker(root: Path) -> None:
    """Claims a task in a process that ends at once without giving it back."""
    program = (
        "import os, sys; from ddfast.runs import Ledger; "
        "Ledger.resume(sys.argv[1], sys.argv[2].split(), {'method': 'rded'}).claim_next(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(root), " ".join(TASKS)], check=False)


def test_every_state_and_nothing_is_touched(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with make(root) as ledger:
        finish(ledger, 2)
        fail(ledger)  # t2 is free again, and is not taken first here
        held = ledger.claim("t3")
        dead_worker(root)  # takes t2, whose failure stays known
        before = files_below(root)
        found = states(root)
        assert files_below(root) == before
        assert found == dict(zip(TASKS, ["done", "done", "expired", "running", "waiting", "waiting"], strict=True))
        view = Lookout(root).look().ledgers[0]
        assert view.tasks[2].failure is not None
        assert view.tasks[2].failure.error == "ArithmeticError: no luck"
        assert view.tasks[2].failure.where.startswith("test_overview.py:")
        held.release()
        assert states(root)["t3"] == "waiting"
        fail(ledger)
        assert states(root)["t2"] == "failed"
    text = describe_overview(Lookout(root).look())
    assert "2/6 tasks done (33 %), 1 failed, 3 waiting, nobody works on it" in text
    assert "t2: ArithmeticError: no luck" in text


def test_a_dead_worker_is_called_so_and_listed_no_more(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    dead_worker(tmp_path / "run")
    overview = Lookout(tmp_path / "run").look()
    assert overview.workers() == ()
    assert overview.as_json()["ledgers"][0]["tasks"][0]["gone"] is True
    text = describe_overview(overview)
    assert "1 expired, 5 waiting, nobody works on it" in text
    assert text.splitlines()[1] == "expired:"
    assert text.endswith(", its process is gone")


def test_how_far_a_task_is_in_its_workers_words(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with make(root) as ledger:
        task = ledger.claim("t1")
        assert task is not None
        task.tell("1/50 iterations")
        assert "how far" not in describe_overview(Lookout(root).look())  # before the heartbeat
        task.book.beat()
        assert describe_overview(Lookout(root).look()).endswith("how far:\n  t1, running: 1/50 iterations")
        task.tell("2/50 iterations")
        task.release()
        overview = Lookout(root).look()
        assert describe_overview(overview).endswith("how far:\n  t1, waiting: 2/50 iterations")
        assert overview.as_json()["ledgers"][0]["tasks"][1] == {
            "task": "t1", "state": "waiting", "told": "2/50 iterations",
        }  # fmt: skip
        finish(ledger, 1)
        task = ledger.claim("t1")
        assert task is not None
        assert "how far" not in describe_overview(Lookout(root).look())  # at work again, and has said nothing yet
        task.tell("3/50 iterations")
        task.book.beat()
        task.complete()
        assert not list(root.glob("tasks/*.told.json"))


def test_words_of_tasks_at_work_come_first(tmp_path: Path) -> None:
    tasks = [f"t{number:02d}" for number in range(14)]
    with make(tmp_path / "run", tasks) as ledger:
        for name in tasks:
            task = ledger.claim(name)
            assert task is not None
            task.tell(f"at {name}")
            if name != "t13":
                task.release()
        task.book.beat()
        lines = describe_overview(Lookout(tmp_path / "run").look()).splitlines()
    place = lines.index("how far:")
    assert lines[place + 1 : place + 3] == ["  t13, running: at t13", "  t00, waiting: at t00"]


def test_a_heartbeat_at_the_moment_of_giving_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(tmp_path / "run") as ledger:
        task = ledger.claim("t0")
        assert task is not None
        task.tell("1/2")
        looked, lost = threading.Event(), task.book.lost

        def looking(name: str) -> bool:
            beating.start()
            looked.wait(0.2)  # time for the heartbeat to be in the way
            return lost(name)

        def beat() -> None:
            task.book.beat()
            looked.set()

        beating = threading.Thread(target=beat)
        monkeypatch.setattr(task.book, "lost", looking)
        task.release()
        beating.join()
        assert describe_overview(Lookout(tmp_path / "run").look()).endswith("t0, waiting: 1/2")
        with pytest.raises(TypeError, match="text: got NoneType, expected words"):
            task.tell(None)  # type: ignore[arg-type]


def test_words_of_a_worker_that_lost_its_task_are_not_written(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with make(root, expiry=0.05) as late:
        task = late.claim("t0")
        assert task is not None
        late._book._stop.set()  # its heart stands still
        with Ledger.resume(root, TASKS, {"method": "rded"}, outputs=("*",), expiry=0.05) as ledger:
            other = ledger.claim_or_wait("t0", poll=0.02)
            assert other is not None
            task.tell("mine")
            task.book.beat()
            task.release()
            assert not list(root.glob("tasks/*.told.json"))
            other.release()


@pytest.mark.parametrize("content", ["{", "[]", '{"text": 3}', '{"text": "' + "x" * 20_000 + '"}', None])
def test_damaged_words_are_passed_over(tmp_path: Path, content: str | None) -> None:
    make(tmp_path / "run").close()
    path, secret = tmp_path / "run/tasks/t0.told.json", tmp_path / "secret"
    if content is None:
        secret.write_text('{"text": "secret"}')
        path.symlink_to(secret)
    else:
        path.write_text(content)
    assert "how far" not in describe_overview(Lookout(tmp_path / "run").look())


def test_words_that_terminals_would_obey_are_escaped_and_cut(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    words = "\x1b[2J\nt1, done: " + "x" * 500
    (tmp_path / "run/tasks/t0.told.json").write_text(json.dumps({"text": words}))
    line = describe_overview(Lookout(tmp_path / "run").look()).splitlines()[-1]
    assert line.startswith(r"  t0, waiting: \x1b[2J\nt1, done: xxx")
    assert len(line) < 350


def test_a_full_disk_costs_only_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with make(tmp_path / "run") as ledger:
        task = ledger.claim("t0")
        assert task is not None
        task.tell("1/2")
        monkeypatch.setattr("ddfast.runs.told.stage_bytes", full)
        task.book.beat()
        task.tell("2/2")
        task.release()
        assert ledger.status().free == 6


def test_a_run_that_waits_for_a_ledger_inside_says_so(tmp_path: Path) -> None:
    with make(tmp_path / "run") as ledger, make(tmp_path / "run/observer", ["train"]) as observer:
        finish(ledger, 2)
        observer.claim_next()
        overview = Lookout(tmp_path / "run").look()
        (worker,) = overview.workers()  # one process, though it has a name in each ledger
        assert (worker.done, worker.held) == (2, ("observer/train",))
        assert worker.owner.endswith(f":{os.getpid()}")
        assert "4 waiting, workers are at observer\n" in describe_overview(overview)


def test_an_interrupt_is_no_failure_and_success_forgets_failures(tmp_path: Path) -> None:
    with make(tmp_path / "run") as ledger:
        task = ledger.claim_next()
        assert task is not None
        with pytest.raises(KeyboardInterrupt), task:
            raise KeyboardInterrupt
        assert states(tmp_path / "run")["t0"] == "waiting"
        fail(ledger)
        assert states(tmp_path / "run")["t0"] == "failed"
        finish(ledger, 1)
        assert not list((tmp_path / "run/tasks").glob("t0.failed-*"))


def test_a_silent_worker_by_the_file_servers_clock_and_by_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(tmp_path) as ledger:
        for _ in range(2):
            ledger.claim_next()
        for path in (tmp_path / "tasks").glob("*.lease-0"):  # another machine's, whose processes are not to be seen
            path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "elsewhere"}))
        behind = (tmp_path / "tasks/t0.lease-0").stat().st_mtime - 5000  # this server's clock differs from ours
        os.utime(tmp_path / "tasks/t0.lease-0", (behind, behind))
        os.utime(tmp_path / "tasks/t1.lease-0", (behind + 170, behind + 170))
        wide = {"clock_skew": 10000.0}
        assert list(states(tmp_path, **wide).values())[:2] == ["running", "running"]
        os.utime(tmp_path / "tasks/t1.lease-0", (behind + 190, behind + 190))
        assert list(states(tmp_path, **wide).values())[:2] == ["expired", "running"]
        assert list(states(tmp_path).values())[:2] == ["expired", "expired"]  # later than any clock may differ
        again = Lookout(tmp_path, **wide)
        again.look()
        now = time.monotonic()
        monkeypatch.setattr(lookout.time, "monotonic", lambda: now + 181)
        assert [task.state for task in again.look().ledgers[0].tasks[:2]] == ["expired", "expired"]


def test_nested_ledgers_workers_and_pace(tmp_path: Path) -> None:
    with make(tmp_path / "run") as ledger, make(tmp_path / "run/blocks/0/experts", ["e0", "e1"]) as experts:
        finish(ledger, 3)
        finish(experts, 2)
        experts.finish()
        (tmp_path / "run/00001").mkdir()
        (tmp_path / "run/00001/run.json").write_text("no ledger is looked for among a class's images")
        (tmp_path / "run/other").mkdir()
        (tmp_path / "run/other/run.json").write_text('{"format": "of another program"}')
        ledger.claim_next()
        overview = Lookout(tmp_path / "run").look()
        assert [view.name for view in overview.ledgers] == ["", "blocks/0/experts"]
        assert overview.ledgers[1].count("done") == 2
        assert not overview.finished()
        (worker,) = overview.workers()
        assert (worker.done, worker.held) == (3, ("t3",))
    text = describe_overview(Lookout(tmp_path).look(), tasks=True)  # a folder of runs
    assert "run/blocks/0/experts: 2/2 tasks done" in text
    assert "  run/t4 waiting" in text


def test_pace_is_tasks_held_over_the_time_of_the_last_ones() -> None:
    done = [TaskView(f"a{i}", "done", "w", 20.0) for i in range(50)]
    early = [TaskView(f"b{i}", "done", "w", 1000.0) for i in range(9)]
    held = [TaskView(f"c{i}", "running", "w") for i in range(4)]
    left = [TaskView(f"d{i}", "waiting") for i in range(36)]
    rate, eta = lookout._pace((*early, *done, *held, *left))
    assert rate == pytest.approx(4 / 20)
    assert eta == pytest.approx(40 * 20 / 4)
    assert lookout._pace((*done, *left)) == (0.0, None)
    assert lookout._pace(tuple(done)) == (0.0, 0.0)
    assert LedgerView("", "", tuple(held)).count("running") == 4


def test_retry_frees_failed_and_dead_tasks_and_redoes_a_done_one(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with make(root) as ledger:
        finish(ledger, 1)
        fail(ledger)
        dead_worker(root)
        held = ledger.claim("t2")
        with pytest.raises(Exception, match="stop that worker"):
            retry(root, "t2")
        held.release()
        assert retry(root) == ["t1"]
        assert states(root)["t1"] == "waiting"
        assert retry(root) == []
        with pytest.raises(Exception, match="no task 'nope'"):
            retry(root, "nope")
        finish(ledger, 5)
        ledger.finish()
    assert retry(root, "t4") == ["t4"]
    assert states(root) == {task: "waiting" if task == "t4" else "done" for task in TASKS}
    with Ledger.resume(root, TASKS, {"method": "rded"}) as again:
        finish(again, 1)
        again.finish()


def test_retry_verifies_the_files_of_finished_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, inner = tmp_path / "run", tmp_path / "run" / "experts"
    for place in (root, inner):
        with Ledger.create(place, ["a", "b"], {}, outputs=("*",)) as ledger:
            for task in ledger.claims():
                with task:
                    task.write_bytes(f"{task.id}.bin", b"right")
                    task.complete()
            if place == root:
                ledger.finish()
        assert main(["retry", str(root), "--verify"]) == 0
        assert capsys.readouterr().out == "0 tasks freed\n"
    (root / "b.bin").write_bytes(b"wrong")
    (inner / "a.bin").write_bytes(b"wrong")
    assert retry(root) == []
    assert retry(root, verify=True) == ["b", "experts/a"]
    with pytest.raises(ValueError, match="verify: got it with task 'b'"):
        retry(root, "b", verify=True)
    assert states(root) == {"a": "done", "b": "waiting"}
    assert states(inner) == {"a": "waiting", "b": "done"}


def test_clean_takes_only_what_dead_processes_left(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with make(root) as ledger:
        finish(ledger, 1)
        old, new = root / "00000/.ddfast-tmp-1-a", root / "00000/.ddfast-tmp-2-b"
        for path in (old, new, root / "tasks/t0.lease-0", root / "00000/notes"):
            path.write_bytes(b"")
        os.utime(old, (1.0, 1.0))
        os.utime(root / "tasks/t0.lease-0", (0, 0))
        held = ledger.claim_next()
        assert held is not None
        with pytest.raises(Exception, match="at work on task t1"):
            clean(root)
        held.release()
        cleaned = clean(root)
        assert (cleaned.temporaries, cleaned.state_files) == (1, 1)
        assert sorted(os.listdir(root / "00000")) == [new.name, "notes", "t0.bin"]
        assert sorted(os.listdir(root / "tasks")) == ["t0.done.json", "t1.lease-0"]


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 1
    assert "no run here" in capsys.readouterr().err
    with make(tmp_path / "run") as ledger:
        finish(ledger, 5)
        fail(ledger)
        assert main(["status", str(tmp_path / "run"), "--json"]) == 0
        ledgers = json.loads(capsys.readouterr().out)["ledgers"]
        assert (ledgers[0]["done"], ledgers[0]["failed"], ledgers[0]["tasks"][5]["state"]) == (5, 1, "failed")
        assert main(["retry", str(tmp_path / "run")]) == 0
        assert capsys.readouterr().out.startswith("1 task freed;")
        finish(ledger, 1)
        ledger.finish()
    assert main(["status", str(tmp_path / "run"), "--watch"]) == 0  # ends, since all is done
    assert "6/6 tasks done (100 %)" in capsys.readouterr().out
    assert main(["clean", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_watching_sees_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make(tmp_path, ["only"]) as ledger:
        seen = []

        def show(overview: Any) -> str:
            seen.append(overview.finished())
            if len(seen) == 2:
                finish(ledger, 1)
            return "looked"

        watch(Lookout(tmp_path), show, seconds=0.01)
    assert seen == [False, False, True]
    assert capsys.readouterr().out == "looked\n" * 3
    for wrong in (0, -1, math.inf, math.nan, 1e9):
        with pytest.raises(ValueError, match=r"seconds: got .*above 0 and up to 86400"):
            watch(Lookout(tmp_path), seconds=wrong)


def test_watching_clears_only_terminals_that_can_be_and_never_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with make(tmp_path) as ledger:
        finish(ledger, 6)
        ledger.finish()
    for words, term, cleared in ((["--watch"], "xterm", True), (["--watch"], "dumb", False),
                                 (["--watch", "--json"], "xterm", False)):  # fmt: skip
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", out := Terminal())
        assert main(["status", str(tmp_path), *words]) == 0
        assert ("\x1b" in out.getvalue()) == cleared
    assert json.loads(out.getvalue())["finished"]
