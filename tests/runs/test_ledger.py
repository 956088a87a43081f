"""The ledger within one process: idempotent tasks, resume, refusals, corruption, overwriting."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ddfast.runs import Ledger, RunError, Worker, open_ledger, refuse_occupied
from ddfast.runs.config import fingerprint
from ddfast.runs.lease import LeaseBook, Owner

TASKS = ["class-00000", "class-00001", "class-00002"]
CONFIG = {"seed": 1, "crop": {"scale": (0.08, 1.0), "count": 5}}


def do(ledger: Ledger, limit: int = 99) -> list[str]:
    """Complete up to ``limit`` tasks; the ids done."""
    done = []
    while len(done) < limit and (task := ledger.claim_next()) is not None:
        with task:
            task.write_bytes(f"{task.id[-5:]}/a.bin", task.id.encode())
            task.write_bytes(f"{task.id[-5:]}/b.bin", b"")
            assert task.complete({"id": task.id})
        done.append(task.id)
    return done


def test_tasks_come_in_order_and_results_are_recorded(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "run", TASKS, CONFIG) as ledger:
        assert do(ledger) == TASKS
        assert ledger.finished()
        records = ledger.records()
        assert list(records) == TASKS
        assert records["class-00001"].record == {"id": "class-00001"}
        assert records["class-00001"].files["00001/a.bin"].size == 11
        assert ledger.status().done == 3
        ledger.finish()
    assert sorted(os.listdir(tmp_path / "run")) == ["00000", "00001", "00002", "records.json", "run.json"]
    assert sorted(os.listdir(tmp_path / "run/00001")) == ["a.bin", "b.bin"]


def test_finish_sweeps_what_killed_workers_left_beside_the_results(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        do(ledger)
        old, fresh = time.time() - 3600, []
        for name in ("dead", "live"):
            file, building = tmp_path / f".ddfast-tmp-{name}-manifest.json", tmp_path / f".ddfast-tmp-{name}-run"
            building.mkdir()
            for path in (file, building / "images.safetensors"):
                path.write_bytes(b"part")
            fresh += [file.name, building.name] if name == "live" else []
            for path in (file, building / "images.safetensors", building):
                if name == "dead" or path is building:  # a folder looks old while a file in it grows
                    os.utime(path, (old, old))
        ledger.finish()
    assert sorted(os.listdir(tmp_path)) == sorted([*fresh, "00000", "00001", "00002", "records.json", "run.json"])


def test_resume_does_only_what_is_missing(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        assert do(ledger, limit=1) == TASKS[:1]
    with Ledger.resume(tmp_path, TASKS, CONFIG) as ledger:
        assert do(ledger) == TASKS[1:]
        ledger.finish()
    with Ledger.resume(tmp_path, TASKS, CONFIG, verify=True) as ledger:
        assert ledger.finished()
        assert ledger.claim_next() is None
        assert list(ledger.records()) == TASKS


def test_resume_starts_a_run_in_an_empty_folder(tmp_path: Path) -> None:
    with Ledger.resume(tmp_path / "new", TASKS, CONFIG) as ledger:
        assert do(ledger) == TASKS


def test_resume_names_every_differing_key(tmp_path: Path) -> None:
    Ledger.create(tmp_path, TASKS, CONFIG).close()
    other = {"seed": 2, "crop": {"scale": [0.08, 1.0], "count": 5, "ratio": 1.0}}
    with pytest.raises(RunError) as caught:
        Ledger.resume(tmp_path, TASKS, other)
    message = str(caught.value)
    assert "seed: the run has 1, you ask for 2" in message
    assert "crop.ratio: the run has (not set), you ask for 1.0" in message
    assert "crop.scale" not in message
    assert "--overwrite" in message
    with pytest.raises(RunError, match="tasks: the run has 3, you ask for 2"):
        Ledger.resume(tmp_path, TASKS[:2], CONFIG)
    with pytest.raises(RunError, match="number 2 is 'x' instead of 'class-00002'"):
        Ledger.resume(tmp_path, [*TASKS[:2], "x"], CONFIG)


def test_create_refuses_a_folder_in_use(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "run", TASKS, CONFIG).close()
    with pytest.raises(RunError, match=r"--resume .*--overwrite"):
        Ledger.create(tmp_path / "run", TASKS, CONFIG)
    with pytest.raises(RunError, match="seed: the run has 1"):
        Ledger.create(tmp_path / "run", TASKS, {**CONFIG, "seed": 7})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        Ledger.create(tmp_path / "foreign", TASKS, CONFIG)
    with pytest.raises(RunError, match="no run to resume"):
        Ledger.resume(tmp_path / "foreign", TASKS, CONFIG)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        Ledger.create(tmp_path / "file", TASKS, CONFIG)


def test_overwrite_deletes_only_what_is_ours(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with Ledger.create(root, TASKS, CONFIG) as ledger:
        do(ledger)
    with Ledger.create(root, TASKS, {"seed": 9}, overwrite=True) as ledger:
        assert not (root / "00000").exists()
        assert do(ledger) == TASKS
    (root / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes\.txt"):
        Ledger.create(root, TASKS, CONFIG, overwrite=True)
    assert (root / "00000/a.bin").exists()
    foreign = tmp_path / "foreign"
    (foreign / "00000").mkdir(parents=True)
    (foreign / "00000/cat.jpg").write_text("real data")
    with pytest.raises(RunError, match="not touch"):
        Ledger.create(foreign, TASKS, CONFIG, overwrite=True)
    (foreign / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(RunError, match="not touch"):
        Ledger.create(foreign, TASKS, CONFIG, overwrite=True)
    assert (foreign / "00000/cat.jpg").exists()


def test_overwrite_does_not_follow_links(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("x")
    Ledger.create(tmp_path / "run", TASKS, CONFIG).close()
    (tmp_path / "run/00000").symlink_to(precious)
    with pytest.raises(RunError, match="00000"):
        Ledger.create(tmp_path / "run", TASKS, CONFIG, overwrite=True)
    assert (precious / "data").exists()


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("damage", ["bytes", "size", "missing", "folder"])
def test_corrupted_result_is_detected_and_redone(tmp_path: Path, damage: str, finished: bool) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        do(ledger)
        if finished:
            ledger.finish()
    victim = tmp_path / "00001/a.bin"
    if damage == "bytes":
        victim.write_bytes(b"class-0000X")
        with Ledger.resume(tmp_path, TASKS, CONFIG) as ledger:
            assert ledger.finished(), "the size is right, so only a checksum can tell"
    elif damage == "size":
        victim.write_bytes(b"")
    elif damage == "missing":
        victim.unlink()
    else:
        shutil.rmtree(tmp_path / "00001")
    with Ledger.resume(tmp_path, TASKS, CONFIG, verify=damage == "bytes") as ledger:
        assert ledger.status().done == 2
        assert do(ledger) == ["class-00001"]
        ledger.finish()
    assert victim.read_bytes() == b"class-00001"
    with Ledger.resume(tmp_path, TASKS, CONFIG, verify=True) as ledger:
        assert ledger.finished()


def test_damaged_done_record_counts_as_not_done(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        do(ledger)
    for index, text in enumerate(["", "{}", '{"task": "x", "files": 3}']):
        (tmp_path / f"tasks/{TASKS[index]}.done.json").write_text(text)
    with Ledger.resume(tmp_path, TASKS, CONFIG) as ledger:
        assert do(ledger) == TASKS


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_exceptions_give_the_task_back_and_leave_no_files(tmp_path: Path, kind: type[BaseException]) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        task = ledger.claim_next()
        assert task is not None
        with pytest.raises(kind), task:  # noqa: PT012
            task.write_bytes("00000/a.bin", b"x")
            raise kind("stop")
        assert list((tmp_path / "00000").iterdir()) == []
        again = ledger.claim_next()
        assert again is not None
        assert (again.id, again.attempt) == (TASKS[0], 1)


def test_block_without_complete_is_an_error(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        with pytest.raises(RunError, match=r"without complete\(\)"), ledger.claim(TASKS[1]):
            pass
        with ledger.claim(TASKS[1]) as task:
            task.complete()
            with pytest.raises(RunError, match="twice"):
                task.complete()
        with pytest.raises(RunError, match="done already"):
            ledger.claim(TASKS[1])
        with pytest.raises(ValueError, match="none of the 3 tasks"):
            ledger.claim("class-00003")


def test_two_ledgers_share_tasks_and_the_slower_result_is_dropped(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG, expiry=0.2) as slow, Ledger.join(tmp_path, TASKS, CONFIG) as fast:
        slow._book.beat = lambda: None  # type: ignore[method-assign]
        fast._book.expiry = 0.2
        late = slow.claim_next()
        assert late is not None
        late.write_bytes("00000/a.bin", b"late")
        with pytest.raises(RunError, match="held by another worker"):
            fast.claim(TASKS[0])
        time.sleep(0.25)
        with fast.claim(TASKS[0]) as task:
            assert task.attempt == 1
            LeaseBook.beat(slow._book)
            assert late.lost
            task.write_bytes("00000/a.bin", b"fast")
            assert task.complete()
        with late:
            assert not late.complete()
        assert (tmp_path / "00000/a.bin").read_bytes() == b"fast"
        assert os.listdir(tmp_path / "00000") == ["a.bin"]
        assert not list((tmp_path / "tasks").glob("*.lease-*"))


def test_late_worker_after_the_run_is_finished(tmp_path: Path) -> None:
    """Its temporaries were swept; that must not look like a fault."""
    with (
        Ledger.create(tmp_path, TASKS[:1], CONFIG, expiry=0.1) as slow,
        Ledger.join(tmp_path, TASKS[:1], CONFIG) as fast,
    ):
        slow._book.beat = lambda: None  # type: ignore[method-assign]
        fast._book.expiry = 0.1
        late = slow.claim_next()
        assert late is not None
        late.write_bytes("00000/a.bin", b"same")
        assert fast.claim_next() is None  # begins the watch
        time.sleep(0.15)
        with fast.claim(TASKS[0]) as task:
            task.write_bytes("00000/a.bin", b"same")
            task.complete()
        fast.finish()
        with late:
            assert not late.complete()
    assert sorted(os.listdir(tmp_path)) == ["00000", "records.json", "run.json"]


def test_clock_skew_cannot_end_a_live_lease(tmp_path: Path) -> None:
    """Another machine's stamps may be ahead or behind; only standing still while we look counts."""
    holder, looker = LeaseBook(tmp_path, expiry=0.3), LeaseBook(tmp_path, expiry=0.3)
    assert holder.claim("t") == 0
    lease = holder.path("t", 0)
    holder.close()  # stops the heartbeat; the stamps below play it
    remote = {**json.loads(lease.read_text()), "machine": "elsewhere", "pid": 1}
    lease.write_text(json.dumps(remote))
    for skew in (-300.0, 300.0, -800.0):  # within the allowance of 900 s
        for beat in range(4):
            stamp = time.time() + skew + 0.1 * beat
            os.utime(lease, (stamp, stamp))
            assert looker.claim("t") is None
            time.sleep(0.15)
    assert looker.claim("t") is None
    time.sleep(0.4)
    assert looker.claim("t") == 1
    looker.close()


