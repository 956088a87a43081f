"""The teacher of soft labels: the set's own observer, or another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ddfast._outside import path_inside
from ddfast._types import Normalization
from ddfast.data import Source
from ddfast.nets.checkpoints import state_bytes
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs import Worker, atomic_write_bytes
from ddfast.runs.atomic import remove_folder
from ddfast.runs.sharing import unless
from ddfast.store import DistilledSet
from ddfast.train.class_check import check_teacher
from ddfast.train.small_observer import DEPTHS, SmallObserver


@dataclass(frozen=True)
class Teacher:
    """An observer whose logits are put into the order of the set's classes.

    ``again``: the set's own observer, trained once more on its source; ``planned`` until it is (see `made_again`).
    """

    module: nn.Module
    outputs: tuple[int, ...]
    normalization: Normalization
    name: str
    weights: str
    again: bool = False
    planned: SmallObserver | None = None

    def on(self, device: str) -> Teacher:
        """The same, on a device."""
        self.module.to(device).eval()
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits [n, classes of the set] of normalised pictures [n, 3, S, S]."""
        logits: Tensor = self.module(batch)
        if self.outputs != tuple(range(logits.shape[1])):
            logits = logits[:, torch.tensor(self.outputs, device=logits.device)]
        return logits


def find_teacher(
    spec: str | nn.Module | Observer | None,
    weights: str | None,
    distilled: DistilledSet,
    train: Source | None,
    *,
    folder: Path | None = None,
    real: Source | None = None,
    device: str = "cpu",
) -> tuple[Teacher | None, str]:
    """The teacher and, where there is none or it differs from the set's observer, why.

    Args:
        spec: "auto" (the file that the set names as the teacher of its soft labels, in its folder; else its observer if
            it was trained on the source itself, which `made_again` repeats), None or "none", a network's name or file,
            or a module or observer.
        weights: file of a named network's weights.
        distilled: the set, whose manifest names its observer.
        train: the real set that an observer is trained on.
        folder: of the set; None for one in memory.
        real: pictures of the set's classes, of which a teacher that was named or given is shown some (those of "auto"
            were trained on the set's own source); None for no look.
        device: where it looks at them.

    Raises:
        ValueError: the network or its weights cannot be had, or its outputs do not fit the set's classes, or plainly
            mean them in another order.
    """
    if spec is None or spec == "none":
        return None, "no teacher was asked for"
    if spec == "auto" and (file := (distilled.manifest.get("soft_labels") or {}).get("teacher")):
        return _beside(str(file), folder, distilled)
    if spec == "auto":
        return _repeat(distilled, train)
    size = int(distilled.images.shape[1])
    observer = spec if isinstance(spec, Observer) else load_observer(
        spec, weights=weights, num_classes=None, input_size=size if isinstance(spec, nn.Module) else None
    )  # fmt: skip
    teacher = _mapped(observer, distilled)
    if real is not None:
        check_teacher(observer, teacher.outputs, distilled.class_names, real, size=(size, size), device=device)
        observer.module.cpu()
    return teacher, ""


def _beside(file: str, folder: Path | None, distilled: DistilledSet) -> tuple[Teacher | None, str]:
    """The teacher of the set's own soft labels (D3)."""
    if folder is None or not path_inside(folder, file, "manifest: soft_labels.teacher").exists():
        where = "the set was not read from a folder" if folder is None else f"it is not in {folder}"
        return None, f"the set's teacher, {file}, is not at hand ({where}); name one with --teacher"
    return _mapped(load_observer(str(folder / file)), distilled), ""


def _repeat(distilled: DistilledSet, train: Source | None) -> tuple[Teacher | None, str]:
    """The set's own small observer, to be trained again exactly as the set's run did."""
    spec = str((distilled.manifest.get("config") or {}).get("observer") or "")
    known = distilled.manifest.get("observer") or {}
    name = spec.removeprefix("train:")
    if not spec.startswith("train:") or name not in DEPTHS:
        named = f" ({known['name']})" if known.get("name") else ""
        return None, f"the set's observer{named} is not at hand; name one with --teacher (and --teacher-weights)"
    if train is None:
        return None, "the set's observer was trained on the real set; give that with --train"
    size, seed = int(distilled.images.shape[1]), int(distilled.manifest.get("seed") or 0)
    planned = SmallObserver(name, train, size, seed)
    observer = load_observer(planned.network(), num_classes=len(train.class_names), input_size=size)
    teacher = replace(_mapped(observer, distilled, train), name=name, weights=planned.weights)
    return replace(teacher, again=True, planned=planned), ""


def made_again(
    teacher: Teacher, distilled: DistilledSet, keep: Path, *, worker: Worker | None, device: str, quiet: bool
) -> tuple[Teacher, str]:
    """A teacher that was planned, trained by one of the workers of a run, and where it differs from the original, how.

    Args:
        teacher: planned.
        distilled: its set.
        keep: file of its weights, which an earlier start of this run or another worker may have made; workers meet in a
            folder of that name without suffix, until `drop_meeting`.
        worker: who this is.
        device: where to train.
        quiet: no progress.

    Raises:
        ddfast.runs.RunError: the disk is full.
    """
    if teacher.planned is None:
        return teacher, ""
    if not keep.exists():
        with unless(keep.exists):  # another worker may have done everything meanwhile
            found = teacher.planned.shared(
                keep.with_suffix(""), worker=worker, device=device, progress="quiet" if quiet else "auto",
                wanted=lambda: not keep.exists(),
            )  # fmt: skip
            atomic_write_bytes(keep, state_bytes(found.module))
    observer = teacher.planned.read(keep)
    known = distilled.manifest.get("observer") or {}
    same = observer.weights.rpartition(" ")[2] == str(known.get("weights", "")).rpartition(" ")[2]
    note = "" if same else (
        "the set's observer was trained again for its soft labels; its weights differ from the original's, as they do "
        "with another number of threads, another machine or another source"
    )  # fmt: skip
    return replace(teacher, module=observer.module.eval(), weights=observer.weights, planned=None), note


def drop_meeting(keep: Path) -> None:
    """Removes what `made_again` needs no longer when a run is complete."""
    remove_folder(keep.with_suffix(""))


def _mapped(observer: Observer, distilled: DistilledSet, train: Source | None = None) -> Teacher:
    names = observer.class_names or (train.class_names if train is not None else None)
    outputs = tuple(map_classes(distilled.class_names, observer.num_classes, names).tolist())
    size = int(distilled.images.shape[1])
    try:
        with torch.no_grad():
            observer.module.cpu()(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise ValueError(
            f"teacher: {observer.name} does not take the set's pictures of {size} x {size} "
            f"({str(error).splitlines()[0]}); name another one"
        ) from error
    return Teacher(observer.module.eval(), outputs, observer.normalization, observer.name, observer.weights)
