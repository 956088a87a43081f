"""What students need of a set, in numbers and in bytes: images, latents, decoders, soft labels.

Two ways of counting are in use. D3's (Qin et al., arXiv 2403.00999) counts numbers: a picture of side S has 3 S^2 of
them, a set's IPC-equivalent is its numbers per class over that, and a number is a number whether it is stored in eight
bits or in 32. The other counts bytes on the disk against those of real pictures in the same file format. They differ by
four for float32 latents beside 8-bit pixels, so both are given, and what the same numbers would take at 32, 16 and 8
bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddfast.evaluation.storage import SOFT, Storage, is_distribution
from ddfast.nets.decoder import DecoderConfig
from ddfast.store import DistilledSet, LabelStore
from ddfast.store.numbers import STORAGES
from ddfast.train.latent.sizes import BlockSize, distribution_sizes

TRAINED = "trained_images"
_SCALE = 4  # bytes of the scale that a row of int8 labels needs


@dataclass(frozen=True)
class Part:
    """``numbers`` of one kind that students need, the ``bytes`` they are stored in, and what they would take ``at``
    fp32, fp16 and int8 (with the scales that int8 needs)."""

    name: str
    numbers: int
    bytes: int
    at: tuple[int, int, int]


def account(
    distilled: DistilledSet, storage: Storage, *, trained: bool = False, labels: LabelStore | None = None
) -> dict[str, Any]:
    """Parts, numbers and IPC-equivalents of a set, for the report.

    Args:
        distilled: the set.
        storage: bytes of what its students use.
        trained: whether they train on its ``trained_images`` instead of the 8-bit pictures.
        labels: stored soft labels that belong to it.

    Returns:
        ``parts``, a list of {name, numbers, bytes}; ``numbers`` of all; ``ipc_by_numbers`` {total, without_labels};
        ``bytes_at`` and ``bits_per_class_at``, each {fp32, fp16, int8}. Hard labels are no numbers.

    Raises:
        ValueError: a distribution that is not described.
    """
    parts = _parts(distilled, storage, trained, labels)
    classes = max(len(distilled.class_names), 1)
    side = int(distilled.images.shape[1])
    numbers = sum(part.numbers for part in parts)
    soft = sum(part.numbers for part in parts if part.name == "soft labels")
    sizes = {name: sum(part.at[place] for part in parts) for place, name in enumerate(STORAGES)}
    picture = 3 * side * side
    return {
        "parts": [{"name": part.name, "numbers": part.numbers, "bytes": part.bytes} for part in parts],
        "numbers": numbers,
        "ipc_by_numbers": {
            "total": round(numbers / classes / picture, 4),
            "without_labels": round((numbers - soft) / classes / picture, 4),
        },
        "bytes_at": sizes,
        "bits_per_class_at": {name: round(8 * size / classes, 1) for name, size in sizes.items()},
    }


def account_text(counted: dict[str, Any]) -> str:
    """A set's storage in a line: bytes, numbers, and the real pictures per class that both stand for."""
    parts = ", ".join(f"{part['name']} {part['bytes'] / 1000:,.1f} kB" for part in counted["parts"])
    by_bytes = "" if counted["ipc_equivalent"] is None else f"{counted['ipc_equivalent']:.2f} by bytes, "
    return f"{parts}; as real pictures per class: {by_bytes}{counted['ipc_by_numbers']['total']:.2f} by numbers"


def soft_bytes(counted: dict[str, Any]) -> int:
    """Bytes of the stored soft labels among `account`'s parts: a training with hard labels does without."""
    return sum(int(part["bytes"]) for part in counted["parts"] if part["name"] == "soft labels")


def _parts(distilled: DistilledSet, storage: Storage, trained: bool, labels: LabelStore | None) -> list[Part]:
    found = _latent_parts(distilled) if is_distribution(distilled) else [_images(distilled, storage, trained)]
    soft = [_soft(distilled), _stored(labels)]
    found += [part for part in soft if part.numbers]
    rest = storage.total - sum(part.bytes for part in found)
    others = _others(distilled)
    return [*found, Part("other", others, rest, _at(others))] if rest > 0 else found


def _images(distilled: DistilledSet, storage: Storage, trained: bool) -> Part:
    numbers = distilled.extras[TRAINED].numel() if trained else distilled.images.numel()
    return Part("images", numbers, storage.images, _at(numbers))


def _latent_parts(distilled: DistilledSet) -> list[Part]:
    described = distilled.manifest["distribution"]
    blocks = [BlockSize(DecoderConfig.from_json(block["decoder"]), int(block["rows"])) for block in described["blocks"]]
    classes = len(distilled.class_names)
    sizes = {storage: distribution_sizes(blocks, classes, storage=storage) for storage in STORAGES}
    stored = sizes[described["storage"]]
    return [
        Part(
            name, stored[name]["numbers"], stored[name]["bytes"],
            (sizes["fp32"][name]["bytes"], sizes["fp16"][name]["bytes"], sizes["int8"][name]["bytes"]),
        )
        for name in ("latents", "decoders")
    ]  # fmt: skip


def _soft(distilled: DistilledSet) -> Part:
    found = distilled.extras.get(SOFT)
    if found is None:
        return Part("soft labels", 0, 0, (0, 0, 0))
    return _labels(found.numel(), found.numel() * found.element_size(), len(found))


def _stored(labels: LabelStore | None) -> Part:
    if labels is None:
        return Part("soft labels", 0, 0, (0, 0, 0))
    layout = labels.layout
    rows = layout.samples * layout.epochs
    return _labels(rows * (layout.classes if layout.kind == "fp16" else 2 * layout.k + 1), layout.total_bytes, rows)


def _labels(numbers: int, size: int, rows: int) -> Part:
    return Part("soft labels", numbers, size, _at(numbers, rows))


def _at(numbers: int, rows: int = 0) -> tuple[int, int, int]:
    return 4 * numbers, 2 * numbers, numbers + _SCALE * rows


def _others(distilled: DistilledSet) -> int:
    """Numbers of the extras that are none of the above, such as a learned rate."""
    names: Sequence[str] = [
        name
        for name in distilled.extras
        if name not in (SOFT, TRAINED) and not name.startswith(("latents.", "decoder."))
    ]
    return sum(math.prod(distilled.extras[name].shape) for name in names)