def test_old_lease_of_another_machine_needs_no_waiting(tmp_path: Path) -> None:
    holder, looker = (
        LeaseBook(tmp_path, expiry=100.0, clock_skew=50.0),
        LeaseBook(tmp_path, expiry=100.0, clock_skew=50.0),
    )
    holder.claim("t")
    holder.close()
    lease = holder.path("t", 0)
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "machine": "elsewhere"}))
    os.utime(lease, (time.time() - 140, time.time() - 140))
    assert looker.claim("t") is None
    os.utime(lease, (time.time() - 160, time.time() - 160))
    assert looker.claim("t") == 1
    looker.close()


def test_empty_lease_belongs_to_somebody_alive(tmp_path: Path) -> None:
    looker = LeaseBook(tmp_path, expiry=0.2)
    looker.path("t", 0).write_bytes(b"")
    assert looker.claim("t") is None
    time.sleep(0.25)
    assert looker.claim("t") == 1
    looker.close()


def test_reused_process_number_counts_as_gone() -> None:
    me = Owner.here()
    assert not me.gone()
    assert Owner(me.machine, me.pid, "1", "x").gone()
    assert not Owner("another machine", 2**22 + 1, "1", "x").gone()


def test_claiming_is_refused_while_another_generation_lives(tmp_path: Path) -> None:
    first, second, third = (LeaseBook(tmp_path, expiry=60.0) for _ in range(3))
    assert first.claim("t") == 0
    first.release("t")
    assert second.claim("t") == 1
    assert third.claim("t") is None
    assert first.claim("t") is None
    second.clear("t")
    assert list(tmp_path.glob("*.lease-*")) == []
    assert third.claim("t") == 0
    for book in (first, second, third):
        book.close()


