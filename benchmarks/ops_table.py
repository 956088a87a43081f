"""The table of ops: what each does, its back ends as the source tree has them, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Content = dict[str, Any]


@dataclass(frozen=True)
class Op:
    """What an op does; the group of results to quote, and the name there of the plain way to do it."""

    about: str
    group: str
    plain: str


OPS = {
    "multi_crop": Op(
        "boxes of a ragged batch of uint8 pictures -> antialiased resize -> normalise -> batch",
        "multi_crop rded-112", "torch-float",
    ),
    "augment_batch": Op(
        "samples of a resident uint8 set -> shift -> strip shuffle -> antialiased crop -> flip -> CutMix or mixup -> "
        "normalise; all draws given", "augment_batch imagenet-224", "torch-batch",
    ),
    "crop_score": Op(
        "logits -> cross-entropy per crop, accurate for tiny losses, best crop of each picture",
        "crop_score ImageNet-1K", "eager",
    ),
    "class_topk": Op("streaming best-k per class, stable order", "class_topk stream", "eager-loop"),
    "plane_block": Op(
        "feature planes -> instance norm -> affine -> ReLU -> 2x2 average pool, with first and second derivatives",
        "plane_block IPC 10, layer 1, gradient", "eager",
    ),
    "conv3x3": Op(
        "3x3 convolution and its two gradients, on CPUs with Winograd's fewer products", "conv3x3 layer 2, value",
        "torch",
    ),
    "dsa": Op(
        "siamese augmentation of a batch, read from a table of parameters, and its transpose",
        "dsa color, 256 pictures, gradient", "eager",
    ),
    "mmd": Op(
        "features of every class -> unbiased squared maximum mean discrepancy, a sum of Gaussian kernels, with first "
        "and second derivatives; `mmd_median`: bandwidths by the median heuristic", "mmd, 200 classes", "eager",
    ),
    "mosaic": Op("boxes cut again from the pictures and written into uint8 mosaics", "mosaic nearest", "reference"),
    "soft_label_loss": Op(
        "cross-entropy or divergence of students' logits from stored or computed soft labels",
        "soft_label_loss ImageNet-1K", "eager",
    ),
}  # fmt: skip


def backends(op: str, root: Path = ROOT) -> list[str]:
    """Those whose source is there."""
    native, python = root / "csrc" / op, root / "ddfast" / "ops" / op
    found = [
        ("C++", native / f"{op}_cpu.cpp"),
        ("Triton", python / "triton_kernels.py"),
        ("CUDA C++", native / f"{op}_cuda.cu"),
    ]
    return ["reference", *(name for name, path in found if path.exists())]


def ops_table(contents: Sequence[Content]) -> str:
    """Markdown: a row an op, a column of measurements a machine."""
    machines = {content["machine"]["slug"]: content["machine"] for content in contents}
    head = ["op", "what it does", "back ends", *(f"measured on {_title(each)}" for each in machines.values())]
    rows = [
        [f"`{name}`", op.about, ", ".join(backends(name)), *(_measured(op, contents, slug) for slug in machines)]
        for name, op in OPS.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def _title(machine: Content) -> str:
    return str(machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores")


def _measured(op: Op, contents: Sequence[Content], slug: str) -> str:
    """``32 us/crop; torch-float 14.0x the time, the fastest other (torch-uint8) 3.9x``."""
    from benchmarks.report import amount, ratio

    for content in contents:
        records = [each for each in content["records"] if each["group"] == op.group]
        ours = next((each for each in records if each["baseline"] is None), None)
        if content["machine"]["slug"] != slug or ours is None:
            continue
        others = {each["name"]: ratio(each, ours) for each in records if each["baseline"]}
        told = [f"{op.plain} {others[op.plain]:.1f}x the time"] if op.plain in others else []
        fastest = min(others, key=others.__getitem__, default=op.plain)
        if fastest != op.plain:
            told.append(f"the fastest other ({fastest}) {others[fastest]:.1f}x")
        return f"{amount(ours).split(', ')[0]}; {', '.join(told)}"
    return ""
