"""Calls one C++ kernel some times with made-up buffers: ``native_calls.py MODULE OP CALLS``. Standard library only."""

from __future__ import annotations

import importlib.util
import sys
from array import array
from collections.abc import Callable
from types import ModuleType

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_kept: list[array] = []


def address(values: array) -> int:
    """Of the buffer, which is kept alive."""
    _kept.append(values)
    return values.buffer_info()[0]


def numbers(count: int, scale: float) -> array:
    """Repeatable values from 0 to ``scale``, without much computation."""
    few = [((index * 7919) % 1009) / 1009 * scale for index in range(1009)]
    return array("f", (few * (count // 1009 + 1))[:count])


def ragged() -> tuple[int, ...]:
    """One picture of 200 x 240 and two boxes of it."""
    pixels = array("B", bytes(range(251)) * 574)[: 200 * 240 * 3]
    boxes = array("i", [10, 20, 150, 150, 0, 0, 200, 200, 50, 60, 90, 90, 5, 5, 190, 190])
    return (
        address(pixels), len(pixels), address(array("q", [0])), address(array("i", [200, 240])), 1,
        address(boxes), address(array("i", [0] * 4)), 4,
    )  # fmt: skip


def multi_crop(cpu: ModuleType) -> Callable[[], object]:
    work, out = ragged(), address(array("f", bytes(4 * 4 * 3 * 112 * 112)))
    return lambda: cpu.multi_crop(work, [112, 112], [112, 112], MEAN, STD, 0.0, out, 3 * 112 * 112, False, 0, 1)


def mosaic(cpu: ModuleType) -> Callable[[], object]:
    work, out = ragged(), address(array("B", bytes(224 * 224 * 3)))
    return lambda: cpu.mosaic(work, 224, 2, False, MEAN, STD, out, 1)


def crop_score(cpu: ModuleType) -> Callable[[], object]:
    n, m, classes = 4, 5, 1000
    logits, labels = address(numbers(n * m * classes, 9.0)), address(array("q", range(n)))
    loss, best, index = (address(array(kind, bytes(8 * n * m))) for kind in "ffq")
    return lambda: cpu.crop_score(
        logits, 0, n, m, classes, m * classes, classes, labels, False, loss, best, index, 1
    )  # fmt: skip


def class_topk(cpu: ModuleType) -> Callable[[], object]:
    n, classes, kept = 256, 10, 40
    scores, labels = address(numbers(n, 1.0)), address(array("q", [index % classes for index in range(n)]))
    keys = address(array("q", range(n)))
    table = [address(array("f", [float("inf")] * classes * kept)), address(array("q", [2**63 - 1] * classes * kept))]
    out = [address(array("f", bytes(4 * classes * kept))), address(array("q", bytes(8 * classes * kept)))]
    return lambda: cpu.class_topk_f32(scores, labels, keys, n, classes, kept, *table, *out)


def main(path: str, op: str, calls: int) -> None:
    spec = importlib.util.spec_from_file_location("_cpu", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no module")
    cpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cpu)
    cpu.set_isa("v3")
    run = {"multi_crop": multi_crop, "mosaic": mosaic, "crop_score": crop_score, "class_topk": class_topk}[op](cpu)
    for _ in range(calls):
        run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
