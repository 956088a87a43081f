"""Forgetting scores: how often each training example, once classified correctly, was classified wrongly the next time.

Counted while experts train, from the predictions a training step makes anyway: of the augmented view that the step
trains on, before its update, once an epoch. Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural
Network Learning", ICLR 2019 (arXiv 1812.05159).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ddfast._outside import parse_json
from ddfast._tensor_files import read_safetensors
from ddfast.runs import RunError, atomic_write_bytes

FORGETTING_FILE = "forgetting.safetensors"
STATES_FOLDER = "forgetting"
FORMAT = "ddfast.forgetting/1"


class ForgettingCounter:
    """One network's examples: ``counts`` int16 [N] of correct -> wrong, ``right`` bool [N] at the last presentation,
    ``learned`` bool [N], whether ever right."""

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(count, dtype=torch.int16, device=device)
        self.right = torch.zeros(count, dtype=torch.bool, device=device)
        self.learned = torch.zeros(count, dtype=torch.bool, device=device)

    def see(self, index: Tensor, right: Tensor) -> None:
        """A presentation of examples ``index`` int64 [n], each at most once, classified correctly where ``right``."""
        self.counts[index] += (self.right[index] & ~right).short()
        self.learned[index] |= right
        self.right[index] = right


class ForgettingStates:
    """The counters of experts in training, on disk after every epoch.

    A file an expert holds the counters after the last two epochs, since it is written just before the expert's
    snapshot: whichever of the two a stop leaves last, the counters of the last snapshot are there.
    """

    def __init__(self, out: Path, who: Mapping[str, Any], count: int, epochs: int) -> None:
        self.out, self.who, self.count, self.epochs = out, dict(who), count, epochs
        self._last: dict[int, dict[str, Tensor]] = {}

    @property
    def merged(self) -> bool:
        """Whether the scores of all experts are there.

        Raises:
            RunError: the file is damaged, or of other experts.
        """
        path = self.out / FORGETTING_FILE
        if not path.exists():
            return False
        if _read(path)[0].get("experts") != json.loads(json.dumps(self.who)):
            raise RunError(f"{path}: holds scores of other experts; remove it")
        return True

    def begin(self, expert: int, epoch: int, device: torch.device) -> ForgettingCounter:
        """The counter of an expert after ``epoch`` epochs.

        Raises:
            RunError: it was trained so far without one.
        """
        counter = ForgettingCounter(self.count, device)
        if epoch == 0:
            self._last[expert] = _state(0, counter)
            return counter
        states = self._load(expert)
        place = states["epochs"].tolist().index(epoch) if epoch in states["epochs"].tolist() else None
        if place is None:
            raise RunError(f"{self.out}: expert {expert} was trained for {epoch} epochs without forgetting scores; "
                           "train experts in another folder to get them")  # fmt: skip
        self._last[expert] = {name: value[place : place + 1] for name, value in states.items()}
        for name in ("counts", "right", "learned"):
            value = getattr(counter, name)
            value.copy_(states[name][place].to(value.dtype))
        return counter

    def save(self, expert: int, epoch: int, counter: ForgettingCounter) -> None:
        """The counter after ``epoch`` epochs; call it before the snapshot of that epoch is written.

        Raises:
            RunError: the disk is full or read-only.
        """
        new = _state(epoch, counter)
        both = {name: torch.cat([self._last[expert][name], value]) for name, value in new.items()}
        path = self._path(expert)
        path.parent.mkdir(exist_ok=True)
        atomic_write_bytes(path, save(both))
        self._last[expert] = new

    def check(self, expert: int) -> None:
        """Raises RunError if a finished expert has no scores."""
        if not self._path(expert).exists() and not self.merged:
            raise RunError(f"{self.out}: expert {expert} was trained without forgetting scores; train experts in "
                           "another folder to get them")  # fmt: skip

    def merge(self, experts: int) -> None:
        """Gathers the counters of finished experts in one file and removes their own.

        Raises:
            RunError: some are missing, or the disk is full.
        """
        if not self.merged:
            counters = []
            for expert in range(experts):
                try:
                    counters.append(self.begin(expert, self.epochs, torch.device("cpu")))
                except RunError:
                    if self.merged:  # by another worker, meanwhile
                        break
                    raise
            else:
                info = {"format": FORMAT, "experts": self.who, "epochs": self.epochs}
                tensors = {"counts": torch.stack([each.counts for each in counters]),
                           "learned": torch.stack([each.learned for each in counters]).to(torch.uint8)}  # fmt: skip
                atomic_write_bytes(self.out / FORGETTING_FILE, save(tensors, {"ddfast": json.dumps(info)}))
        shutil.rmtree(self.out / STATES_FOLDER, ignore_errors=True)

    def _path(self, expert: int) -> Path:
        return self.out / STATES_FOLDER / f"expert-{expert:05d}.safetensors"

    def _load(self, expert: int) -> dict[str, Tensor]:
        path = self._path(expert)
        try:
            states = read_safetensors(path)[1]
        except FileNotFoundError:
            return {"epochs": torch.empty(0)}
        except ValueError as error:
            raise RunError(f"{path}: damaged ({error}); train the experts in another folder") from error
        wanted = [states["epochs"].numel() if "epochs" in states else 0, self.count]
        for name in ("counts", "right", "learned"):
            if name not in states or list(states[name].shape) != wanted:
                there = list(states[name].shape) if name in states else "none"
                raise RunError(f"{path}: {name}: got {there}, expected {wanted} (examples: {self.count})")
        return states


@dataclass(frozen=True)
class ForgettingScores:
    """Scores of N examples by K experts.

    ``counts`` int16 [K, N]; ``learned`` bool [K, N], whether an expert was ever right; ``epochs`` each was trained for,
    which is how often it saw each example; ``fingerprint`` of the pictures.
    """

    counts: Tensor
    learned: Tensor
    epochs: int
    fingerprint: str

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> ForgettingScores:
        """The scores of a folder of experts, or a file.

        Args:
            path: the folder, or its ``forgetting.safetensors``.
            fingerprint: of the pictures they must be of (`train_experts`' ``pictures``); None takes any.

        Raises:
            FileNotFoundError: there are none.
            RunError: they are damaged, or of other pictures.
        """
        path = Path(path)
        path = path / FORGETTING_FILE if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(f"{path}: no forgetting scores there; train experts with forgetting=True")
        info, tensors = _read(path)
        there = str(info["experts"].get("pictures"))
        if fingerprint is not None and there != fingerprint:
            raise RunError(f"{path}: scores of pictures {there}, expected {fingerprint}; train experts on these")
        return cls(tensors["counts"], tensors["learned"].bool(), int(info["epochs"]), there)

    @property
    def mean(self) -> Tensor:
        """float32 [N], over experts; one that never learned an example counts as if it forgot it every epoch."""
        return torch.where(self.learned, self.counts.float(), float(self.epochs)).mean(0)

    @property
    def never_learned(self) -> Tensor:
        """bool [N]: right for no expert at any time."""
        return ~self.learned.any(0)

    def stage(
        self, k: int, interval: float, stages: int, labels: Tensor, class_names: Sequence[str] | None = None
    ) -> Tensor:
        """Examples of stage k: mean score in [(k - 1) interval, k interval), without upper end in the last stage.

        Args:
            k: stage, 1 to ``stages``.
            interval: width in forgetting events, positive.
            stages: how many there are.
            labels: int64 [N], classes of the examples.
            class_names: for the message.

        Returns:
            bool [N].

        Raises:
            ValueError: arguments out of range, labels of another number of examples, or a class that has no example
                left; the message names class and interval.
        """
        if not 1 <= k <= stages:
            raise ValueError(f"k: got {k} of {stages} stages, expected 1 to {stages}")
        if not interval > 0:
            raise ValueError(f"interval: got {interval!r}, expected a positive number of forgetting events")
        if labels.shape != self.counts.shape[1:]:
            raise ValueError(f"labels: got shape {list(labels.shape)}, expected [{self.counts.shape[1]}]")
        mean, labels = self.mean, labels.cpu()
        chosen = mean >= (k - 1) * interval
        if k < stages:
            chosen &= mean < k * interval
        classes = labels.unique()
        left = torch.zeros(int(labels.max()) + 1, dtype=torch.long).index_add_(0, labels, chosen.long())
        empty = [int(each) for each in classes if left[each] == 0]
        if empty:
            names = ", ".join(class_names[each] if class_names else str(each) for each in empty[:5])
            end = f"{k * interval:g})" if k < stages else "infinity)"
            raise ValueError(
                f"interval: class {names}{' ...' if len(empty) > 5 else ''} has no example with a forgetting score in "
                f"[{(k - 1) * interval:g}, {end} (stage {k} of {stages}); change the interval, or take fewer stages"
            )
        return chosen


def _state(epoch: int, counter: ForgettingCounter) -> dict[str, Tensor]:
    return {
        "epochs": torch.tensor([epoch], dtype=torch.int32),
        "counts": counter.counts[None].cpu().clone(),
        "right": counter.right[None].to(torch.uint8).cpu(),
        "learned": counter.learned[None].to(torch.uint8).cpu(),
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        metadata, found = read_safetensors(path)
        info = parse_json(metadata["ddfast"])
        if info["format"] != FORMAT:
            raise KeyError("format")
        counts, learned = found["counts"], found["learned"]
        if counts.ndim != 2 or counts.shape != learned.shape or counts.dtype != torch.int16 or not len(counts):
            raise ValueError(f"counts of shape {list(counts.shape)}")
        if not isinstance(info["experts"], dict) or not 0 <= int(info["epochs"]) < 1 << 31:
            raise ValueError("experts and epochs")
        return info, {"counts": counts, "learned": learned}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is no file of forgetting scores (or a damaged one)") from error
