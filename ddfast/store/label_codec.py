"""How soft labels are laid out in bytes: dense float16 logits, or the k largest with one number for all the others.

A row is one label.  ``fp16``: the C logits.  ``topk``: the k largest logits in descending order (ties by class), the
tail, and the k class indices (uint16, beyond 65,536 classes uint32), all little-endian without padding.

The tail is the logit that each of the C - k other classes is given: ``T * (logsumexp(rest / T) - log(C - k))``, so that
at temperature T the k largest keep exactly the probability they had.  With T = 1, ``tail + log(C - k)`` is the
logsumexp of the rest.  Between k logits and the tail of the same softmax nothing else is stored, so a row of k = 10 has
42 bytes for any number of classes up to 65,536.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast._outside import as_text

KINDS = ("fp16", "topk")
_LARGEST = float(np.finfo(np.float16).max)
_UINT16_CLASSES = 65_536
_MOST = {"samples": 1 << 28, "classes": 1 << 20, "epochs": 100_000}  # files of epochs have five digits


class TopKLabels(NamedTuple):
    """The k largest logits of n labels: ``values`` float16 [n, k], ``indices`` int64 [n, k], ``tail`` float16 [n]."""

    values: Tensor
    indices: Tensor
    tail: Tensor


@dataclass(frozen=True)
class LabelLayout:
    """Shape and kind of a set of labels.

    ``samples`` labels in each of ``epochs`` epochs (1 for one label an image), ``classes`` logits each; ``kind`` is
    "fp16" or "topk" with ``k`` logits kept and the tail taken at ``tail_temperature``, the temperature at which
    students will be trained (k is 0 and the temperature 1 for "fp16").

    Raises:
        ValueError: a number is out of range or the kind unknown.
    """

    samples: int
    classes: int
    epochs: int = 1
    kind: str = "fp16"
    k: int = 0
    tail_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 to {most}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.kind == "fp16" and (self.k or self.tail_temperature != 1.0):
            raise ValueError(f"k: got {self.k} with kind 'fp16', expected 0: all logits are kept")
        if self.kind == "topk" and not 1 <= self.k < self.classes:
            raise ValueError(
                f"k: got {self.k}, expected 1 to {self.classes - 1} (fewer than the {self.classes} classes); "
                "kind 'fp16' keeps all"
            )
        if not (self.tail_temperature > 0 and math.isfinite(self.tail_temperature)):
            raise ValueError(f"tail_temperature: got {self.tail_temperature!r}, expected a positive number")

    @property
    def index_bytes(self) -> int:
        """Bytes of a class index: 2, or 4 beyond 65,536 classes."""
        return 2 if self.classes <= _UINT16_CLASSES else 4

    @property
    def row_dtype(self) -> np.dtype:
        """One label as a numpy record."""
        if self.kind == "fp16":
            return np.dtype([("values", "<f2", (self.classes,))])
        index = f"<u{self.index_bytes}"
        return np.dtype([("values", "<f2", (self.k,)), ("tail", "<f2"), ("indices", index, (self.k,))])

    @property
    def row_bytes(self) -> int:
        """Bytes of a label: 2 C, or k (2 + index_bytes) + 2."""
        return 2 * self.classes if self.kind == "fp16" else self.k * (2 + self.index_bytes) + 2

    @property
    def epoch_bytes(self) -> int:
        """Bytes of an epoch's labels, the size of its file."""
        return self.samples * self.row_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all labels."""
        return self.epochs * self.epoch_bytes

    def as_json(self) -> dict[str, Any]:
        """For ``labels.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelLayout:
        """The inverse of `as_json`; KeyError, TypeError or ValueError when it is not one."""
        numbers = {name: value[name] for name in ("samples", "classes", "epochs", "k")}
        for name, number in numbers.items():
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"{name}: got {as_text(number)}, expected a whole number")
        return cls(**numbers, kind=str(value["kind"]), tail_temperature=float(value["tail_temperature"]))


def label_bytes(samples: int, classes: int, epochs: int = 1, kind: str = "fp16", k: int = 0) -> int:
    """Bytes that stored labels take, without the few hundred of ``labels.json``.

    ``fp16``: samples * epochs * 2 C; ``topk``: samples * epochs * (k (2 + i) + 2), i = 2 bytes an index, 4 beyond
    65,536 classes.  ImageNet-1K, 10 images a class, 300 epochs: 6.0 GB, or 126 MB for k = 10.

    Raises:
        ValueError: as `LabelLayout`.
    """
    return LabelLayout(samples, classes, epochs, kind, k).total_bytes


