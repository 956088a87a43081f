"""Detects class folders that are in another order than the observer's outputs.

The commonest way to ruin an RDED run (its issues 3, 4 and 10): accuracy falls to chance and nothing says why. A weak
observer also agrees little with the folders; what tells the two apart is whether another assignment of outputs to
folders explains the predictions. Votes are counted on one half of the sample and judged on the other, so that a lucky
assignment found in noise does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]
# Fewer cannot show even a perfect observer's new order beyond four standard deviations.
MIN_SAMPLES = 17


class ClassOrderError(ValueError):
    """Folders and observer outputs are in different orders; ``report`` holds the likely assignment."""

    def __init__(self, message: str, report: ClassOrderReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class ClassOrderReport:
    """Agreement of predictions with the folders' outputs.

    ``agreement``: share of samples whose top-1 prediction is the output of their folder; ``reordered``: the same under
    ``proposal``, judged on samples that took no part in the vote; ``chance``: 1 / outputs; ``proposal``: likely output
    of each folder; ``own`` and ``voted``: per folder, share predicted as its present and as its proposed output;
    ``counted``: samples per folder; ``judged``: False when the pictures were too few to tell. Folders that were not
    sampled, or less than the others, take no part: their ``counted`` is 0 and their ``proposal`` the present output.
    """

    samples: int
    agreement: float
    reordered: float
    chance: float
    proposal: tuple[int, ...]
    own: tuple[float, ...]
    voted: tuple[float, ...]
    counted: tuple[int, ...]
    judged: bool


def _assign(counts: Counts, outputs: Counts) -> Counts:
    """A distinct output per folder, most votes first; folders left without votes keep theirs, or any free output."""
    folders, width = counts.shape
    order = np.argsort(-counts, axis=None, kind="stable")
    chosen, taken = np.full(folders, -1), np.zeros(width, dtype=bool)
    for flat in order:
        folder, output = divmod(int(flat), width)
        if counts[folder, output] == 0:
            break
        if chosen[folder] < 0 and not taken[output]:
            chosen[folder], taken[output] = output, True
    for folder in np.flatnonzero(chosen < 0):
        present = int(outputs[folder])
        chosen[folder] = present if not taken[present] else int(np.flatnonzero(~taken)[0])
        taken[chosen[folder]] = True
    return chosen.astype(np.int64)


def _count(predictions: Counts, labels: Counts, folders: int, width: int) -> Counts:
    counts = np.zeros((folders, width), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def _halves(labels: Counts) -> NDArray[np.bool_]:
    """True for every second sample of each folder."""
    half = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        half[np.flatnonzero(labels == label)[::2]] = True
    return half


def _sampled(labels: Counts, folders: int, min_per_class: int) -> tuple[Counts, bool]:
    """Folders to judge, and whether they have pictures enough: some folders may be left out or hardly readable."""
    counts = np.bincount(labels, minlength=folders)
    enough = np.flatnonzero(counts >= max(min_per_class, 1))
    judged = int(counts[enough].sum()) >= MIN_SAMPLES
    return (enough if len(enough) else np.flatnonzero(counts)).astype(np.int64), judged


def _spread(report: ClassOrderReport, chosen: Counts, outputs: Counts, judged: bool) -> ClassOrderReport:
    """The report on ``chosen`` folders as one on all folders."""
    columns: dict[str, Any] = {"proposal": outputs.tolist()} | {
        name: [0] * len(outputs) for name in ("own", "voted", "counted")
    }
    for name, column in columns.items():
        for folder, value in zip(chosen.tolist(), getattr(report, name), strict=True):
            column[folder] = value
    full: dict[str, Any] = {name: tuple(column) for name, column in columns.items()}
    return replace(report, judged=judged, **full)


def _report(predictions: Counts, labels: Counts, outputs: Counts, width: int) -> ClassOrderReport:
    folders, total = len(outputs), len(labels)
    half = _halves(labels)
    counts = [_count(predictions[part], labels[part], folders, width) for part in (half, ~half)]
    rows = np.arange(folders)
    hits = sum(int(counts[1 - k][rows, _assign(counts[k], outputs)].sum()) for k in (0, 1))
    whole = counts[0] + counts[1]
    proposal = _assign(whole, outputs)
    size = np.maximum(whole.sum(1), 1)
    return ClassOrderReport(
        samples=total,
        agreement=float(whole[rows, outputs].sum() / max(total, 1)),
        reordered=hits / max(total, 1),
        chance=1.0 / width,
        proposal=tuple(int(o) for o in proposal),
        own=tuple(float(v) for v in whole[rows, outputs] / size),
        voted=tuple(float(v) for v in whole[rows, proposal] / size),
        counted=tuple(int(v) for v in whole.sum(1)),
        judged=True,
    )


def _swapped(report: ClassOrderReport, outputs: Counts) -> list[int]:
    """Folders that clearly exchanged outputs among themselves: hardly any own votes, most votes for another's."""
    proposal = np.asarray(report.proposal)
    votes = np.asarray(report.voted) * np.asarray(report.counted)
    clear = (proposal != outputs) & (np.asarray(report.own) <= 0.1) & (np.asarray(report.voted) >= 0.5) & (votes > 3.5)
    members = np.flatnonzero(clear & np.isin(proposal, outputs[clear]))
    return members.tolist() if set(proposal[members]) == set(outputs[members]) and len(members) >= 2 else []


