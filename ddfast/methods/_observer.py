"""The observer that a run names: loaded, taken as given, or trained on the source first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ddfast.data import Source
from ddfast.methods._options import RunOptions
from ddfast.nets.observers import Observer, load_observer
from ddfast.train.small_observer import train_small_observer


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
    source: Source, config: ObserverConfig, options: RunOptions, given: Any = None, *, input_size: int | None = None
) -> Observer:
    """The observer of a run.

    Args:
        source: what ``train:NAME`` is trained on.
        config: names it.
        options: device and progress of a training.
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
        return train_small_observer(
            spec.removeprefix("train:"), source, size=size, seed=config.seed, device=options.torch_device(),
            progress="quiet" if options.quiet else "auto",
        )  # fmt: skip
    return load_observer(
        spec, weights=config.weights, num_classes=None, input_size=size, random_weights=config.random_weights
    )


def observer_names(config: ObserverConfig) -> dict[str, str | None]:
    """``observer`` and ``weights`` for a manifest: files by name only, since the observer's entry has their SHA-256."""
    return {
        "observer": Path(config.observer).name if config.observer else None,
        "weights": Path(config.weights).name if config.weights else None,
    }
