"""Which output of an observer a class folder stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

_WNID = re.compile(r"n\d{8}")


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """WordNet ids of the 1,000 ImageNet-1K (ILSVRC 2012) classes, in the order of the usual observers' outputs."""
    text = files("ddfast.nets").joinpath("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def is_wnid(name: str) -> bool:
    return _WNID.fullmatch(name) is not None


def map_classes(
    folders: Sequence[str], num_classes: int, class_names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Observer output of each class folder, int64 [len(folders)].

    By name when ``class_names`` (the observer's, in output order) holds every folder's name; otherwise by position when
    there are as many folders as outputs. Raises ValueError when neither works: guessing an order silently costs all of
    the accuracy (RDED issues 3, 4 and 10).
    """
    names = tuple(folders)
    if len(set(names)) != len(names):
        raise ValueError(f"folders: got {len(names)} names of which {len(set(names))} differ, expected distinct names")
    if class_names is not None:
        index = {name: i for i, name in enumerate(class_names)}
        missing = [name for name in names if name not in index]
        if not missing:
            return np.asarray([index[name] for name in names], dtype=np.int64)
        if len(missing) < len(names):
            raise ValueError(
                f"folders: {len(missing)} of {len(names)} class folders are unknown to the observer "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); rename or remove them"
            )
    if len(names) == num_classes:
        return np.arange(num_classes, dtype=np.int64)
    hint = (
        "name the folders by their WordNet ids (n01440764, ...)"
        if class_names is not None and is_wnid(class_names[0])
        else "pass the observer's class_names in output order, with the folders' names"
    )
    raise ValueError(
        f"folders: {len(names)} class folders ({', '.join(names[:3])}, ...) for an observer of {num_classes} outputs: "
        f"no way to tell which output each folder means; {hint}, or train an observer for these {len(names)} classes"
    )


def match_classes(wanted: Sequence[str], there: Sequence[str], what: str) -> tuple[int, ...]:
    """The label in ``there`` of each wanted class, by name; by place for sets whose classes are only numbered.

    Raises:
        ValueError: a name is missing; the message names it and what is there.
    """
    index = {name: label for label, name in enumerate(there)}
    missing = [name for name in wanted if name not in index]
    if not missing:
        return tuple(index[name] for name in wanted)
    numbered = all(name.isdecimal() and int(name) == label for label, name in enumerate(wanted))
    if numbered and len(there) == len(wanted):
        return tuple(range(len(wanted)))
    count = f"{len(there)} classes ({', '.join(list(there)[:3])}, ...)"
    raise ValueError(
        f"{what}: has {count}, but the set has {len(wanted)} and {len(missing)} of them are not among those: "
        f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; give the pictures of the set's own "
        "classes, in folders of the same names"
    )
