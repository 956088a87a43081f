"""The FKD layout of soft labels, which SRe2L (arXiv 2306.13092), CDA, LPLD and others write and read.

    FKD_cutmix_fp16/epoch_0/batch_0.tar    torch.save of a list of six:
        coords      float [B, 4], (top, left, height, width) of the crop as shares of the picture's sides
        flip        bool [B], mirrored after the crop
        mix_index   int64 [B], partner's position in the batch, or None
        mix_lam     float, the own share, or None
        mix_bbox    (top, left, bottom, right) in pixels of the view for CutMix, or None
        logits      float16 [B, C]

Which samples a batch has is in no file: the layout relies on every program drawing the same order (see `Replay`'s order
"random_sampler") and using the same batch size.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from ddfast._outside import as_text
from ddfast._temporary import temporary_name
from ddfast._tensor_files import read_torch
from ddfast.runs import atomic_write_bytes
from ddfast.runs.atomic import flush_folder, remove_folder, remove_temporaries
from ddfast.store import LabelStore
from ddfast.train.replay import Replay
from ddfast.train.views import ViewConfig, Views

# mix_lam and mix_bbox are numpy numbers in files of the original programs; to make one runs no code of the file's
_NUMPY_SCALARS: list[Any] = [
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    (codecs.encode, "_codecs.encode"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8")),
]


_NOTE = "ddfast.json"  # what the labels were made from
_ROUNDING = 1e-4  # of coordinates stored as float16 or summed in float32
_LONGEST_SIDE = 1 << 16


@dataclass
class FKDBatch:
    """One file; see the module's description.  ``mix_box`` is (top, left, bottom, right) in pixels of the view."""

    coords: Tensor
    flip: Tensor
    mix_index: Tensor | None
    mix_lam: float | None
    mix_box: tuple[int, int, int, int] | None
    logits: Tensor

    def views(self, index: Tensor, image_size: tuple[int, int]) -> Views:
        """The draws as `ddfast.train.views.Views`, for ``ddfast.train.replay.render``.

        Args:
            index: int64 [B], the batch's sample numbers, which the file does not have.
            image_size: (height, width) of the pictures in pixels; boxes are rounded to whole ones.

        Raises:
            ValueError: another number of samples than labels.
        """
        count = len(self.logits)
        if len(index) != count:
            raise ValueError(f"index: got {len(index)} samples for a batch of {count} labels; the batch sizes differ")
        sides = torch.tensor([*image_size, *image_size], dtype=torch.float64)
        none = torch.zeros(count, 1, dtype=torch.int32)
        top, left, bottom, right = self.mix_box or (0, 0, 0, 0)
        return Views(
            index=index,
            columns=none,
            rows=none.clone(),
            boxes=torch.round(self.coords.double() * sides).int(),
            flip=self.flip,
            shift=torch.zeros(count, 2, dtype=torch.int32),
            partner=torch.arange(count) if self.mix_index is None else self.mix_index,
            mix_box=torch.tensor([top, left, bottom - top, right - left], dtype=torch.int32),
            share=1.0 if self.mix_lam is None else self.mix_lam,
        )


