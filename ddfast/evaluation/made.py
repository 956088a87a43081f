"""What a set's folder says beside the set: what making it cost, and the pictures its method drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfast._outside import read_json
from ddfast.evaluation.inputs import Sets
from ddfast.runs.timings import TIMINGS_FILE
from ddfast.store import DistilledSet

# file in the folder of a distributional set (D3), and what it shows
PICTURES = {
    "means.png": "The mean of every class: its first prior's, decoded",
    "interpolation.png": "Between four classes: their means in the corners, straight lines in latent space between",
    "samples.png": "A class a row: the mean of its first prior, then samples of its priors",
}
_LARGEST = 6 << 20  # bytes of a picture that still goes into the page
_NUMBERS = ("steps", "flops", "seconds")


def set_folders(distilled: Sets) -> list[Path | None]:
    """The folder of each set that an evaluation was given; None for sets in memory."""
    listed: list[Any] = [distilled] if isinstance(distilled, (DistilledSet, str, Path)) else list(distilled)
    return [None if isinstance(item, DistilledSet) else Path(item) for item in listed]


def distillation_cost(manifest: Mapping[str, Any], folder: Path | None) -> dict[str, Any] | None:
    """What making the set cost, as far as it is known.

    Args:
        manifest: of the set; ``cost``, where it has one, names steps, flops, seconds and machine, of the whole or of
            parts that are added up.
        folder: of the set, whose ``timings.json`` (its blocks', where it has none) says where the time went; None for a
            set in memory.

    Returns:
        {iterations, steps, flops, seconds, cpu_seconds, machine, parts: {part: seconds}}, null where unknown; None
        where nothing is known.
    """
    said = manifest.get("cost")
    said = said if isinstance(said, Mapping) else {}
    found: dict[str, Any] = {name: _whole(said, name) for name in _NUMBERS}
    found["machine"] = said["machine"] if isinstance(said.get("machine"), str) else None
    found["iterations"] = _iterations(manifest)
    wall, cpu = _times(folder)
    if wall:
        found["seconds"] = round(sum(wall.values()), 2)
    found |= {"cpu_seconds": round(cpu, 2) if wall else None, "parts": {k: round(v, 2) for k, v in wall.items()}}
    return found if any(value not in (None, {}) for value in found.values()) else None


def set_pictures(folder: Path | None) -> dict[str, bytes]:
    """PNG files that a method drew of its set, by name, in the order of ``PICTURES``; those that are too large for a
    page are left where they are."""
    if folder is None:
        return {}
    there = (folder / name for name in PICTURES)
    return {
        path.name: path.read_bytes()
        for path in there
        if path.is_file() and 0 < path.stat().st_size <= _LARGEST and path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    }


def _iterations(manifest: Mapping[str, Any]) -> int | None:
    """Of the method, in all blocks."""
    count: Any = (manifest.get("config") or {}).get("iterations")
    if not _is_number(count):
        return None
    blocks: Sequence[Any] = (manifest.get("distribution") or {}).get("blocks") or [None]
    return int(count) * len(blocks)


def _times(folder: Path | None) -> tuple[dict[str, float], float]:
    """Wall seconds by part, and CPU seconds, of the runs in a folder."""
    entries = [] if folder is None else _entries(folder / TIMINGS_FILE)
    if folder is not None and not entries:
        entries = [entry for path in sorted(folder.glob(f"blocks/*/{TIMINGS_FILE}")) for entry in _entries(path)]
    wall: dict[str, float] = {}
    for part, seconds, _ in entries:
        wall[part] = wall.get(part, 0.0) + seconds
    return wall, sum(own for _, _, own in entries)


def _entries(path: Path) -> list[tuple[str, float, float]]:
    """Part, wall and CPU seconds; a file that cannot be read counts as none, since it decides nothing."""
    try:
        entries = read_json(path)["parts"]
        return [(str(entry["part"]), float(entry["wall"]), float(entry["cpu"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _whole(said: Any, name: str) -> Any:
    """A number of a cost, or the sum over its parts; None where no part has it."""
    if isinstance(said, Mapping):
        if name in said:
            return said[name] if _is_number(said[name]) else None
        said = list(said.values())
    parts = [_whole(part, name) for part in said] if isinstance(said, list) else []
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