def _misordered(report: ClassOrderReport, outputs: Counts) -> bool:
    gain = report.reordered - report.agreement
    noise = np.sqrt(max(report.reordered, 1.0 / report.samples) / report.samples)
    wholesale = report.agreement < 0.5 * report.reordered and gain > 4 * noise
    return bool(wholesale or _swapped(report, outputs))


def _table(report: ClassOrderReport, outputs: Counts, folders: Sequence[str], names: Sequence[str] | None) -> str:
    def title(output: int) -> str:
        return f"{output} ({names[output]})" if names is not None else str(output)

    rows = [
        f"  {folder}: now output {title(int(outputs[i]))}, predicted {report.own[i]:.0%}; "
        f"likely output {title(report.proposal[i])}, predicted {report.voted[i]:.0%}"
        for i, folder in enumerate(folders)
        if report.proposal[i] != outputs[i]
    ]
    more = [f"  ... and {len(rows) - 20} more"] if len(rows) > 20 else []
    return "\n".join(rows[:20] + more)


def check_class_order(
    logits: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    outputs: Sequence[int] | NDArray[np.int64] | None = None,
    observer_names: Sequence[str] | None = None,
    min_per_class: int = 2,
) -> ClassOrderReport:
    """Compares the observer's predictions with the folders they came from.

    ``logits`` [n, outputs] float; ``labels`` [n] int, folder index; ``class_names``: the folders' names; ``outputs``:
    observer output of each folder (see :func:`ddfast.nets.classes.map_classes`; default: the folder's index);
    ``observer_names``: names of the outputs, for the message only. Only folders with at least ``min_per_class`` samples
    are judged, so some of many folders may be looked at. Five to twenty samples a class are plenty; of two samples a
    class, take some sixty classes.

    Raises :class:`ClassOrderError` when another assignment explains the predictions at least twice as well, beyond
    noise, or when folders plainly exchanged their outputs. A weak observer in the right order passes, and so does
    too small a sample; the report's ``judged`` is then False. Not meant for random weights.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits, labels: got shapes {tuple(logits.shape)} and {tuple(labels.shape)}, expected [n, C] and [n]"
        )
    folders, width = len(class_names), int(logits.shape[1])
    mapped = np.arange(folders) if outputs is None else np.asarray(outputs, dtype=np.int64)
    if mapped.shape != (folders,) or len(set(mapped.tolist())) != folders:
        raise ValueError(f"outputs: got {mapped.tolist()[:10]}, expected {folders} distinct outputs, one a folder")
    if folders and (mapped.min() < 0 or mapped.max() >= width):
        raise ValueError(
            f"outputs: got numbers up to {mapped.max()}, expected 0 to {width - 1}, the observer's outputs"
        )
    target = labels.detach().cpu().to(torch.int64).numpy()
    if target.size and (target.min() < 0 or target.max() >= folders):
        raise ValueError(f"labels: got {target.min()} to {target.max()}, expected 0 to {folders - 1}")
    predictions = logits.detach().argmax(1).cpu().numpy().astype(np.int64)
    chosen, judged = _sampled(target, folders, min_per_class)
    kept = np.isin(target, chosen)
    part = _report(predictions[kept], np.searchsorted(chosen, target[kept]), mapped[chosen], width)
    report = _spread(part, chosen, mapped, judged)
    if not judged or not _misordered(part, mapped[chosen]):
        return report
    raise ClassOrderError(
        f"class folders and observer outputs are in different orders: in {report.samples} pictures of "
        f"{len(chosen)} folders top-1 agreement {report.agreement:.1%} "
        f"(chance {report.chance:.1%}), {report.reordered:.1%} under the order below (judged on held-out samples).\n"
        f"{_table(report, mapped, class_names, observer_names)}\n"
        "Rename the folders so that their sorted order is the observer's, name them as the observer names its classes "
        "(WordNet ids for ImageNet-1K), or pass the observer's class_names in output order.",
        report,
    )