class FKDLabels:
    """A folder of labels in the FKD layout.

    Args:
        path: ``FKD_{mix}_fp16``, or the folder around it.

    Attributes:
        epochs: how many there are.
        mix: "cutmix", "mixup" or what else the folder is named by.

    Raises:
        FileNotFoundError: no folders ``epoch_0`` ... there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        root = Path(path)
        inner = sorted(root.glob("FKD_*_fp16"))
        self.path = inner[0] if len(inner) == 1 else root
        named = re.fullmatch(r"FKD_(.+)_fp16", self.path.name)
        self.mix = named[1] if named else ""
        self.epochs = len([entry for entry in self.path.glob("epoch_*") if entry.is_dir()])
        if not (self.path / "epoch_0").is_dir():
            raise FileNotFoundError(f"{root}: no FKD labels, expected FKD_<mix>_fp16 with folders epoch_0, epoch_1 ...")

    def batches(self, epoch: int) -> int:
        """Files of an epoch.

        Raises:
            ValueError: no such epoch.
        """
        folder = self.path / f"epoch_{epoch}"
        if not folder.is_dir():
            raise ValueError(f"epoch: got {epoch}, {self.path} holds {self.epochs} epochs from 0")
        return len(list(folder.glob("batch_*.tar")))

    def batch(self, epoch: int, step: int) -> FKDBatch:
        """One file, read with ``weights_only=True``: no code in it is run.

        Raises:
            ValueError: it is missing, damaged, or no list of six; the message names it.
        """
        file = self.path / f"epoch_{epoch}" / f"batch_{step}.tar"
        if not file.is_file():
            count = self.batches(epoch)
            raise ValueError(f"{file}: not there, the epoch has {count} batches; do the batch sizes agree?")
        try:
            content = read_torch(file, allowed=_NUMPY_SCALARS)
        except ValueError as error:
            raise ValueError(f"{file}: damaged or not plain tensors ({error})") from error
        if not isinstance(content, (list, tuple)) or len(content) != 6:
            raise ValueError(f"{file}: got {type(content).__name__}, expected a list of six (coords, flip, ... logits)")
        return _parse(content, file)


def check_fkd(
    out: str | os.PathLike[str],
    view: ViewConfig | None,
    *,
    order: str = "random_sampler",
    expect: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Refuses what `write_fkd` would refuse, before anything is labelled.

    Args:
        out: as for `write_fkd`.
        view: what the labels are of; None for plain images.
        order: of the samples.
        expect: entries of the fingerprint that files already there must have, if they are to be kept.
        resume: keep files of the same labels.
        overwrite: files in the layout that ddfast wrote may be replaced.

    Returns:
        The folder ``FKD_{mix}_fp16``.

    Raises:
        ValueError: views or an order that the layout cannot hold.
        FileExistsError: the folder holds something else, or is a file.
    """
    if view is None:
        raise ValueError("labels: they are of the plain images, one each; FKD files hold labels of views")
    if view.factor > 1 or view.shift:
        raise ValueError(
            f"labels: their views have factor {view.factor} and shift {view.shift}; FKD files hold only crop, flip and "
            "mixing. Relabel with factor 1 (--factor 1; in Python view=dataclasses.replace(view, factor=1, shift=0))"
        )
    if order != "random_sampler":
        raise ValueError(
            f"order: got {order!r}; programs that read FKD files draw samples as a RandomSampler does and would take "
            'other samples\' labels. Relabel with order="random_sampler" (--order random_sampler)'
        )
    if Path(out).exists() and not Path(out).is_dir():
        raise FileExistsError(f"{out}: is a file, expected a folder for FKD's layout; choose another")
    root = Path(out) / f"FKD_{view.mix}_fp16"
    if not os.path.lexists(root) or (overwrite and (root / _NOTE).is_file()):
        return root
    if not resume or not _made_from(root, expect or {}):
        raise FileExistsError(
            f"{root}: exists" + (" and is of other labels" if resume else "") + "; choose another folder or delete it "
            "first"
        )
    return root


