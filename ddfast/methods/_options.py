"""How a run is carried out.  Nothing here changes what comes out, only where, how fast and how it is reported."""

from __future__ import annotations

import numbers
import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ddfast.runs import Worker, identify_worker
from ddfast.runs.device import torch_device


def option(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field that carries its command-line help."""
    return field(default=default, metadata={"help": help, **extra})


# methods that an option is for, where it is not for all
_OBSERVED, _STREAMED = ("rded",), ("rded", "coreset")


def check_types(config_class: type, values: Mapping[str, Any]) -> None:
    """Refuses values of another type than their fields have, before anything is compared or computed with them.

    Raises:
        TypeError: names field, value and expected type.
    """
    hints = typing.get_type_hints(config_class)
    for name, value in values.items():
        hint = hints.get(name)
        if typing.get_origin(hint) is tuple:
            _check_numbers(name, value, len(typing.get_args(hint)))
            continue
        kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind in _FITS]
        if value is not None and kinds and not any(_FITS[kind][0](value) for kind in kinds):
            raise TypeError(f"{name}: got {value!r}, expected {' or '.join(_FITS[kind][1] for kind in kinds)}")


def _check_numbers(name: str, value: Any, count: int) -> None:
    fits, _ = _FITS[float]
    if value is not None and not (isinstance(value, tuple | list) and len(value) == count and all(map(fits, value))):
        raise TypeError(f"{name}: got {value!r}, expected {count} numbers")


_FITS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool), "a whole number"),
    float: (lambda value: isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"),
    str: (lambda value: isinstance(value, (str, os.PathLike)), "text"),
}


@dataclass(frozen=True)
class RunOptions:
    """Options shared by all methods; those that name some ``methods`` do nothing in others."""

    device: str = option("auto", "cpu, cuda, cuda:N or auto")
    engine: str = option("auto", "observer forward: auto, torch, compile or openvino", methods=_OBSERVED)
    stream: str = option("auto", "image decoding: auto, threads, dali or torch", methods=_STREAMED)
    workers: int | None = option(
        None, "decoding threads; 0 decodes in the main thread (default: one a core)", methods=_STREAMED
    )
    batch_images: int | None = option(
        None, "source images a forward batch (default: 32, on a GPU 128)", methods=_OBSERVED
    )
    constant_frame_skip: bool = option(True, "compute only what the patch can influence (exact)", methods=_OBSERVED)
    shard: str | None = option(
        None, "i/n: this is worker i of n, counted from 0, that share the output folder (default: as torchrun's or "
        "SLURM's variables say)"
    )  # fmt: skip
    resume: bool = option(False, "go on with the run in the output folder")
    overwrite: bool = option(False, "replace the run in the output folder")
    strict: bool = option(False, "stop at the first unreadable file instead of skipping it", methods=_STREAMED)
    check_classes: bool = option(True, "compare the observer's class order with the source's first", methods=_OBSERVED)
    quiet: bool = option(False, "no progress, no report")
    on_progress: Callable[..., None] | None = field(default=None, metadata={"cli": False})

    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "engine": ("auto", "torch", "compile", "openvino"), "stream": ("auto", "threads", "dali", "torch"),
    }  # fmt: skip

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: got {self.workers}, expected 0 or more")
        if self.batch_images is not None and self.batch_images < 1:
            raise ValueError(f"batch_images: got {self.batch_images}, expected 1 or more")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite: give one of the two")
        self.worker()
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {', '.join(allowed)}")

    def worker(self) -> Worker:
        """Who this process is among the workers of the run: ``shard``, or what its launcher's variables say."""
        return identify_worker(self.shard)

    def torch_device(self) -> str:
        """``device`` with ``auto`` resolved: CUDA when there is a device.

        Of several workers on a machine each gets the GPU of its local index, unless ``device`` names one.
        """
        return torch_device(self.device, self.worker())

    def images_a_batch(self) -> int:
        """``batch_images`` with its default for the device."""
        return self.batch_images or (32 if self.torch_device() == "cpu" else 128)
