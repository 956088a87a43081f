"""Distillation methods by name, and the one call that runs any of them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._options import RunOptions

if TYPE_CHECKING:
    from torch import nn

    from ddfast.data import Source
    from ddfast.methods._registry import Method
    from ddfast.nets import Observer
    from ddfast.store import DistilledSet

__all__ = ["RunOptions", "distill", "distill_to", "get_method", "method_names"]


def get_method(name: str) -> Method:
    """The method of this name; ValueError when there is none."""
    from ddfast.methods import _registry

    return _registry.get_method(name)


def method_names() -> list[str]:
    """Names of all methods."""
    from ddfast.methods import _registry

    return _registry.method_names()


def distill(
    method: str,
    source: Source | str | Path | tuple[Any, ...],
    *,
    out: str | Path | None = None,
    observer: str | nn.Module | Observer | None = None,
    preset: str | None = None,
    **settings: Any,
) -> DistilledSet:
    """Distils ``source`` into a small set on disk.

    Args:
        method: one of :func:`method_names`, such as ``"rded"``, ``"mtt"`` or ``"pdd"``.
        source: class folders, a CIFAR or Tiny-ImageNet folder, an ``.npz`` file, arrays ``(images uint8 [N, H, W, 3],
            labels [N])``, ``"mnist5k"`` or a :class:`ddfast.data.Source`.
        out: folder for the result; an interrupted run in it goes on with ``resume=True``.  None keeps the result in
            memory only.
        observer: model name, checkpoint file, ``train:NAME``, module or :class:`ddfast.nets.Observer`; the preset's if
            None.
        preset: named settings, for instance ``"imagenet-1k"`` or ``"smoke"``; single settings override it.
        **settings: fields of the method's config (``ipc``, ``factor``, ``seed`` ...) and of :class:`RunOptions`
            (``device``, ``workers``, ``resume`` ...).

    Returns:
        The distilled set.

    Raises:
        TypeError: unknown setting.
        ValueError: a setting, the source or the observer does not fit; the message says which and what to do.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    from ddfast.store import load

    if out is None:
        with tempfile.TemporaryDirectory(prefix="ddfast-") as folder:
            distill_to(method, source, folder, observer=observer, preset=preset, **settings)
            return load(folder)
    distill_to(method, source, out, observer=observer, preset=preset, **settings)
    return load(out)


def distill_to(
    method: str,
    source: Source | str | Path | tuple[Any, ...],
    out: str | Path,
    *,
    observer: str | nn.Module | Observer | None = None,
    preset: str | None = None,
    **settings: Any,
) -> None:
    """:func:`distill` without reading the result back, so that memory does not grow with it."""
    from ddfast.data import open_source
    from ddfast.runs import RunError

    chosen = get_method(method)
    run_fields = {f.name for f in dataclasses.fields(RunOptions)}
    options = RunOptions(**{k: v for k, v in settings.items() if k in run_fields and v is not None})
    named = observer if isinstance(observer, str) or observer is None else None
    values = {k: v for k, v in settings.items() if k not in run_fields}
    config = chosen.configure(preset, **({"observer": named} if named else {}), **values)
    options.torch_device()  # refuses a device that is not there, before there is a folder
    with _naming("source (--data)", (ValueError, TypeError, FileNotFoundError)):
        opened = open_source(source)
    with _naming("out", (RunError,), str(Path(out))):
        chosen.run(opened, Path(out), config, options, observer=None if named else observer)


@contextmanager
def _naming(argument: str, kinds: tuple[type[Exception], ...], begin: str = "") -> Iterator[None]:
    """Puts the argument's name in front of messages that begin otherwise, such as with the folder it names."""
    try:
        yield
    except kinds as error:
        text = error.args[0] if len(error.args) == 1 else None
        if isinstance(text, str) and (text.startswith(f"{begin}:") if begin else not text.startswith(argument)):
            error.args = (f"{argument}: {text}",)
        raise