def write_fkd(
    labels: LabelStore, out: str | os.PathLike[str], *, resume: bool = False, overwrite: bool = False
) -> Path:
    """Writes stored labels in the FKD layout. The folder appears when all of it is written, or not at all.

    Programs that read it iterate a ``RandomSampler`` seeded with ``--fkd-seed``: it must be the labels' seed, and the
    batch size theirs. Both are noted in ``ddfast.json``, with all else that the labels were made from.

    Args:
        labels: a complete store of views, with ``order="random_sampler"``; views with shuffled strips or shifts have no
            place in the layout.
        out: folder to which ``FKD_{mix}_fp16`` is added.
        resume: keep what is there, if it was written from these labels.
        overwrite: replace what ddfast wrote there.

    Returns:
        The folder ``FKD_{mix}_fp16``.

    Raises:
        ValueError: labels of plain images or in another order, an unfinished store, or views that the layout cannot
            hold.
        FileExistsError: the folder exists already.
        ddfast.runs.RunError: the disk is full or the folder may not be written to.
    """
    made_from = labels.fingerprint
    replay = Replay.from_fingerprint(made_from, labels.layout.samples)
    root = check_fkd(out, replay.view, order=replay.order, expect=made_from, resume=resume, overwrite=overwrite)
    if root.exists() and not overwrite:  # and is of these labels
        return root
    if not labels.complete().all():
        done = int(labels.complete().sum())
        raise ValueError(f"{labels.path}: {done} of {labels.layout.epochs} epochs are labelled; finish them first")
    remove_temporaries(root.parent, idle=math.inf)  # of processes that were killed
    building = root.with_name(temporary_name(root.name))
    try:
        for epoch in range(labels.layout.epochs):
            for step in range(replay.steps):
                views = replay.views(epoch, step)
                content = _content(views, replay, labels.dense(epoch, views.index).half())
                buffer = io.BytesIO()
                torch.save(content, buffer)
                atomic_write_bytes(building / f"epoch_{epoch}" / f"batch_{step}.tar", buffer.getvalue())
        atomic_write_bytes(building / _NOTE, (json.dumps(made_from, indent=2) + "\n").encode())
        if overwrite:
            remove_folder(root)
        os.rename(building, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    flush_folder(root.parent)
    return root


def _made_from(root: Path, expect: Mapping[str, Any]) -> bool:
    """Whether ddfast wrote the folder, of labels with these entries in their fingerprint."""
    try:
        found = json.loads((root / _NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    wanted = json.loads(json.dumps(dict(expect)))  # tuples as lists
    return isinstance(found, dict) and all(name in found and found[name] == wanted[name] for name in wanted)


def _content(views: Views, replay: Replay, logits: Tensor) -> list[Any]:
    sides = torch.tensor([*replay.image_size, *replay.image_size], dtype=torch.float64)
    coords = (views.boxes.double() / sides).float()
    if replay.view.mix == "none":
        return [coords, views.flip, None, None, None, logits]
    top, left, height, width = (int(value) for value in views.mix_box)
    box = [top, left, top + height, left + width] if replay.view.mix == "cutmix" else None
    return [coords, views.flip, views.partner, float(views.share), box, logits]


def _parse(content: Any, file: Path) -> FKDBatch:
    coords, flip, mix_index, mix_lam, mix_box, logits = content
    try:
        if isinstance(coords, (list, tuple)):  # four columns, as a DataLoader collates tuples
            coords = torch.stack([torch.as_tensor(column) for column in coords], 1)
        batch = FKDBatch(
            torch.as_tensor(coords), torch.as_tensor(flip).bool(),
            None if mix_index is None else torch.as_tensor(mix_index).long(),
            None if mix_lam is None else float(mix_lam),
            None if mix_box is None else tuple(int(side) for side in mix_box),  # type: ignore[arg-type]
            torch.as_tensor(logits),
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{file}: not the FKD layout ({error})") from error
    count = len(batch.logits) if batch.logits.ndim == 2 else -1
    if batch.coords.shape != (count, 4) or batch.flip.shape != (count,) or len(batch.mix_box or (0,) * 4) != 4:
        raise ValueError(
            f"{file}: got coords {tuple(batch.coords.shape)} and flips {tuple(batch.flip.shape)} for logits "
            f"{tuple(batch.logits.shape)}"
        )
    _check_ranges(batch, count, file)
    return batch


def _check_ranges(batch: FKDBatch, count: int, file: Path) -> None:
    """Raises ValueError unless the draws can be those of a view: they become addresses of pixels."""
    ends = batch.coords[:, :2] + batch.coords[:, 2:]
    if not bool(((batch.coords >= 0) & (batch.coords <= 1)).all()) or not bool((ends <= 1 + _ROUNDING).all()):
        raise ValueError(f"{file}: coords: got numbers outside 0 to 1, expected shares of the picture's sides")
    partner = batch.mix_index
    if partner is not None and (partner.shape != (count,) or bool(((partner < 0) | (partner >= count)).any())):
        raise ValueError(f"{file}: mix_index: got {as_text(partner.tolist())}, expected {count} places in the batch")
    if batch.mix_lam is not None and not 0 <= batch.mix_lam <= 1:
        raise ValueError(f"{file}: mix_lam: got {batch.mix_lam!r}, expected a share from 0 to 1")
    top, left, bottom, right = batch.mix_box or (0, 0, 0, 0)
    if not (0 <= top <= bottom < _LONGEST_SIDE and 0 <= left <= right < _LONGEST_SIDE):
        raise ValueError(
            f"{file}: mix_bbox: got {as_text(batch.mix_box)}, expected (top, left, bottom, right) in pixels"
        )
    if not batch.logits.is_floating_point():
        raise ValueError(f"{file}: logits: got {batch.logits.dtype}, expected floating point")
