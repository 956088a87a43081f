"""The end of a run whose tasks are classes: manifest or safetensors, and a tidy folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddfast.data import Source
from ddfast.methods._observer import drop_observer
from ddfast.runs import Ledger, atomic_write_bytes
from ddfast.store import DistilledSet, ImageFormat, decode_image, manifest_bytes
from ddfast.store.manifest import MANIFEST_FILE

FORMATS = ("folder", "png", "safetensors")


def class_tasks(source: Source) -> list[str]:
    """One task a class."""
    return [f"class-{label:05d}" for label in range(len(source.class_names))]


def image_format(form: str, jpeg_quality: int) -> ImageFormat:
    """How a class's images are stored during the run; safetensors is assembled from lossless files at the end."""
    return ImageFormat("jpeg", jpeg_quality) if form == "folder" else ImageFormat("png")


def unread_words(samples: Sequence[str]) -> tuple[str, str]:
    """For errors about too few pictures: `` (2 files could not be read: a.jpg, b.jpg)`` and what to do; or nothing."""
    if not samples:
        return "", ""
    listed = ", ".join(samples[:3]) + (f" and {len(samples) - 3} more" if len(samples) > 3 else "")
    what, them = ("1 file", "it") if len(samples) == 1 else (f"{len(samples)} files", "them")
    return f" ({what} could not be read: {listed})", f"repair {them}, "


def is_complete(ledger: Ledger, out: Path) -> bool:
    """True if every class is done and the set is described: all that may be left is to tidy up."""
    return (out / MANIFEST_FILE).exists() and ledger.finished()


def finish_classes(
    ledger: Ledger,
    out: Path,
    class_names: Sequence[str],
    form: str,
    manifest: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> None:
    """Writes the set once every class is done; doing it again changes nothing. `tidy_classes` comes after it.

    Any worker may do it, also several at once: they write the same bytes.

    Args:
        ledger: of the run.
        out: its folder.
        class_names: of the set.
        form: one of ``FORMATS``.
        manifest: makes the manifest of the classes' records.
    """
    if not (out / MANIFEST_FILE).exists():
        described = manifest([done.record for done in ledger.records().values()])
        if form == "safetensors":
            try:
                _assemble(out, class_names, described)
            except (OSError, ValueError):
                if not (out / MANIFEST_FILE).exists():
                    raise  # otherwise another worker has written the set meanwhile, and removed what it is made of
        else:
            atomic_write_bytes(out / MANIFEST_FILE, manifest_bytes(described))


def tidy_classes(ledger: Ledger, out: Path, form: str) -> None:
    """Removes what a run that is complete needs no longer."""
    ledger.finish(keep_files=form != "safetensors")
    if form == "safetensors":
        for folder in out.glob("[0-9][0-9][0-9][0-9][0-9]"):
            shutil.rmtree(folder, ignore_errors=True)  # by another worker, perhaps
    drop_observer(out)


def _assemble(out: Path, class_names: Sequence[str], manifest: dict[str, Any]) -> None:
    # The manifest is written last, by save: whoever finds one finds the images too.
    images = np.stack([decode_image((out / entry["file"]).read_bytes()) for entry in manifest["images"]])
    labels = torch.tensor([entry["label"] for entry in manifest["images"]], dtype=torch.int64)
    DistilledSet(torch.from_numpy(images), labels, tuple(class_names), manifest).save(out, format="safetensors")
