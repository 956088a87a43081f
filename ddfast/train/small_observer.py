"""A small ConvNet trained on a source itself, for sets without published weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddfast.data.sources import Source
from ddfast.data.squares import whole_images
from ddfast.nets.checkpoints import fingerprint, read_state_dict, state_bytes
from ddfast.nets.convnet import ConvNet
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs import Progress, Worker, open_ledger
from ddfast.runs.sharing import require_wanted, teller
from ddfast.train.demo_recipe import OBSERVER, small_convnet
from ddfast.train.loop import TrainConfig, TrainProgress
from ddfast.train.supervised import fit

DEPTHS = {"conv3": 3, "conv4": 4, "conv5": 5, "conv6": 6}
IMAGES = 10_000
FILE = "observer.safetensors"
_TASK = "train"


@dataclass(frozen=True)
class SmallObserver:
    """A narrow ConvNet that is still to be trained, for a few epochs on at most 10,000 pictures of ``source``.

    Meant for small pictures and tries; a good observer for photographs takes a full training elsewhere.  The same seed,
    machine and number of threads give the same weights; workers of one run share one training (`shared`).

    Attributes:
        name: conv3, conv4, conv5 or conv6.
        source: pictures to train on.
        size: side of the pictures and of the observer's input in pixels.
        seed: decides initial weights and order.
        recipe: how it is trained; its seed is replaced.

    Raises:
        ValueError: ``name`` is not conv3 ... conv6, or the pictures are too small for its depth.
    """

    name: str
    source: Source
    size: int
    seed: int = 0
    recipe: TrainConfig = OBSERVER

    def __post_init__(self) -> None:
        if self.name not in DEPTHS:
            known = ", ".join(f"train:{name}" for name in DEPTHS)
            hint = "; did you mean train:conv3?" if self.name.startswith("conv") else ""
            raise ValueError(f"observer: got 'train:{self.name}', expected one of {known}{hint}")
        self.network()

    @property
    def weights(self) -> str:
        """Where its weights come from, in words; once trained an observer also has their SHA-256."""
        return f"trained on {self.source.name} for {self.recipe.epochs} epochs, seed {self.seed}"

    def network(self) -> ConvNet:
        """The network with its initial weights."""
        return small_convnet(len(self.source.class_names), self.size, seed=self.seed, depth=DEPTHS[self.name])

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON."""
        recipe = asdict(replace(self.recipe, seed=self.seed))
        source = {"name": self.source.name, "fingerprint": self.source.fingerprint()}
        return {"observer": self.name, "source": source, "size": self.size, "recipe": recipe}

    def train(self, device: str | torch.device = "cpu", progress: str = "auto") -> Observer:
        """Trains it here.

        Args:
            device: where.
            progress: mode of `ddfast.runs.Progress`.
        """
        net, recipe = self.network(), self.recipe
        images, labels = whole_images(self.source, self.size, -(-IMAGES // len(self.source.class_names)))
        steps, title = recipe.epochs * -(-len(images) // recipe.batch_size), f"training {self.name}"
        with Progress(steps, unit="steps", title=f"{title} on {len(images)} pictures", mode=progress) as shown:

            def show(state: TrainProgress) -> None:
                shown.update((state.epoch - 1) * state.steps + state.step - shown.done, f"loss {state.loss:.3f}")

            fit(net.to(device), images, labels, replace(recipe, seed=self.seed), on_progress=show)
        return self._observer(net)

    def read(self, path: Path) -> Observer:
        """The observer from a file of its trained weights.

        Raises:
            FileNotFoundError: there is none.
        """
        net = self.network()
        net.load_state_dict(read_state_dict(path))
        return self._observer(net)

    def shared(
        self, folder: Path, *, worker: Worker | None = None, device: str = "cpu", progress: str = "auto",
        wanted: Callable[[], bool] | None = None,
    ) -> Observer:  # fmt: skip
        """Trained by one of the workers that call this with the same folder, and read by all.

        Args:
            folder: for the weights; a training that was done is not done again. Who has finished what the observer is
                for may remove it, under the feet of workers that still wait (see `ddfast.runs.sharing.unless`).
            worker: who this is.
            device, progress: as of `train`.
            wanted: asked before it is trained; once False it is not needed any more.

        Raises:
            ddfast.runs.RunError: the folder holds another observer or was removed, or the disk is full.
            FileNotFoundError: it was removed.
            ddfast.runs.sharing.Superseded: ``wanted`` said so.
        """
        with open_ledger(folder, [_TASK], self.identity(), worker=worker, resume=True, outputs=(FILE,)) as ledger:
            require_wanted(folder, wanted)  # who removed the folder since is done; this one has just made it anew
            task = ledger.claim_or_wait(_TASK, on_wait=teller(progress == "quiet"))
            if task is not None:
                with task:
                    task.write_bytes(FILE, state_bytes(self.train(device, progress).module))
                    task.complete()
        return self.read(folder / FILE)

    def _observer(self, net: ConvNet) -> Observer:
        observer = load_observer(net, num_classes=len(self.source.class_names), input_size=self.size)
        digest = fingerprint(observer.module)
        return replace(observer, name=self.name, weights=f"{self.weights}, sha256 {digest}")


def train_small_observer(
    name: str,
    source: Source,
    *,
    size: int,
    seed: int = 0,
    recipe: TrainConfig = OBSERVER,
    device: str | torch.device = "cpu",
    progress: str = "auto",
) -> Observer:
    """A `SmallObserver`, trained here at once."""
    return SmallObserver(name, source, size, seed, recipe).train(device, progress)
