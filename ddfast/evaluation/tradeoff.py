"""D3's three-dimensional metric: accuracy, bytes, and what training one student costs (arXiv 2403.00999, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddfast.evaluation.accounting import soft_bytes

Report = Mapping[str, Any]
_COUNTED = ("student", "decoding", "teacher")


def tradeoff(sets: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A point for each kind of pictures, labels and student that was trained with augmentation.

    Args:
        sets: of the report, with their ``storage``.
        rows: its results.

    Returns:
        {set, images, labels, student, top1: {mean, std}, image_count, bytes, label_bytes, flops, steps, seconds}.
        ``bytes`` is what that training needs on the disk: of a set with stored soft labels, one with hard labels does
        without them. ``label_bytes`` are the soft labels among them, 0 where a teacher makes them while students train.
        ``flops`` counts forward and backward over all pictures seen, decoding them, and a teacher's forward; null for
        networks that cannot be counted.
    """
    stored = {entry["key"]: soft_bytes(entry["storage"]) for entry in sets}
    return [_point(row, stored[row["set"]]) for row in rows if row["augmented"]]


def cost_of(point: Mapping[str, Any], *, flops: bool) -> float:
    """The cost axis: FLOPs, or seconds where they cannot be counted; never 0, for its logarithm."""
    return max(float(point["flops"] if flops else point["seconds"]), 1.0 if flops else 1e-3)


def drawn(points: Sequence[Mapping[str, Any]], student: str) -> list[Mapping[str, Any]]:
    """Those of a student that the figure shows: of several sets without random pictures of equal number, where there
    are some of equal bytes."""
    own = [point for point in points if point["student"] == student]
    several = len({point["set"] for point in own}) > 1
    paid = {point["set"] for point in own if point["images"] == "random-bytes"}
    return [p for p in own if not (several and p["images"] == "random-images" and p["set"] in paid)]


def _point(row: Mapping[str, Any], stored: int) -> dict[str, Any]:
    cost = row["cost"]
    own = stored if row["images"] == "distilled" else 0
    soft = row["labels"] == "soft"
    flops = cost["flops"]
    known = row.get("label_bytes")  # of a distribution's students and their controls, whose bytes are what they use
    size = row["bytes"] if known is not None or soft else row["bytes"] - own
    return {
        **{key: row[key] for key in ("set", "images", "labels", "student")},
        "top1": {key: row["top1"][key] for key in ("mean", "std")},
        "image_count": row["image_count"],
        "bytes": round(size, 1),
        "label_bytes": known if known is not None else own if soft else 0,
        "flops": None if flops is None else sum(int(flops.get(key, 0)) for key in _COUNTED),
        "steps": cost["steps"],
        "seconds": cost["seconds"]["mean"],
    }
