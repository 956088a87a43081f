"""Soft labels on disk: one memory-mapped file of rows per epoch, and ``labels.json`` that says whose they are.

    labels.json            format, layout, bytes, and the fingerprint of the set, views and teachers
    epoch_00000.labels     rows of epoch 0 in sample order (see `ddfast.store.label_codec`), complete or not there
    epoch_00001.part       an epoch being written with `LabelStore.write`: the rows, then one byte per written sample

An epoch's file gets its name when all its labels are on the disk, so the names of the files are the record of what is
done, and a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddfast._outside import as_text, path_inside, read_json
from ddfast.store.files import flush
from ddfast.store.label_codec import LabelLayout, TopKLabels, decode_labels, dense_labels, encode_labels
from ddfast.store.label_files import create_once, cut, explain, reserve, write_rows

FORMAT = "ddfast.labels"
SCHEMA_VERSION = 1
LABELS_FILE = "labels.json"
OUTPUTS = (LABELS_FILE, "epoch_*.labels", "epoch_*.part")  # what a run that makes labels leaves in its folder


class LabelMismatchError(ValueError):
    """The labels belong to another set, seed, view or teacher; the message names what differs."""


class LabelStore:
    """Labels of ``layout.samples`` images in ``layout.epochs`` epochs; make it with `create` or `open`.

    It can be sent to the worker processes of a ``DataLoader``.  One process writes an epoch at a time; any number read.

    Attributes:
        path: the folder.
        layout: shapes and kind.
        fingerprint: what the labels were made from, JSON values; ``view`` is None for labels of the plain images.
    """

    def __init__(self, path: Path, layout: LabelLayout, fingerprint: Mapping[str, Any]) -> None:
        self.path, self.layout, self.fingerprint = path, layout, dict(fingerprint)
        self._mapped: tuple[int, NDArray[np.void]] | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        samples: int,
        classes: int,
        epochs: int = 1,
        kind: str = "fp16",
        k: int = 0,
        tail_temperature: float = 1.0,
        fingerprint: Mapping[str, Any],
    ) -> LabelStore:
        """Start a store, or open the one in ``path`` if it says exactly the same; several processes may do so at once.

        Args:
            path: the folder; made if missing.
            samples, classes, epochs, kind, k, tail_temperature: see `LabelLayout`.
            fingerprint: what decides the labels, as JSON values; read back and compared by `check`.

        Raises:
            ValueError: a number is out of range, or the folder holds labels of another shape.
            LabelMismatchError: the folder holds other labels.
            OSError: the folder cannot be written.
        """
        layout = LabelLayout(samples, classes, epochs, kind, k, tail_temperature)
        folder = Path(path)
        content = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "layout": layout.as_json(),
            "bytes": {"row": layout.row_bytes, "epoch": layout.epoch_bytes, "total": layout.total_bytes},
            "fingerprint": dict(fingerprint),
        }
        data = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            create_once(folder / LABELS_FILE, data)
        except OSError as error:
            raise explain(error, folder) from error
        store = cls.open(folder)
        if store.layout != layout:
            raise ValueError(f"{folder}: holds labels of {store.layout}, expected {layout}; choose another folder")
        store.check(json.loads(data)["fingerprint"])
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, expect: Mapping[str, Any] | None = None) -> LabelStore:
        """The store in ``path``.

        Args:
            path: the folder.
            expect: entries of the fingerprint that must agree; see `check`.

        Raises:
            FileNotFoundError: no ``labels.json`` there.
            ValueError: it is damaged, or of a later version.
            LabelMismatchError: as `check`.
        """
        folder = Path(path)
        file = folder / LABELS_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder}: no {LABELS_FILE}, expected a folder written by ddfast relabel")
        try:
            content = read_json(file)
            if content["format"] != FORMAT:
                raise ValueError(f"format is {as_text(content['format'])}, expected {FORMAT!r}")
            if not 1 <= content["schema_version"] <= SCHEMA_VERSION:
                raise ValueError(
                    f"schema_version is {as_text(content['schema_version'])}, this ddfast knows {SCHEMA_VERSION}"
                )
            if not isinstance(content["fingerprint"], dict):
                raise ValueError(f"fingerprint is {as_text(content['fingerprint'])}, expected a mapping")
            store = cls(folder, LabelLayout.from_json(content["layout"]), content["fingerprint"])
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"{file}: damaged or of another version ({error}); write the labels again") from error
        if expect is not None:
            store.check(expect)
        return store

    @property
    def per_image(self) -> bool:
        """True if there is one label an image, made from the plain image: it holds for every epoch."""
        return self.fingerprint.get("view") is None

    def describe(self) -> str:
        """One line: what is in the store and how large it is."""
        layout, done = self.layout, int(self.complete().sum())
        what = f"top-{layout.k}" if layout.kind == "topk" else "all"
        views = "1 label an image" if self.per_image else f"{done} of {layout.epochs} epochs"
        return (
            f"{self.path}: {what} logits of {layout.samples} images and {layout.classes} classes, {views}, "
            f"{done * layout.epoch_bytes / 1e6:.3g} MB"
        )

    def check(self, expect: Mapping[str, Any]) -> None:
        """Refuse labels that were made for something else.

        Args:
            expect: entries of the fingerprint (``set``, ``seed``, ``view``, ``batch_size`` ...); others are not
                compared.

        Raises:
            LabelMismatchError: names every entry that differs, both values and what to do.
        """
        wanted = json.loads(json.dumps(dict(expect)))  # tuples become lists, as in the file
        wrong = [name for name, value in wanted.items() if self.fingerprint.get(name) != value]
        if wrong:
            told = "; ".join(
                f"{n}: the labels have {self.fingerprint.get(n)!r}, here it is {wanted[n]!r}" for n in wrong
            )
            what = "another set of images" if "set" in wrong else f"another {', '.join(wrong)}"
            raise LabelMismatchError(
                f"{self.path}: these labels are of {what} ({told}). Labels fit only the views they were made from: "
                "use the settings above where there is an option for them, or make new labels with ddfast relabel "
                "--overwrite (in Python overwrite=True)."
            )

    def read(self, epoch: int, sample_ids: ArrayLike | Tensor) -> Tensor | TopKLabels:
        """Labels as stored.

        Args:
            epoch: from 0; any epoch of a store with one label an image.
            sample_ids: int [n], positions in the distilled set.

        Returns:
            Logits float16 [n, C], or ``(values, indices, tail)`` (`TopKLabels`).

        Raises:
            ValueError: no such epoch or sample, an epoch that is not finished, or a damaged file.
        """
        rows = self._rows(0 if self.per_image else epoch)
        return decode_labels(rows[self._ids(sample_ids)], self.layout)

    def dense(self, epoch: int, sample_ids: ArrayLike | Tensor) -> Tensor:
        """`read` as logits float32 [n, C]; of top-k labels every class beyond the k gets the tail."""
        return dense_labels(self.read(epoch, sample_ids), self.layout.classes)

    def write(self, epoch: int, sample_ids: ArrayLike | Tensor, logits: Tensor) -> None:
        """Store labels of some samples of an unfinished epoch, in any order; the last ones finish it.

        Args:
            epoch: from 0.
            sample_ids: int [n].
            logits: float [n, C].

        Raises:
            ValueError, TypeError: no such epoch or sample, a finished epoch, or logits that cannot be stored.
            OSError: the disk is full or read-only; what was written before is kept.
        """
        final, ids = self._settled(epoch), self._ids(sample_ids)
        if final.exists():
            raise ValueError(f"epoch: {epoch} is finished; delete {final} to write its labels anew")
        rows = encode_labels(logits, self.layout)
        if len(rows) != len(ids):
            raise ValueError(f"logits: got {len(rows)} rows for {len(ids)} sample_ids")
        part, size = final.with_suffix(".part"), self.layout.epoch_bytes
        try:
            reserve(part, size + self.layout.samples)
            write_rows(part, rows, ids, size)
            if not len(self.missing(epoch)):
                cut(part, size)
                self._settled(epoch)
                flush(self.path)
        except OSError as error:
            raise explain(error, part) from error

    def file(self, epoch: int) -> Path:
        """Where the labels of ``epoch`` are.

        Raises:
            ValueError: no such epoch.
        """
        if not 0 <= epoch < self.layout.epochs:
            raise ValueError(
                f"epoch: got {epoch}, {self.path} holds labels for epochs 0 .. {self.layout.epochs - 1}; train for "
                "at most as many, or relabel with more epochs"
            )
        return path_inside(self.path, f"epoch_{epoch:05d}.labels", str(self.path / LABELS_FILE))

    def complete(self) -> NDArray[np.bool_]:
        """Which epochs are finished: bool [epochs]."""
        files = [self._settled(epoch) for epoch in range(self.layout.epochs)]
        done = [file.exists() and file.stat().st_size == self.layout.epoch_bytes for file in files]
        return np.array(done, dtype=bool)

    def missing(self, epoch: int) -> NDArray[np.int64]:
        """Samples whose label of ``epoch`` is not written yet, ascending."""
        final, size = self._settled(epoch), self.layout.epoch_bytes
        if final.exists():
            return np.empty(0, dtype=np.int64)
        part = final.with_suffix(".part")
        if not part.exists() or part.stat().st_size != size + self.layout.samples:
            return np.arange(self.layout.samples)
        return np.flatnonzero(np.fromfile(part, dtype=np.uint8, offset=size) == 0)

    def _settled(self, epoch: int) -> Path:
        """The epoch's file; gives it its name if all labels are there and the writer was killed just before."""
        final = self.file(epoch)
        part = final.with_suffix(".part")
        if not final.exists() and part.exists() and part.stat().st_size == self.layout.epoch_bytes:
            os.replace(part, final)
        return final

    def _rows(self, epoch: int) -> NDArray[np.void]:
        if self._mapped is None or self._mapped[0] != epoch:
            self._mapped = (epoch, self._map(epoch))
        return self._mapped[1]

    def _map(self, epoch: int) -> NDArray[np.void]:
        file = self._settled(epoch)
        if not file.exists():
            done = int(self.complete().sum())
            raise ValueError(
                f"{file}: not there, {done} of {self.layout.epochs} epochs are labelled; go on with ddfast relabel "
                "--resume"
            )
        size = file.stat().st_size
        if size != self.layout.epoch_bytes:
            raise ValueError(
                f"{file}: has {size} bytes, expected {self.layout.epoch_bytes}; cut short or damaged: delete it and "
                "run ddfast relabel --resume, or copy it anew"
            )
        return np.memmap(file, dtype=self.layout.row_dtype, mode="r", shape=(self.layout.samples,))

    def _ids(self, sample_ids: ArrayLike | Tensor) -> NDArray[np.int64]:
        ids = sample_ids.cpu().numpy() if isinstance(sample_ids, Tensor) else np.asarray(sample_ids)
        if ids.size == 0:
            return np.empty(0, dtype=np.int64)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"sample_ids: got shape {ids.shape} of {ids.dtype}, expected integers [n]")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.layout.samples:
            wrong = low if low < 0 else high
            raise ValueError(
                f"sample_ids: got {wrong}, expected 0 .. {self.layout.samples - 1} (labels of other images?)"
            )
        return ids.astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}  # a memory map would be sent as a copy of the whole file


def set_fingerprint(images: Tensor, labels: Tensor) -> str:
    """SHA-256 over shape and bytes of uint8 images [N, H, W, 3] and int64 labels [N]."""
    digest = hashlib.sha256()
    for tensor in (images, labels):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(flat.shape)}|{flat.dtype}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