@pytest.mark.parametrize("used", [0, 2])
def test_of_two_that_saw_a_lease_free_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int) -> None:
    """The other one claims between this one's look and its claim; for a fresh lease and for one to take over."""
    slow, fast = LeaseBook(tmp_path, expiry=60.0), LeaseBook(tmp_path, expiry=60.0)
    for generation in range(used):
        assert fast.claim("t") == generation
        fast.release("t")
    look = slow._next_generation

    def overtaken(task: str) -> int | None:
        seen = look(task)
        assert fast.claim(task) == used
        return seen

    monkeypatch.setattr(slow, "_next_generation", overtaken)
    assert slow.claim("t") is None
    assert fast.held_count() == 1
    slow.close()
    fast.close()


def test_task_finished_between_look_and_claim_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as slow, Ledger.join(tmp_path, TASKS, CONFIG) as fast:
        claim = slow._book.claim

        def overtaken(task: str) -> int | None:
            do(fast)
            return claim(task)

        monkeypatch.setattr(slow._book, "claim", overtaken)
        assert slow.claim_next() is None
        assert slow.finished()
        assert not list((tmp_path / "tasks").glob("*.lease-*"))


def test_workers_prefer_their_own_share(tmp_path: Path) -> None:
    tasks = [f"t{index}" for index in range(7)]
    with Ledger.create(tmp_path, tasks, CONFIG) as ledger:
        ledger.prefer(1, 3)
        order = []
        while (task := ledger.claim_next()) is not None:
            with task:
                task.complete()
            order.append(task.id)
        assert order == ["t1", "t4", "t0", "t2", "t3", "t5", "t6"]
        assert list(ledger.records()) == tasks
        with pytest.raises(ValueError, match="index: got 3 with count 3"):
            ledger.prefer(3, 3)


