"""The observer that a run names: loaded, taken as given, or trained on the source by one of the run's workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ddfast.data import Source
from ddfast.methods._options import RunOptions
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs.atomic import remove_folder
from ddfast.train.small_observer import SmallObserver

FOLDER = "observer"
"""Of a run that trains its observer: its weights, until the set is complete."""


class ObserverConfig(Protocol):
    """The fields of a method's config that say which observer."""

    @property
    def observer(self) -> str | None: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def random_weights(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def seed(self) -> int: ...


def open_observer(
    source: Source, config: ObserverConfig, given: Any = None, *, input_size: int | None = None
) -> Observer | SmallObserver:
    """The observer of a run, or for ``train:NAME`` what `trained_observer` makes one of, once the run is begun.

    Args:
        source: what ``train:NAME`` is trained on.
        config: names it.
        given: an `Observer`, a module or a name, instead of the config's.
        input_size: side of its pictures; None for the config's ``size``.

    Raises:
        ValueError: none is named, or it cannot be had.
    """
    if isinstance(given, Observer):
        return given
    spec = config.observer if given is None else given
    if spec is None:
        raise ValueError(
            "observer: none given; name a torchvision or timm model (resnet18), a checkpoint file, or train:conv3 to "
            "train a small one on the source first"
        )
    size = config.size if input_size is None else input_size
    if isinstance(spec, str) and spec.startswith("train:"):
        return SmallObserver(spec.removeprefix("train:"), source, size, config.seed)
    return load_observer(
        spec, weights=config.weights, num_classes=None, input_size=size, random_weights=config.random_weights
    )


def trained_observer(
    planned: Observer | SmallObserver, out: Path, options: RunOptions, wanted: Callable[[], bool]
) -> Observer:
    """``planned`` itself, or trained by one of the workers that have begun the run in ``out``, and read by the others.

    ``wanted`` is asked before it is trained.

    Raises:
        ddfast.runs.RunError: the disk is full, or ``wanted`` said no.
    """
    if isinstance(planned, Observer):
        return planned
    return planned.shared(
        out / FOLDER, worker=options.worker(), device=options.torch_device(),
        progress="quiet" if options.quiet else "auto", wanted=wanted,
    )  # fmt: skip


def drop_observer(out: Path) -> None:
    """Removes what `trained_observer` left in the folder of a run that is complete."""
    remove_folder(out / FOLDER)


def observer_names(config: ObserverConfig) -> dict[str, str | None]:
    """``observer`` and ``weights`` for a manifest: files by name only, since the observer's entry has their SHA-256."""
    return {
        "observer": Path(config.observer).name if config.observer else None,
        "weights": Path(config.weights).name if config.weights else None,
    }
