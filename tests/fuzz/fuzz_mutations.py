"""Damage done to valid files: strategies of plain values, so that hypothesis can make a failing case smaller."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

PRECIOUS = "../precious"
NAMES = (
    "../precious/a.txt", "/etc/passwd", "..", ".", "", "a/../../precious/a.txt", "tasks/x", "run.json", "a\x00b",
    "C:\\x",
    "x" * 300, "\u202e/\U0001f600", "\udc80", "00000/class00000_id00000.png", "../" * 30 + "etc/passwd", "~/x",
    "%2e%2e/a",
    "<script>alert(1)</script>", "task-00001", "inf", "nan", "ddfast.run", "*", "[0-9]*",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) + 1, (1 << 63) - 1,
    1 << 63, 1 << 64, 10**30, -(1 << 63), 0.0, -0.5, 0.5, 1.5, 1e-300, 1e300, -1e300,
)  # fmt: skip
RAW = (
    b"NaN",
    b"1e999",
    b"-Infinity",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'"\\ud800"',
)

hostile = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, True, False, [], {}, [[]], {"a": {}}, [1] * 500, ["x", 1, None]]),
    st.integers(-10, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
places = st.integers(0, 1 << 20)
json_edits = st.lists(
    st.tuples(places, st.sampled_from(["set", "set", "set", "drop", "twice", "swap", "grow", "raw"]), hostile, places),
    min_size=1,
    max_size=3,
)
byte_edits = st.lists(
    st.tuples(
        places,
        st.sampled_from(["set", "set", "flip", "cut", "insert", "repeat", "number", "drop"]),
        st.binary(min_size=1, max_size=8),
        st.sampled_from([0, 1, -1, 2, 255, 1 << 15, 1 << 16, 1 << 24, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]),
    ),
    min_size=1,
    max_size=4,
)
file_edits = st.lists(
    st.tuples(
        places,
        st.sampled_from(["remove", "empty", "folder", "link", "link-folder", "dangling", "copy", "loop", "pipe"]),
        places,
    ),
    min_size=1,
    max_size=2,
)


def damage_json(value: Any, edits: list[tuple[int, str, Any, int]]) -> bytes:
    """The text of ``value`` after some of its entries were changed."""
    raw: tuple[str, bytes] | None = None
    for place, kind, drawn, other in edits:
        new = json.loads(json.dumps(drawn))  # a list of its own each time
        spots = list(_spots(value))
        if not spots:
            value = new
            continue
        holder, key = spots[place % len(spots)]
        if kind == "drop":
            del holder[key]
        elif kind == "twice" and isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(holder[key])))
        elif kind == "grow":
            holder[key] = [holder[key]] * (other % 300)
        elif kind == "swap":
            holder2, key2 = spots[other % len(spots)]
            holder[key] = json.loads(json.dumps(holder2[key2]))
        elif kind == "raw":
            holder[key] = "@raw@"
            raw = ("@raw@", RAW[other % len(RAW)])
        else:
            holder[key] = new
    text = json.dumps(value).encode()
    return text if raw is None else text.replace(json.dumps(raw[0]).encode(), raw[1])


def _spots(value: Any) -> Any:
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _spots(value[key])


def damage_bytes(data: bytes, edits: list[tuple[int, str, bytes, int]], head: int = 0) -> bytes:
    """``data`` with some bytes changed; of every second edit the place is in the first ``head`` bytes."""
    for place, kind, new, number in edits:
        size = min(len(data), head) if head and place % 2 else len(data)
        at = (place // 2) % max(size, 1)
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "flip":
            data = data[:at] + bytes(b ^ (1 << (place % 8)) for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + 64] * (1 + place % 40) + data[at + 64 :]
        elif kind == "number":
            width, sign = (("<Q", "<q")[number < 0], number) if place % 3 else (("<I", "<i")[number < 0], number)
            try:
                packed = struct.pack(width, sign)
            except struct.error:
                packed = new
            data = data[:at] + packed + data[at + len(packed) :]
        else:
            data = data[:at] + data[at + len(new) :]
    return data


def damage_files(folder: Path, edits: list[tuple[int, str, int]]) -> None:
    """Files of the folder removed, emptied, exchanged for folders, links and copies of each other."""
    for place, kind, other in edits:
        found = sorted(path for path in folder.rglob("*") if not path.is_symlink())
        files = [path for path in found if path.is_file()]
        if not files:
            return
        path, source = files[place % len(files)], files[other % len(files)]
        outside = folder / PRECIOUS / "copy" / path.relative_to(folder)
        actions: dict[str, Callable[[], object]] = {
            "remove": path.unlink,
            "empty": lambda path=path: path.write_bytes(b""),
            "folder": lambda path=path: (path.unlink(), path.mkdir()),
            "pipe": lambda path=path: (path.unlink(), os.mkfifo(path)),
            "dangling": lambda path=path: (path.unlink(), path.symlink_to("nowhere")),
            "copy": lambda path=path, source=source: path.write_bytes(source.read_bytes()),
            "loop": lambda path=path: (path.unlink(), path.symlink_to(path.name)),
            "link": lambda path=path, outside=outside: (path.unlink(), path.symlink_to(outside)),
            "link-folder": lambda path=path: _link_parent(folder, path),
        }
        actions[kind]()


def _link_parent(folder: Path, path: Path) -> None:
    parent = path.parent
    if parent == folder or parent == folder / "run":  # where a user says the run is
        return
    outside = folder / PRECIOUS / "copy" / parent.relative_to(folder)
    for entry in sorted(parent.rglob("*"), reverse=True):
        if entry.is_dir() and not entry.is_symlink():
            entry.rmdir()
        else:
            entry.unlink()
    parent.rmdir()
    os.symlink(outside, parent)
