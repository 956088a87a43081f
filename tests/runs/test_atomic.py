"""Atomic files: complete or absent, also on a full or read-only disk."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.runs import Ledger, RunError, atomic, atomic_write_bytes

REPO = Path(__file__).resolve().parent.parent.parent


def test_writes_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    atomic_write_bytes(path, b"one")
    atomic_write_bytes(path, b"two")
    atomic_write_bytes(tmp_path / "empty", b"")
    assert path.read_bytes() == b"two"
    assert (tmp_path / "empty").read_bytes() == b""
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("create", [atomic.atomic_create_bytes, atomic.create_exclusive])
@pytest.mark.parametrize("links", [True, False])
def test_create_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: Callable[[Path, bytes], bool], links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    assert create(tmp_path / "x", b"first")
    assert not create(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    (tmp_path / "old").write_bytes(b"kept")
    real_write = os.write
    calls = []

    def full(*args: object) -> int:
        calls.append(args)
        if call == "write" and len(calls) == 1:
            return real_write(args[0], bytes(args[1])[:3])  # type: ignore[arg-type]
        raise OSError(code, "full")

    monkeypatch.setattr(os, call, full)
    for name in ("old", "new"):
        calls.clear()
        with pytest.raises(RunError, match=r"disk full.*--resume"):
            atomic_write_bytes(tmp_path / name, b"0123456789")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"kept"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:3]))
    atomic_write_bytes(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_bytes(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="bad disk"):
        atomic_write_bytes(tmp_path / "x", b"data")
    assert os.listdir(tmp_path) == []


def test_full_disk_in_a_task_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back must need no space: it succeeds while every write fails."""
    with Ledger.create(tmp_path, ["t"], {}) as ledger:
        real = os.write
        with pytest.raises(RunError, match="disk full"), ledger.claim("t") as task:  # noqa: PT012
            task.write_bytes("00000/a", b"x")

            def full(*_: object) -> int:
                raise OSError(errno.ENOSPC, "full")

            monkeypatch.setattr(os, "write", full)
            task.write_bytes("00000/b", b"x")
        with pytest.raises(RunError, match="disk full"):
            ledger.claim("t")
        monkeypatch.setattr(os, "write", real)
        assert os.listdir(tmp_path / "00000") == []
        with ledger.claim("t") as task:
            task.write_bytes("00000/b", b"x")
            task.complete()


def test_no_room_for_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.create(tmp_path, ["t"], {}) as ledger:
        plain = os.open

        def full(path: Path, flags: int, *rest: int) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, "full")
            return plain(path, flags, *rest)

        monkeypatch.setattr(os, "open", full)
        with pytest.raises(RunError, match=r"t\.lease-0: disk full"):
            ledger.claim_next()


def test_real_write_limit_leaves_nothing(tmp_path: Path) -> None:
    """A true short write from the kernel (the file size limit), in a process of its own."""
    code = (
        "import resource, signal, sys, os\n"
        "from ddfast.runs import atomic_write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    atomic_write_bytes(sys.argv[1] + '/big', bytes(1_000_000))\n"
        "except OSError as error:\n"
        "    print(error.errno, os.listdir(sys.argv[1]))\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=REPO, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"{errno.EFBIG} []"


def test_real_full_disk(tmp_path: Path) -> None:
    """A tmpfs of 64 kB in a user namespace of its own, which needs no privileges where the system allows it."""
    code = (
        "import os, sys\n"
        "from ddfast.runs import Ledger, RunError\n"
        "root = sys.argv[1]\n"
        "ledger = Ledger.create(root + '/run', ['a', 'b'], {})\n"
        "with ledger.claim('a') as task:\n"
        "    task.write_bytes('00000/x', bytes(10_000))\n"
        "    task.complete()\n"
        "try:\n"
        "    with ledger.claim('b') as task:\n"
        "        task.write_bytes('00001/x', bytes(10_000))\n"
        "        task.write_bytes('00001/y', bytes(100_000))\n"
        "except RunError as error:\n"
        "    print('disk full' in str(error), '--resume' in str(error), os.listdir(root + '/run/00001'))\n"
        "again = Ledger.resume(root + '/run', ['a', 'b'], {}, verify=True)\n"
        "with again.claim('b') as task:\n"
        "    task.write_bytes('00001/x', bytes(10_000))\n"
        "    task.complete()\n"
        "print(again.finished())\n"
    )
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        done = subprocess.run(
            [*command, str(tmp_path), sys.executable, code], cwd=REPO, capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("no unshare program")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no user namespaces: {done.stderr.strip()}")
    assert done.stdout.split("\n")[:2] == ["True True []", "True"], done.stderr


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere; then the system's answer is played

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match=r"not allowed.*Permission denied.*--resume"):
        atomic_write_bytes(folder / "x", b"data")
    with pytest.raises(RunError, match="not allowed"):
        Ledger.create(folder, ["t"], {})
    monkeypatch.undo()
    folder.chmod(0o700)
    assert os.listdir(folder) == []


def test_what_a_process_of_this_machine_left_when_it_ended_need_not_grow_old(tmp_path: Path) -> None:
    ours = atomic.stage_bytes(tmp_path / "mine", b"")
    child = os.fork()
    if child == 0:
        atomic.stage_bytes(tmp_path / "left", b"")
        os._exit(0)
    os.waitpid(child, 0)
    elsewhere = tmp_path / f"{TEMPORARY_PREFIX}00000000.1.1.00000000-other"
    for path in (elsewhere, tmp_path / f"{TEMPORARY_PREFIX}0123456789ab-of-an-older-version"):
        path.touch()
    assert atomic.remove_temporaries(tmp_path, idle=60) == 1
    assert not list(tmp_path.glob("*-left"))
    assert ours.exists()
    os.utime(elsewhere, (0, 0))
    assert atomic.remove_temporaries(tmp_path, idle=60) == 1
    assert not elsewhere.exists()


def test_remove_temporaries_takes_only_ours(tmp_path: Path) -> None:
    staged = atomic.stage_bytes(tmp_path / "x.jpg", b"1")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "y.tmp").write_bytes(b"")
    assert staged.name.endswith("-x.jpg")
    assert atomic.remove_temporaries(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == [".hidden", "y.tmp"]
    assert atomic.remove_temporaries(tmp_path / "missing") == 0


def test_without_the_file_systems_clock_nothing_of_others_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / f"{TEMPORARY_PREFIX}00000000.1.1.00000000-other"
    elsewhere.touch()
    stage = atomic.stage_bytes

    def swept(path: Path, data: bytes) -> Path:
        probe = stage(path, data)
        probe.unlink()  # by a worker that finishes just now
        return probe

    monkeypatch.setattr(atomic, "stage_bytes", swept)
    assert atomic.remove_temporaries(tmp_path, idle=60) == 0
    assert elsewhere.exists()
