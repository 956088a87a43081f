"""What happens to one class after scoring: select, cut again, stitch, encode."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast import ops
from ddfast._types import Normalization
from ddfast.data import CropBatch, Failure, Source, Stream
from ddfast.methods._output import unread_words
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.scorer import Sample, Scorer, box_tensors
from ddfast.methods.rded.selection import Level, Rescore, Selection, margin_to_loss, select

_PATCHES_AT_ONCE = 16  # pictures decoded at the same time


@dataclass
class ClassScores:
    """Scores of one class as its batches come in; on a GPU they are fetched once, when the class is complete."""

    label: int
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[NDArray[np.int32]] = field(default_factory=list)
    t: list[Tensor] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _fetched: torch.cuda.Event | None = None

    def add(self, batch: CropBatch, t: Tensor, *, keep: bool) -> None:
        """Appends a batch with its margins [n * m]; ``keep``: with its patches, too."""
        self.positions.append(batch.positions)
        self.boxes.append(batch.boxes)
        self.t.append(t)
        if keep:
            self.patches.append(batch.crops)

    def complete(self) -> None:
        """No batch follows: starts the copy of the margins to host memory."""
        whole = torch.cat(self.t) if self.t else torch.empty(0, dtype=torch.float64)
        if whole.is_cuda:
            self._fetched, stream = torch.cuda.Event(), torch.cuda.current_stream(whole.device)
            whole = whole.to("cpu", non_blocking=True)
            self._fetched.record(stream)  # the default would be a stream of device 0
        self.t = [whole]

    def margins(self) -> NDArray[np.float64]:
        """All margins [n, m], in host memory; only after `complete`."""
        if self._fetched is not None:
            self._fetched.synchronize()
        count = sum(len(p) for p in self.positions)
        return np.asarray(self.t[0].numpy()).reshape(count, -1)


@dataclass(frozen=True)
class Chosen:
    """The patches of one class in rank order."""

    label: int
    positions: NDArray[np.int64]
    boxes: NDArray[np.int32]
    losses: NDArray[np.float64]
    failures: list[Failure]
    levels: list[Level]
    changed: int


def choose(scores: ClassScores, scorer: Scorer, source: Source, config: RDEDConfig) -> Chosen:
    """The best patches of a class, exactly (see :mod:`ddfast.methods.rded.selection`).

    Raises:
        ValueError: NaN scores, or too few readable pictures for ``ipc * factor**2`` patches.
    """
    name = source.class_names[scores.label]
    positions = np.concatenate(scores.positions) if scores.positions else np.empty(0, np.int64)
    if len(positions) < config.patches:
        unread, repair = unread_words([failure.sample_id for failure in scores.failures])
        raise ValueError(
            f"class {name}: {len(positions)} readable pictures, but ipc={config.ipc} with factor={config.factor} needs "
            f"{config.patches}: {config.patches - len(positions)} missing{unread}; {repair}"
            f"give mipc larger than {config.mipc} if the folder has more, or a smaller ipc or factor"
        )
    t, boxes = scores.margins(), np.concatenate(scores.boxes)
    # Sorting by position makes ties independent of the order of arrival.
    order = np.argsort(positions, kind="stable")
    positions, boxes, t = positions[order], boxes[order], t[order]
    levels = scorer.levels()
    for level in levels[1:]:
        level.rescore = _rescorer(scorer, level.name, scores, order, positions, boxes)
    mended = _mend_overflows(t, levels[1]) if scorer.low else None
    if np.isnan(t).any():
        raise ValueError(
            f"class {name}: the observer's scores of {int(np.isnan(t).sum())} crops are NaN; check its weights and "
            "normalisation"
        )
    chosen: Selection = select(t, config.patches, levels, finer=mended)
    for level in levels:
        level.rescore = None  # lets go of the patches
    return Chosen(
        scores.label, positions[chosen.images], boxes[chosen.images, chosen.crops], margin_to_loss(chosen.t),
        sorted(scores.failures, key=lambda f: f.position), levels, chosen.changed,
    )  # fmt: skip


def _mend_overflows(t: NDArray[np.float64], finer: Level) -> NDArray[np.bool_]:
    """Scores anew, at the next level, what overflowed in half precision; returns which crops those were."""
    overflowed = ~np.isfinite(t)
    images, crops = np.nonzero(overflowed)
    if len(images) and finer.rescore is not None:
        t[images, crops] = finer.rescore(images, crops)
        finer.scored += len(images)
    return overflowed


def _rescorer(
    scorer: Scorer, name: str, scores: ClassScores, order: NDArray[np.int64], positions: NDArray[np.int64],
    boxes: NDArray[np.int32],
) -> Rescore:  # fmt: skip
    """Scores crops of the sorted pictures again; ``order[i]`` is the row in which sorted picture i was scored."""

    def rescore(images: NDArray[np.int64], crops: NDArray[np.int64]) -> NDArray[np.float64]:
        patches = None
        if scores.patches:
            rows = torch.from_numpy(order[images] * boxes.shape[1] + crops)
            patches = _rows_of(scores.patches, rows)
        return scorer.rescore(name, Sample(scores.label, positions[images], boxes[images, crops], patches))

    return rescore


def _rows_of(parts: list[Tensor], rows: Tensor) -> Tensor:
    """``torch.cat(parts)[rows]`` without the copy of everything."""
    picked = torch.empty((len(rows), *parts[0].shape[1:]), dtype=parts[0].dtype, device=parts[0].device)
    start = 0
    for part in parts:
        here = ((rows >= start) & (rows < start + len(part))).nonzero()[:, 0]
        picked[here.to(part.device)] = part[(rows[here] - start).to(part.device)]
        start += len(part)
    return picked


def stitch(
    chosen: Chosen, source: Source, stream: Stream, config: RDEDConfig, normalization: Normalization
) -> NDArray[np.uint8]:
    """Cuts the chosen boxes from their pictures again and writes the mosaics; uint8 [ipc, size, size, 3].

    Rank r goes to mosaic ``r mod ipc``, cell ``r // ipc``.
    """
    cells = config.factor**2
    step = max(1, _PATCHES_AT_ONCE // cells)
    mosaics = []
    for start in range(0, config.ipc, step):
        images = np.arange(start, min(start + step, config.ipc))
        ranks = (images[:, None] + config.ipc * np.arange(cells)).ravel()
        unique, index = np.unique(chosen.positions[ranks], return_inverse=True)
        pictures = stream.decode(source, chosen.label, unique)
        mosaics.append(
            ops.mosaic(
                pictures.pixels, pictures.offsets, pictures.sizes, *box_tensors(chosen.boxes[ranks], index),
                size=config.size, factor=config.factor, rounding=config.rounding,
                mean=normalization.mean, std=normalization.std, validate=False,
            )
        )  # fmt: skip
    stitched: NDArray[np.uint8] = torch.cat(mosaics).numpy()
    return stitched
