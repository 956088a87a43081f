"""What a matching method works on: a source's pictures in the space students are trained in, some of them held out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._types import IMAGENET
from ddfast.data import Source
from ddfast.data.resident import Pictures, Resident
from ddfast.data.space import Space, known_normalization
from ddfast.data.squares import whole_images
from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import RunOptions
from ddfast.runs import Timings, atomic_write_bytes, seeds
from ddfast.runs.seeds import stream_key
from ddfast.store import DistilledSet, contact_sheet_png, set_fingerprint
from ddfast.store.files import IMAGES_FILE
from ddfast.store.manifest import MANIFEST_FILE
from ddfast.store.provenance import normalization_to_json

_PICTURES = 4096  # as many as whitening takes at a time, so that it gives the same bits


def is_written(out: Path) -> bool:
    """Whether the set is there; a manifest without images, which are to be made anew, is removed."""
    there = (out / MANIFEST_FILE).exists()
    if there and not (out / IMAGES_FILE).exists():
        (out / MANIFEST_FILE).unlink(missing_ok=True)
        return False
    return there


def planned_normalization(source: Source, *, measured: bool) -> dict[str, list[float]] | str | None:
    """What a run's settings say of a `Problem`'s normalisation before any picture is read, as JSON.

    Where it is that of the pictures the source's fingerprint decides it.
    """
    known = known_normalization(source.name, source.class_names)
    return "measured" if known is None and measured else normalization_to_json(known or IMAGENET)


class Problem:
    """Pictures, network and space of a run.

    Args:
        source: the real set.
        config: the method's.
        options: of the run.
        stream: begins the names of the random streams (held-out pictures, initial images): the method's name.
        ipc: images per class in all; None for the config's.
        timings: of the run; None for ones that nothing reads.
        measured: a source without constants of its own (`Space.of`) is normalised by those of its pictures; else by
            ImageNet's.
        numbers: of the source's classes in those streams, where it is a part of a larger set; None for 0, 1, ...

    Raises:
        ValueError: a class has too few readable pictures.
    """

    def __init__(
        self, source: Source, config: MatchingConfig, options: RunOptions, stream: str, ipc: int | None = None,
        timings: Timings | None = None, numbers: Sequence[int] | None = None, measured: bool = False,
    ) -> None:  # fmt: skip
        self.source, self.config, self.stream = source, config, stream
        self.timings = timings or Timings()
        self.class_names = tuple(source.class_names)
        self.numbers = range(len(self.class_names)) if numbers is None else numbers
        self.device = options.torch_device()
        self.net = config.net(len(self.class_names))
        with self.timings.part("pictures"):
            self._read(config.ipc if ipc is None else ipc, measured)
        self.pool: Tensor | None = None
        self.wanted: Callable[[], bool] | None = None  # whether what is prepared for a matching is needed still

    def _read(self, ipc: int, measured: bool) -> None:
        most = max(map(self.source.count, range(len(self.class_names))))
        pictures, labels = whole_images(self.source, self.config.size, most)
        held = self._held_out(labels)
        self.pictures, self.labels = (pictures[~held], labels[~held]) if held.any() else (pictures, labels)
        self._check_counts(ipc)
        self.space = Space.of(
            self.source.name, pictures, zca=self.config.zca, class_names=self.class_names, measured=measured
        )
        self.test = self.space.apply(pictures[held]).to(self.device)
        self.test_labels = labels[held].to(self.device)
        self.fingerprint = set_fingerprint(self.pictures, self.labels)

    def real(self) -> tuple[Tensor, Tensor]:
        """The pictures that are not held out, in the space, float32 [N, 3, S, S], and their classes; on the device."""
        side = self.config.size
        images = torch.empty(len(self.pictures), 3, side, side, device=self.device)
        for start in range(0, len(images), _PICTURES):  # floats of all pictures at once take many times their bytes
            rows = slice(start, start + _PICTURES)
            images[rows] = self.space.apply(self.pictures[rows])
        return images, self.labels.to(self.device)

    def resident(self) -> tuple[Pictures, Tensor]:
        """The same to take rows from: the same numbers, at a quarter of the memory where they are not whitened."""
        if self.space.zca is not None:
            return self.real()
        return Resident(self.pictures, self.space.normalization).to(self.device), self.labels.to(self.device)

    def among(self, chosen: Tensor, *, everywhere: bool) -> Problem:
        """The same with initial images from the pictures ``chosen``, bool [N], and where ``everywhere`` without any
        others."""
        made = copy.copy(self)
        if everywhere:
            made.pictures, made.labels = self.pictures[chosen], self.labels[chosen]
            made.fingerprint = set_fingerprint(made.pictures, made.labels)
        else:
            made.pool = chosen
        return made

    def initial_rows(self, per_class: int, stage: int = 0) -> Tensor:
        """int64 [classes * per_class]: random pictures of each class in turn, others in each stage (from 0)."""
        chosen = []
        for label in range(len(self.class_names)):
            own = self.labels == label
            rows = torch.nonzero(own if self.pool is None else own & self.pool)[:, 0]
            order = seeds.permutation(self.config.seed, f"{self.stream}/init", self.numbers[label], len(rows))
            places = torch.arange(stage * per_class, (stage + 1) * per_class) % len(rows)
            chosen.append(rows[torch.from_numpy(order)[places]])
        return torch.cat(chosen)

    def initial(self, real: Pictures, stage: int = 0) -> tuple[Tensor, Tensor]:
        """Images at the start, class by class as ``config.init`` says, and their classes; on the device.

        Args:
            real: of `real` or `resident`.
            stage: of progressive distillation.
        """
        index = self.initial_rows(self.config.ipc, stage)
        images = real[index.to(real.device)]
        if self.config.init == "noise":
            seed = self.config.seed
            if stage:
                low, high = stream_key(seed, f"{self.stream}/noise {stage}")
                seed = (high & 0x7FFFFFFF) << 32 | low
            images = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return images.to(self.device), self.labels[index].to(self.device)

    def distilled(self, stored: Tensor, labels: Tensor) -> DistilledSet:
        """Images as a matcher stores them, as pictures."""
        return DistilledSet(self.config.pixels(self.space, stored), labels.cpu(), self.class_names)

    def write(
        self, out: Path, stored: Tensor, labels: Tensor, extras: dict[str, Tensor], manifest: dict[str, Any]
    ) -> None:
        """The distilled set: visible pixels, and the images as they were trained.

        Args:
            out: the run's folder.
            stored, labels: images as a matcher stores them, and their classes.
            extras: further tensors.
            manifest: entries beside those of the problem (source, seed, normalisation, space).
        """
        made = self.distilled(stored, labels)
        floats = {"trained_images": stored} if self.config.keeps_floats else {}
        made.extras = {name: tensor.cpu() for name, tensor in {**floats, **extras}.items()}
        made.whitening = self.space.zca
        made.manifest = {
            "preset": self.config.preset,
            "source": {"name": self.source.name, "fingerprint": self.source.fingerprint()},
            "seed": self.config.seed,
            "normalization": normalization_to_json(self.space.normalization),
            "space": "zca" if self.config.zca else "normalized",
            **manifest,
        }
        if not is_written(out):
            made.save(out, format="safetensors")
        atomic_write_bytes(out / "contact_sheet.png", contact_sheet_png(made))

    def _held_out(self, labels: Tensor) -> Tensor:
        """bool [N]: pictures of each class that neither networks nor images see."""
        held = torch.zeros(len(labels), dtype=torch.bool)
        if self.config.test == "none":
            return held
        for label in range(len(self.class_names)):
            rows = torch.nonzero(labels == label)[:, 0]
            order = seeds.permutation(self.config.seed, f"{self.stream}/holdout", self.numbers[label], len(rows))
            held[rows[torch.from_numpy(order[: max(1, round(self.config.holdout * len(rows)))])]] = True
        return held

    def _check_counts(self, ipc: int) -> None:
        counts = torch.bincount(self.labels, minlength=len(self.class_names)).tolist()
        short = [f"{name} {n}" for name, n in zip(self.class_names, counts, strict=True) if n < ipc]
        if short:
            raise ValueError(
                f"{self.source.name}: ipc={ipc} needs as many readable pictures of each class beside those held out "
                f"(holdout {self.config.holdout}), but there are: {', '.join(short[:10])}; lower ipc or holdout, or "
                "give test=none"
            )
