"""Fuzzers of sets, labels, experts and runs: a right result or an error that says what is wrong, and soon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.fuzz_harness import Fuzzer
from tests.fuzz.fuzz_mutations import (
    byte_edits,
    damage_bytes,
    damage_files,
    damage_json,
    file_edits,
    json_edits,
    places,
)

_HEAD = 4096  # where headers are


def test_manifests(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["folder", "folder", "safetensors", "white", "d3"])
    edits = st.one_of(json_edits, json_edits, json_edits, byte_edits)

    def execute(case: tuple[str, list[Any]]) -> None:
        fuzzer.case("manifest", case[0], lambda root: _damage(root / "manifest.json", case[1]))

    fuzzer.run(st.tuples(seeds, edits), execute)


def test_sets(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["folder", "jpeg-folder", "safetensors", "white", "d3", "d3"])
    edits = st.one_of(byte_edits, byte_edits, file_edits, json_edits)

    def execute(case: tuple[str, list[Any], int]) -> None:
        fuzzer.case("set", case[0], lambda root: _damage_any(root, case[1], case[2]))

    fuzzer.run(st.tuples(seeds, edits, places), execute)


def test_labels(fuzzer: Fuzzer) -> None:
    targets = st.sampled_from(["labels", "fkd"])
    edits = st.one_of(json_edits, json_edits, byte_edits, byte_edits, file_edits)

    def execute(case: tuple[str, list[Any], int]) -> None:
        fuzzer.case(case[0], case[0], lambda root: _damage_any(root, case[1], case[2]), links=case[0] == "fkd")

    fuzzer.run(st.tuples(targets, edits, places), execute)


def test_buffers(fuzzer: Fuzzer) -> None:
    edits = st.one_of(byte_edits, byte_edits, byte_edits, json_edits, file_edits)

    def execute(case: tuple[list[Any], int]) -> None:
        fuzzer.case("buffers", "buffers", lambda root: _damage_one(root, *case), links=True)

    fuzzer.run(st.tuples(edits, places), execute)


def test_runs(fuzzer: Fuzzer) -> None:
    seeds = st.sampled_from(["run", "run", "run-finished"])
    edits = st.one_of(json_edits, json_edits, byte_edits, file_edits)

    def execute(case: tuple[str, list[Any], int, int]) -> None:
        def damage(root: Path) -> None:
            _damage_any(root, case[1], case[2])
            (root / "step").write_text(str(case[3]))

        fuzzer.case("run", case[0], damage)

    fuzzer.run(st.tuples(seeds, edits, places, st.integers(0, 5)), execute)


def _damage_any(root: Path, edits: list[Any], place: int) -> None:
    if len(edits[0]) == 3:
        damage_files(root, edits)
        return
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if len(edits[0]) == 4 and not isinstance(edits[0][2], bytes):
        files = [path for path in files if path.suffix in (".json", ".safetensors") or ".lease-" in path.name] or files
    _damage(files[place % len(files)], edits)


def _damage_one(root: Path, edits: list[Any], place: int) -> None:
    """Leaves one file, so that an error of another one does not hide its."""
    files = sorted(root.iterdir())
    chosen = files[place % len(files)]
    for path in files:
        if path != chosen:
            path.unlink()
    if len(edits[0]) == 3:
        damage_files(root, edits)
    else:
        _damage(chosen, edits)


def _damage(path: Path, edits: list[Any]) -> None:
    data = path.read_bytes()
    if isinstance(edits[0][2], bytes):
        path.write_bytes(damage_bytes(data, edits, _HEAD))
    elif path.suffix == ".safetensors":
        path.write_bytes(_damage_header(data, edits))
    else:
        try:
            path.write_bytes(damage_json(json.loads(data), edits))
        except ValueError:
            path.write_bytes(damage_bytes(data, [(edit[3], "number", b"\0", 255) for edit in edits], _HEAD))


def _damage_header(data: bytes, edits: list[Any]) -> bytes:
    """Changes in the JSON header of a safetensors file; the JSON within its metadata too."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    inner = header.get("__metadata__", {}).get("ddfast")
    if inner is not None and edits[0][3] % 2:
        header["__metadata__"]["ddfast"] = damage_json(json.loads(inner), edits).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = damage_json(header, edits)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