def test_a_task_in_order_is_waited_for_and_taken_over(tmp_path: Path) -> None:
    first, second = (Ledger.resume(tmp_path, ["a", "b"], {}) for _ in range(2))
    held = first.claim_or_wait("a")
    assert held is not None
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend([second.claim_or_wait("a", poll=0.01)]))
    thread.start()
    time.sleep(0.1)
    assert not got  # waits while the first holds it
    held.release()
    thread.join(5)
    assert got[0].id == "a"
    assert got[0].attempt == 1
    thread = threading.Thread(target=lambda: got.extend([first.claim_or_wait("a", poll=0.01)]))
    thread.start()
    got[0].complete()
    thread.join(5)
    assert got[1] is None  # done by the other
    with pytest.raises(ValueError, match="task: got 'c'"):
        first.claim_or_wait("c")
    first.close()
    second.close()


def test_a_worker_started_again_by_its_launcher_goes_on(tmp_path: Path) -> None:
    with open_ledger(tmp_path, ["a"], {}, worker=Worker()) as ledger, ledger.claim("a") as task:
        task.complete()
    with open_ledger(tmp_path, ["a"], {}, worker=Worker(restarted=True)) as ledger:
        assert ledger.finished()
    refuse_occupied(tmp_path, resume=False, overwrite=False, worker=Worker(restarted=True))
    refuse_occupied(tmp_path, resume=False, overwrite=False, worker=Worker(1, 2))
    with pytest.raises(RunError, match="--resume"):
        refuse_occupied(tmp_path, resume=False, overwrite=False, worker=Worker(0, 2))