def encode_labels(logits: Tensor, layout: LabelLayout) -> NDArray[np.void]:
    """Rows of ``layout`` from logits [n, C] of any float dtype and device.

    Equal logits go by class index, so the bytes are a function of the values alone.

    Raises:
        TypeError: not a float tensor.
        ValueError: another shape, or a logit that is NaN, infinite or beyond float16's 65,504.
    """
    if not logits.dtype.is_floating_point:
        raise TypeError(f"logits: got {logits.dtype}, expected a float dtype")
    if logits.ndim != 2 or logits.shape[1] != layout.classes:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected [n, {layout.classes}]")
    logits = logits.detach()
    _check_range(logits)
    rows = np.zeros(len(logits), dtype=layout.row_dtype)
    if layout.kind == "fp16":
        rows["values"] = logits.half().cpu().numpy()
        return rows
    # on the teachers' device: a sort of 1,000 logits takes a CPU as long as a GPU the whole teacher
    ordered, classes = torch.sort(logits.float(), dim=1, descending=True, stable=True)
    rows["values"] = ordered[:, : layout.k].half().cpu().numpy()
    rows["indices"] = classes[:, : layout.k].cpu().numpy()
    scaled = ordered[:, layout.k :].double() / layout.tail_temperature
    spread = torch.logsumexp(scaled, 1) - math.log(layout.classes - layout.k)
    rows["tail"] = (layout.tail_temperature * spread).half().cpu().numpy()
    return rows


def decode_labels(rows: NDArray[np.void], layout: LabelLayout) -> Tensor | TopKLabels:
    """The labels of ``rows``: float16 [n, C] for "fp16", `TopKLabels` for "topk".

    Raises:
        ValueError: a class that there is not; it would be a place outside of the logits.
    """
    values = torch.from_numpy(np.ascontiguousarray(rows["values"]))
    if layout.kind == "fp16":
        return values
    if rows["indices"].max(initial=0) >= layout.classes:
        raise ValueError(
            f"labels: got class {rows['indices'].max()} of {layout.classes}; the file is damaged, write it again"
        )
    indices = torch.from_numpy(rows["indices"].astype(np.int64))
    return TopKLabels(values, indices, torch.from_numpy(np.ascontiguousarray(rows["tail"])))


def dense_labels(labels: Tensor | TopKLabels, classes: int) -> Tensor:
    """Logits float32 [n, C]; of top-k labels every class beyond the k gets the tail."""
    if isinstance(labels, Tensor):
        return labels.float()
    spread = labels.tail.float()[:, None].expand(-1, classes)
    return spread.scatter(1, labels.indices, labels.values.float())


def kept_information(logits: Tensor, layout: LabelLayout) -> float:
    """How much of what labels say beyond "all classes alike" is left once stored: a share, 1 for all.

    ``1 - mean KL(p || stored) / mean KL(p || uniform)`` with ``p = softmax(logits / T)``, T the tail's temperature.
    Hot labels say much in their many small logits: of 1,000 ImageNet logits of EfficientNet-Lite0 the ten largest keep
    98 % at T = 1, 55 % at T = 4 and 31 % at T = 20.

    Args:
        logits: float [n, C].
        layout: as stored.
    """
    stored = dense_labels(decode_labels(encode_labels(logits, layout), layout), layout.classes)
    full, left = (torch.log_softmax(z.detach().double().cpu() / layout.tail_temperature, 1) for z in (logits, stored))
    p = full.exp()
    lost, whole = (float((p * (full - other)).sum()) for other in (left, -math.log(layout.classes)))
    return 1.0 if whole <= 0 else 1 - lost / whole


def _check_range(logits: Tensor) -> None:
    # amax passes NaN on, and NaN is not smaller
    bad = ~(logits.abs().float() <= _LARGEST).all(1) if logits.numel() else torch.zeros(0, dtype=torch.bool)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        worst = logits[row][~(logits[row].abs().float() <= _LARGEST)][0]
        raise ValueError(
            f"logits: row {row} holds {float(worst)}, expected finite numbers up to 65504 (stored as float16); "
            "look for NaN in the teacher's weights or input, or scale its logits down"
        )
