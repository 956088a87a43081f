"""The observer of a run matched to the source's classes, and checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ddfast.data import Source, Stream
from ddfast.methods._options import RunOptions
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer


@dataclass(frozen=True)
class Prepared:
    """The observer, its output index for each class of the source, and what the class-order check found."""

    observer: Observer
    targets: tuple[int, ...]
    class_check: dict[str, Any]


def prepare_observer(source: Source, stream: Stream, options: RunOptions, observer: Observer) -> Prepared:
    """Makes sure that the observer's outputs mean the source's classes.

    Raises:
        ValueError: a class order that does not match.
    """
    targets = tuple(map_classes(source.class_names, observer.num_classes, observer.class_names).tolist())
    if observer.random_weights or not options.check_classes:
        why = "random weights" if observer.random_weights else "switched off"
        return Prepared(observer, targets, {"skipped": why})
    from ddfast.nets.class_order import check_class_order
    from ddfast.train.class_check import look

    logits, labels = look(source, stream, observer, options.torch_device())
    report = check_class_order(logits, labels, source.class_names, outputs=targets, observer_names=observer.class_names)
    found = {"top1": round(float(report.agreement), 4), "images": len(labels), "judged": report.judged}
    return Prepared(observer, targets, found)
