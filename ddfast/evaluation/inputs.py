"""What an evaluation is given: sets, test pictures, the real set, the device; loaded and checked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ddfast import _machine
from ddfast._types import IMAGENET
from ddfast.data import Source, open_source
from ddfast.data.space import Space
from ddfast.data.squares import whole_images
from ddfast.data.whitening import ZCA
from ddfast.evaluation.plan import Plan
from ddfast.evaluation.protocols import EvaluationConfig, val_limit
from ddfast.evaluation.recipes import TRAINED, recipe_name
from ddfast.evaluation.validation import Validation, open_validation
from ddfast.runs import Worker
from ddfast.store import DistilledSet, load
from ddfast.store.whitening import Whitening

# test pictures of built-in sources
BUILT_IN = {"mnist5k": "mnist5k:test"}

Data = Source | str | Path | tuple[Any, ...]
Sets = DistilledSet | str | Path | Sequence[Any]
C = TypeVar("C")
P = TypeVar("P", bound=Plan)

_CACHE_BYTES = 8 << 30


def opened(argument: str, data: Data) -> Source:
    """`ddfast.data.open_source` of an argument, which errors name.

    Raises:
        TypeError, ValueError: as there.
    """
    try:
        return open_source(data)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {str(error).removeprefix('spec: ')}") from error


def load_sets(distilled: Sets) -> list[tuple[str, DistilledSet]]:
    """Each set with a name for people; they must be comparable.

    Raises:
        ValueError: none, an empty one, classes without images, or sets of other classes or sizes.
    """
    listed: list[Any] = [distilled] if isinstance(distilled, (DistilledSet, str, Path)) else list(distilled)
    if not listed:
        raise ValueError("distilled: got no set, expected at least one")
    loaded: list[tuple[str, DistilledSet]] = []
    for place, item in enumerate(listed, start=1):
        named = not isinstance(item, DistilledSet)
        loaded.append((Path(item).resolve().name if named else f"set {place}", load(item) if named else item))
    first = loaded[0][1]
    for name, one in loaded:
        if len(one) == 0:
            raise ValueError(f"distilled: {name} holds no images")
        if one.class_names != first.class_names or one.images.shape[1:] != first.images.shape[1:]:
            raise ValueError(
                f"distilled: {name} has {len(one.class_names)} classes at {list(one.images.shape[1:3])}, "
                f"{loaded[0][0]} has {len(first.class_names)} at {list(first.images.shape[1:3])}; "
                "sets that are compared need the same classes and resolution"
            )
        if one.images.shape[1] != one.images.shape[2]:
            raise ValueError(f"distilled: {name} has images of {list(one.images.shape[1:3])}, expected squares")
        if empty := [one.class_names[c] for c, n in enumerate(one.counts) if n == 0]:
            raise ValueError(f"distilled: {name} has no images of {len(empty)} classes: {', '.join(empty[:5])}")
    return loaded


def test_pictures(distilled: DistilledSet, val: Data | None, config: EvaluationConfig) -> Validation:
    """The test pictures named, or those of the set's built-in source.

    Raises:
        ValueError: none named, not there, those that the set was made from, or other classes.
    """
    name = (distilled.manifest.get("source") or {}).get("name")
    if val is None and name not in BUILT_IN:
        raise ValueError(
            f"data: no test pictures were named, and the set's source ({name or 'unknown'}) is not built in; give a "
            "folder of class folders (or CIFAR, Tiny, .npz) with --data, such as imagenet:val"
        )
    source = opened("data", BUILT_IN[str(name)] if val is None else val)
    if source.fingerprint() == (distilled.manifest.get("source") or {}).get("fingerprint"):
        raise ValueError(
            f"data: {source.name} is what the set was distilled from; test on other pictures, such as the split val"
        )
    limit = val_limit(config, len(distilled.class_names))
    return open_validation(source, distilled.class_names, int(distilled.images.shape[1]), limit)


def real_set(distilled: DistilledSet, train: Data | None, notes: list[str]) -> Source | None:
    """The real set named, or the set's built-in source; None with a note where there is neither."""
    known = distilled.manifest.get("source") or {}
    if train is None and known.get("name") not in BUILT_IN:
        notes.append("The real set was not given (--train): there are no controls, IPC-equivalents or robust scores.")
        return None
    source = opened("train", str(known["name"]) if train is None else train)
    if known and source.fingerprint() != known.get("fingerprint"):
        notes.append(f"The real set {source.name} is not file for file the one that the set was distilled from.")
    return source


