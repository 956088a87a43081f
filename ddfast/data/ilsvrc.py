"""The validation pictures of ImageNet-1K as shipped: one flat folder, with the classes in a list beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ddfast._outside import is_safe_path, read_lines
from ddfast.data.listed import ListedSource, folder_names

_LIST = "LOC_val_solution.csv"
_LEVELS = 4  # up from ILSVRC/Data/CLS-LOC/val, as Kaggle packs it
_FLAT = "ILSVRC2012_val_"
_WORDNET = re.compile(r"n\d{8}")


class IlsvrcValSource(ListedSource):
    """``ILSVRC2012_val_00000001.JPEG`` ... in one folder, and Kaggle's ``LOC_val_solution.csv``.

    Labels follow the sorted WordNet ids of the folder ``train`` beside it if there is one, else those of the list, so
    they agree with those of ``train``; pictures of other classes are left out.

    Args:
        folder: the folder with the pictures.
        name: short name.

    Raises:
        ValueError: no list, or a broken line in it.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        path = _find_list(folder)
        if path is None:
            raise ValueError(
                f"{folder}: holds the validation pictures of ImageNet-1K in one folder; put {_LIST} beside it (or "
                "above, as Kaggle packs it), or sort them into class folders, as torchvision.datasets.ImageNet does"
            )
        files: dict[str, list[str]] = {}
        seen: set[str] = set()
        for number, line in enumerate(read_lines(path), 1):
            picture, _, rest = line.partition(",")
            if not line.strip() or (number == 1 and picture == "ImageId"):
                continue
            wnid = rest.split(maxsplit=1)[0] if rest.split() else ""
            if not _WORDNET.fullmatch(wnid) or not is_safe_path(picture) or "/" in picture or picture in seen:
                raise ValueError(
                    f"{path}: line {number} is {line[:80]!r}, expected: a new picture, WordNet id and boxes"
                )
            seen.add(picture)
            files.setdefault(wnid, []).append(f"{picture}.JPEG")
        trained = tuple(filter(_WORDNET.fullmatch, folder_names(folder.parent / "train")))
        super().__init__(folder, trained or sorted(files), files, name=name)


def is_ilsvrc_val(folder: Path) -> bool:
    """Whether ``folder`` holds validation pictures of ImageNet-1K, and no class folders."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        flat = False
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                return False
            flat |= entry.name.startswith(_FLAT)
    return flat


def _find_list(folder: Path) -> Path | None:
    places = [folder, *folder.resolve().parents[:_LEVELS]]
    return next((place / _LIST for place in places if (place / _LIST).is_file()), None)