def test_finish_needs_all_tasks_and_may_drop_files(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        do(ledger, limit=2)
        with pytest.raises(RunError, match="2 of 3 tasks"):
            ledger.finish()
        do(ledger)
        with Ledger.join(tmp_path, TASKS, CONFIG) as second:
            assert second.finished()
            ledger.finish(keep_files=False)
            second.finish(keep_files=False)
        assert os.listdir(tmp_path / "00000") == []
    with Ledger.resume(tmp_path, TASKS, CONFIG, verify=True) as ledger:
        assert ledger.finished()
        assert ledger.records()[TASKS[2]].record == {"id": TASKS[2]}


def test_a_worker_that_comes_while_another_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are dropped, the old done records are still there: the tasks must not be done again."""
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger:
        do(ledger)
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
        ledger.finish(keep_files=False)
        assert (tmp_path / "tasks/class-00000.done.json").exists()
        with Ledger.join(tmp_path, TASKS, CONFIG) as late:
            assert late.finished()
            assert late.claim_next() is None


def test_join_waits_for_the_first_worker_and_gives_up(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json after 0\.1 s"):
        Ledger.join(tmp_path, TASKS, CONFIG, timeout=0.1)


def test_open_ledger(tmp_path: Path) -> None:
    open_ledger(tmp_path, TASKS, CONFIG, worker=Worker(0, 2)).close()
    open_ledger(tmp_path, TASKS, CONFIG, worker=Worker(1, 2)).close()
    open_ledger(tmp_path, TASKS, CONFIG, resume=True).close()
    open_ledger(tmp_path, TASKS, CONFIG, overwrite=True).close()
    with pytest.raises(RunError, match="--resume"):
        open_ledger(tmp_path, TASKS, CONFIG)
    with pytest.raises(ValueError, match="resume and overwrite"):
        open_ledger(tmp_path, TASKS, CONFIG, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="not with 2 workers"):
        open_ledger(tmp_path, TASKS, CONFIG, overwrite=True, worker=Worker(0, 2))


@pytest.mark.parametrize(
    "name", ["/a", "../a", "a/../b", "a//b", "a\\b", "c:a", "", "a\x00", "run.json", "tasks/a", "./a"]
)
def test_unsafe_result_names_are_refused(tmp_path: Path, name: str) -> None:
    with (
        Ledger.create(tmp_path, TASKS, CONFIG) as ledger,
        pytest.raises(ValueError, match="name: got"),
        ledger.claim(TASKS[0]) as task,
    ):
        task.write_bytes(name, b"x")


@pytest.mark.parametrize("tasks", [["a", "a"], ["a/b"], [""], ["-a"], ["a.b"], ["x" * 101]])
def test_bad_task_ids(tmp_path: Path, tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="tasks: "):
        Ledger.create(tmp_path, tasks, CONFIG)


def test_config_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"crop\.path is a PosixPath"):
        Ledger.create(tmp_path, TASKS, {"crop": {"path": Path("x")}})
    with pytest.raises(ValueError, match="lr is nan"):
        Ledger.create(tmp_path, TASKS, {"lr": float("nan")})
    with Ledger.create(tmp_path, TASKS, CONFIG) as ledger, pytest.raises(ValueError), ledger.claim(TASKS[0]) as task:  # noqa: PT011
        task.complete({"score": float("inf")})
    assert fingerprint({"a": (1, 2), "b": 1}) == fingerprint({"b": 1, "a": [1, 2]})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.0}) != fingerprint({"a": True})


def test_newer_or_damaged_run_file(tmp_path: Path) -> None:
    Ledger.create(tmp_path, TASKS, CONFIG).close()
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "version": 99}))
    with pytest.raises(RunError, match="another version"):
        Ledger.resume(tmp_path, TASKS, CONFIG)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Ledger.resume(tmp_path, TASKS, CONFIG)
    (tmp_path / "run.json").write_text('{"format": "other"}')
    with pytest.raises(RunError, match="not a ddfast run"):
        Ledger.resume(tmp_path, TASKS, CONFIG)
