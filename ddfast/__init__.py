"""ddfast: fast, exact dataset distillation.

``ddfast.distill("rded", source, observer=..., ipc=10, out=...)`` distils, ``ddfast.load(path)`` reads the result,
``ddfast.relabel(distilled, teachers, out, view=...)`` stores soft labels,
``ddfast.evaluate(path, val)`` trains students on it and reports, ``ddfast.continual(path, val)`` class by class,
``ddfast.explain(path)`` says what a set is, how it was made and how to train on it,
``ddfast.ops`` holds the kernels, ``ddfast.build_info()`` tells what would run.  Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddfast import ops
    from ddfast._info import build_info
    from ddfast.evaluation import continual, evaluate
    from ddfast.evaluation.explain import explain
    from ddfast.methods import distill
    from ddfast.store import DistilledSet, LabelStore, load, save
    from ddfast.train.label_dataset import SoftLabelDataset
    from ddfast.train.relabel import relabel

__all__ = [
    "DistilledSet",
    "LabelStore",
    "SoftLabelDataset",
    "build_info",
    "continual",
    "distill",
    "evaluate",
    "explain",
    "load",
    "ops",
    "relabel",
    "save",
]
__version__ = "0.1.0"

_HOMES = {
    "DistilledSet": "ddfast.store",
    "LabelStore": "ddfast.store",
    "SoftLabelDataset": "ddfast.train.label_dataset",
    "relabel": "ddfast.train.relabel",
    "load": "ddfast.store",
    "save": "ddfast.store",
    "distill": "ddfast.methods",
    "evaluate": "ddfast.evaluation",
    "explain": "ddfast.evaluation.explain",
    "continual": "ddfast.evaluation",
    "build_info": "ddfast._info",
    "ops": "ddfast.ops",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ddfast' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if name == "ops" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
