"""A process of its own that reads what fuzzers made: with little memory, watched for files it opens, and killed if it
hangs. One line of JSON in, one out: {"target", "folder", "links"} -> {"outcome": "ok" | "refused" | "bug", "text"}."""

from __future__ import annotations

import json
import os
import resource
import site
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOM = 1 << 30  # bytes that reading may take beyond what the process has
_CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.mkdir", "os.utime", "os.truncate", "os.link", "os.symlink",
            "os.chmod", "shutil.rmtree")  # fmt: skip
_LOOKS = ("open", "os.listdir", "os.scandir")
_HOME = str(Path(__file__).resolve().parents[2])
_FREE = tuple({sys.prefix, sys.base_prefix, *site.getsitepackages(), _HOME, "/proc", "/sys", "/dev", "/usr/lib"})


class Watch:
    """Which files are opened or changed outside of the folder while it is armed."""

    def __init__(self) -> None:
        self.folder = ""
        self.links = False
        self.found: list[str] = []
        sys.addaudithook(self._seen)

    def _seen(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.folder or (event not in _LOOKS and event not in _CHANGES):
            return
        folder, self.folder = self.folder, ""  # what is done here is not looked at
        try:
            for path in given[: 2 if event in ("os.rename", "os.link") else 1]:
                base = given[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1  # a folder that is open
                self._check(event, path if base < 0 else f"/proc/self/fd/{base}/{path}", folder, given)
        finally:
            self.folder = folder

    def _check(self, event: str, path: Any, folder: str, given: tuple[Any, ...]) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        text = os.fsdecode(path)
        # a link itself may be removed, whatever it stands for
        parent, name = os.path.split(os.path.abspath(text))
        itself = event in _CHANGES or (event == "open" and given[2] & os.O_NOFOLLOW)
        real = os.path.join(os.path.realpath(parent), name) if itself else os.path.realpath(text)
        if real == folder or real.startswith(folder + os.sep):
            return
        writes = event in _CHANGES or (event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+"))
        if not writes and (real.startswith(_FREE) or (self.links and "precious" in real)):
            return
        self.found.append(f"{event} {text!r}")


def limit_memory() -> None:
    """At most ``ROOM`` more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def is_named(error: BaseException) -> bool:
    """Whether an error is one that ddfast gives on purpose."""
    from ddfast.data import StreamError
    from ddfast.runs import RunError

    if _is_memory(error):
        return False
    if isinstance(error, OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    ours = f"{os.sep}ddfast{os.sep}" in frames[-1].filename and "tests" not in frames[-1].filename
    if isinstance(error, (ValueError, RunError, StreamError)):
        return ours
    return isinstance(error, (TypeError, IndexError)) and ours and "expected" in str(error)


def _is_memory(error: BaseException | None) -> bool:
    seen: list[BaseException] = []
    while error is not None and error not in seen:  # one can be its own cause
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def run(watch: Watch, job: dict[str, Any]) -> dict[str, str]:
    """One case."""
    from tests.fuzz.fuzz_targets import TARGETS

    watch.found, watch.links = [], bool(job.get("links"))
    folder = os.path.realpath(job["folder"])
    outcome, text = "ok", ""
    try:
        watch.folder = folder
        TARGETS[job["target"]](Path(folder))
    except Exception as error:
        watch.folder = ""
        outcome = "refused" if is_named(error) else "bug"
        text = str(error) if outcome == "refused" else "".join(traceback.format_exception(error))
    finally:
        watch.folder = ""
    if watch.found:
        return {"outcome": "bug", "text": "outside of the folder: " + "; ".join(watch.found[:5])}
    return {"outcome": outcome, "text": text}


def main() -> None:
    """Reads jobs until there are no more."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not disturb the answers
    warnings.simplefilter("ignore")
    sys.path.insert(0, _HOME)
    from tests.fuzz import fuzz_targets

    fuzz_targets.warm()
    limit_memory()
    watch = Watch()
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(watch, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
