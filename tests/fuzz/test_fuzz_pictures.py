"""Fuzzers of pictures and of what holds them: class folders, arrays, JPEG files."""

from __future__ import annotations

import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.fuzz_harness import Fuzzer
from tests.fuzz.fuzz_mutations import NAMES, byte_edits, damage_bytes, damage_files, file_edits, places
from tests.fuzz.fuzz_seeds import SEEDS

_JPEG = tuple(name for name in SEEDS if name.startswith("jpeg-") and name != "jpeg-folder")
_names = st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=6), st.binary(min_size=1, max_size=4))
_entries = st.lists(
    st.tuples(_names, st.sampled_from(["folder", "file", "up", "out", "empty", "pipe"]), places), max_size=4
)


def test_class_folders(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["classes", "classes", "tiny"])
    edits = st.one_of(byte_edits, file_edits, st.just([]))

    def execute(case: tuple[str, list[Any], list[Any], int]) -> None:
        def damage(root: Path) -> None:
            for name, kind, place in case[1]:
                _add(root, name, kind, place)
            _damage_any(root, case[2], case[3])

        fuzzer.case("source", case[0], damage, links=True)

    fuzzer.run(st.tuples(seeds, _entries, edits, places), execute)


def test_arrays(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["npz", "npz-packed"])

    def execute(case: tuple[str, list[Any], bool, int]) -> None:
        def damage(root: Path) -> None:
            path = root / "set.npz"
            data = path.read_bytes()
            path.write_bytes(_rezipped(data, case[1], case[3]) if case[2] else damage_bytes(data, case[1], 4096))

        fuzzer.case("source", case[0], damage)

    fuzzer.run(st.tuples(seeds, byte_edits, st.booleans(), places), execute)


def test_known_sets(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["mnist", "mnist-packed", "svhn", "svhn-packed", "downsampled", "flat"])

    def execute(case: tuple[str, list[Any], int]) -> None:
        fuzzer.case("source", case[0], lambda root: _damage_any(root, case[1], case[2]), links=True)

    fuzzer.run(st.tuples(seeds, st.one_of(byte_edits, byte_edits, file_edits), places), execute)


def test_jpegs(fuzzer: Fuzzer) -> None:
    def execute(case: tuple[str, list[Any], tuple[int, int, int] | None]) -> None:
        def damage(root: Path) -> None:
            path = root / "data/class/a.jpg"
            data = path.read_bytes()
            path.write_bytes(damage_bytes(_resized(data, case[2]), case[1], 700))

        fuzzer.case("jpeg", case[0], damage)

    sizes = st.one_of(st.none(), st.tuples(*[st.sampled_from([0, 1, 7, 41, 300, 9000, 65535])] * 2, st.integers(0, 5)))
    fuzzer.run(st.tuples(st.sampled_from(_JPEG), st.one_of(byte_edits, st.just([])), sizes), execute)


def _resized(data: bytes, size: tuple[int, int, int] | None) -> bytes:
    """Another height and width, and for some another number of components, in the frame header."""
    at = next((data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2", b"\xff\xc1") if mark in data), -1)
    if size is None or at < 0:
        return data
    changed = bytearray(data)
    changed[at + 5 : at + 9] = size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big")
    if size[2]:
        changed[at + 9] = size[2]
    return bytes(changed)


def _rezipped(data: bytes, edits: list[Any], place: int) -> bytes:
    """Changes in one array, in an archive that is whole."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as written:
        names = archive.namelist()
        for name in names:
            content = archive.read(name)
            if name == names[place % len(names)]:
                content = damage_bytes(content, edits, 128)
            written.writestr(zipfile.ZipInfo(name), content, archive.getinfo(name).compress_type)
    return out.getvalue()


def _add(root: Path, name: str | bytes, kind: str, place: int) -> None:
    folders = [
        root / "data",
        *sorted(path for path in (root / "data").rglob("*") if path.is_dir() and not path.is_symlink()),
    ]
    flat = os.fsencode(name) if isinstance(name, bytes) or "\udc80" in name else name.encode("utf-8", "replace")
    path = os.path.join(os.fsencode(folders[place % len(folders)]), flat.replace(b"/", b"_").replace(b"\0", b"_")[:200])
    path += b".jpg" if kind == "pipe" else b""
    if os.path.lexists(path):
        return
    if kind == "folder":
        os.mkdir(path)
    elif kind == "up":
        os.symlink("..", path)
    elif kind == "out":
        os.symlink("../../precious", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        Path(os.fsdecode(path)).write_bytes(b"" if kind == "empty" else b"\xff\xd8\xff")


def _damage_any(root: Path, edits: list[Any], place: int) -> None:
    if not edits:
        return
    if len(edits[0]) == 3:
        damage_files(root, edits)
        return
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    path = files[place % len(files)]
    path.write_bytes(damage_bytes(path.read_bytes(), edits, 700))