def training_space(distilled: DistilledSet, train: Source | None, config: EvaluationConfig) -> Space | None:
    """Where the set's students train on the images as a matching method left them: with the recipes ``dsa`` and ``dc``,
    which ``smoke`` shortens for sets that name them.

    Whitening is the one that the set holds, else it is fitted to the real set again.

    Raises:
        ValueError: whitening has to be found again, but the real set was not given.
    """
    kind, recipe = distilled.manifest.get("space"), recipe_name(config.preset, distilled.manifest)
    if kind is None or recipe not in TRAINED or "trained_images" not in distilled.extras:
        return None
    normalization = distilled.normalization or IMAGENET
    if kind != "zca":
        return Space(normalization)
    if distilled.whitening is not None:
        return Space(normalization, distilled.whitening)
    if train is None:
        raise ValueError(
            "train: the set's images are whitened (ZCA), but it does not hold the whitening, which is fitted to the "
            "real set; give that with --train"
        )
    size = int(distilled.images.shape[1])
    pictures, _ = whole_images(train, size, max(train.count(c) for c in range(len(train.class_names))))
    return Space(normalization, ZCA.fit(pictures))


def whitening_note(name: str, whitening: Whitening) -> str:
    """What the bytes of a whitened set leave out."""
    return (
        f"{name}: students see whitened pictures (ZCA), in training and in tests; mean and matrix, fitted to the real "
        f"set, take {whitening.bytes / 1000:,.0f} kB and are not counted as storage, as normalisation is not."
    )


def read_settings(kind: type[C], call: str, preset: str, settings: Mapping[str, Any]) -> C:
    """A call's settings as its config, a dataclass with ``preset``; those that are None are left at their defaults.

    Raises:
        TypeError: ``call`` has no such setting.
        ValueError: as of ``kind``.
    """
    known = {each.name for each in fields(cast(Any, kind))}
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"{call} has no setting {unknown[0]!r}; settings: {', '.join(sorted(known))}")
    return kind(**{"preset": preset, **{name: value for name, value in settings.items() if value is not None}})


def fitted_to_machine(plan: P, out: Path, processes: int | None, worker: Worker | None) -> tuple[P, int]:
    """The plan with its threads and a place for prepared test pictures, and how many processes train side by side.

    Args:
        plan: the evaluation.
        out: its folder.
        processes: asked for; None for `share`'s choice.
        worker: who this is; one of several is one process unless asked for more.
    """
    several = worker is not None and worker.count > 1
    chosen, threads = share(len(plan.specs()), 1 if processes is None and several else processes, plan.device)
    validation = plan.validation
    cached = validation.cropped and sum(validation.counts) * validation.size**2 * 3 <= _CACHE_BYTES
    workers = 0 if chosen > 1 else min(4, os.cpu_count() or 1)
    place = replace(validation, cache=str(out) if cached else None)
    return replace(plan, threads=threads, decode_workers=workers, validation=place), chosen


def share(tasks: int, processes: int | None, device: str) -> tuple[int, int]:
    """Processes and torch threads of each: the threads follow from the tasks alone, so that figures do too."""
    if processes is not None and processes < 1:
        raise ValueError(f"processes: got {processes}, expected 1 or more")
    cores = _machine.cores()
    if device != "cpu":
        return processes or 1, torch.get_num_threads()
    threads = max(1, cores // max(tasks, 1))
    return processes or max(1, min(tasks, cores // threads)), threads
