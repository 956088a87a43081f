"""MTT from start to finish: pictures, experts, matching with tests on the way, the distilled set."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.data import Source, require_images
from ddfast.data.space import Space
from ddfast.data.squares import whole_images
from ddfast.methods._options import RunOptions
from ddfast.methods.mtt.config import MTTConfig
from ddfast.methods.mtt.experts import find_experts
from ddfast.methods.mtt.matching import Matching, State, fresh_state, load_state, save_state
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import Ledger, Progress, atomic_write_bytes, open_ledger, refuse_occupied, seeds
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.store import DistilledSet, contact_sheet_png, set_fingerprint
from ddfast.store.manifest import MANIFEST_FILE
from ddfast.store.provenance import normalization_to_json
from ddfast.train import NonFiniteLossError
from ddfast.train.flat_student import FlatRecipe, flat_accuracy, fresh_theta, train_flat

CHECKPOINT, EXPERTS = "checkpoint.pt", "experts"
OUTPUTS = (*DEFAULT_OUTPUTS, CHECKPOINT, EXPERTS, "images_*.png")
_SECONDS = 60.0  # between checkpoints


def run(source: Source, out: Path, config: MTTConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: settings, source and experts do not fit together.
        NonFiniteLossError: an expert or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    if observer is not None:
        raise ValueError("observer: got one, but mtt has none; its experts are trained, or named with buffers")
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite)
    require_images(source, config.ipc, f"ipc={config.ipc}")
    settings = {
        "method": "mtt",
        "config": {k: v for k, v in asdict(config).items() if k not in ("preset", "memory")},
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
    }
    with open_ledger(
        out, ["distill"], settings, resume=options.resume, overwrite=options.overwrite, outputs=OUTPUTS
    ) as ledger:
        if not ledger.finished():
            _Run(source, out, config, options, settings).all(ledger)
        ledger.finish()


class _Run:
    def __init__(
        self, source: Source, out: Path, config: MTTConfig, options: RunOptions, settings: dict[str, Any]
    ) -> None:
        self.source, self.out, self.config, self.options, self.settings = source, out, config, options, settings
        self.device = options.torch_device()
        self.net = FlatConvNet(
            len(source.class_names), config.size, depth=config.depth, width=config.width, norm=config.norm
        )
        pictures, labels = whole_images(source, config.size, max(map(source.count, range(len(source.class_names)))))
        self.held = _held_out(labels, config)
        self.train, self.train_labels = pictures[~self.held], labels[~self.held]
        self._check_counts()
        self.space = Space.of(source.name, pictures, zca=config.zca)
        self.test = self.space.apply(pictures[self.held]).to(self.device)
        self.test_labels = labels[self.held].to(self.device)

    def _check_counts(self) -> None:
        counts = torch.bincount(self.train_labels, minlength=self.net.num_classes).tolist()
        short = [f"{name} {n}" for name, n in zip(self.source.class_names, counts, strict=True) if n < self.config.ipc]
        if short:
            raise ValueError(
                f"{self.source.name}: ipc={self.config.ipc} needs as many readable pictures of each class beside those "
                f"held out (holdout {self.config.holdout}), but there are: {', '.join(short[:10])}; lower ipc or "
                "holdout, or give test=none"
            )

    def all(self, ledger: Ledger) -> None:
        whole = self.space.apply(self.train)
        digest = set_fingerprint(self.train, self.train_labels)
        self.train = self.train[:0]
        store, seen = find_experts(
            self.net, whole, self.train_labels, digest, self.config, self.options, self.out / EXPERTS
        )
        self.seen = seen
        with ledger.claim("distill") as task:
            state = load_state(self.out / CHECKPOINT, self.device)
            images, labels = self._start(whole)
            state = state or self._fresh(images, labels, store)
            del whole  # gigabytes for large sets, and not needed any more
            matching = Matching(self.net, store, labels.to(self.device), self.config, state)
            try:
                self._match(matching)
            finally:
                save_state(self.out / CHECKPOINT, matching.state)
            self._write(matching)
            task.complete({"losses": len(state.losses), "tests": matching.state.tests})
        (self.out / CHECKPOINT).unlink(missing_ok=True)

    def _match(self, matching: Matching) -> None:
        state, config = matching.state, self.config
        mode = "quiet" if self.options.quiet else "auto"
        written = time.monotonic()
        with Progress(
            config.iterations, done=state.iteration, unit="iterations", title="mtt", mode=mode,
            callback=self.options.on_progress,
        ) as shown:  # fmt: skip
            while True:
                if self._due(state):  # also where the last call was stopped in the middle of a test
                    save_state(self.out / CHECKPOINT, state)
                    self._look(matching)
                    save_state(self.out / CHECKPOINT, state)
                    written = time.monotonic()
                if state.iteration == config.iterations:
                    break
                loss = matching.advance()
                if time.monotonic() - written > _SECONDS:
                    save_state(self.out / CHECKPOINT, state)
                    written = time.monotonic()
                known = state.tests[-1].get("top1") if state.tests else None
                tested = "" if known is None else f", held-out {100 * known:.1f} %"
                shown.update(1, f"loss {loss:.3f}, lr {float(state.lr):.3g}{tested}")

    def _due(self, state: State) -> bool:
        """Whether the images are to be looked at and were not yet."""
        looked = state.tests[-1]["iteration"] if state.tests else 0
        at_end = state.iteration == self.config.iterations
        return state.iteration > looked and (state.iteration % self.config.eval_every == 0 or at_end)

    def _look(self, matching: Matching) -> None:
        """A picture of the images, and students tested on held-out pictures; keeps the best images."""
        state, config = matching.state, self.config
        distilled = self._set(matching, state.average)
        atomic_write_bytes(self.out / f"images_{state.iteration:05d}.png", contact_sheet_png(distilled))
        if config.test == "none":
            state.tests.append({"iteration": state.iteration, "lr": float(state.lr)})
            return
        recipe = FlatRecipe(config.eval_epochs, float(state.lr), dsa=config.dsa)
        scores = []
        for student in range(config.eval_students):
            stream = f"mtt/student {state.iteration} {student}"
            theta = fresh_theta(self.net, config.seed, stream).to(self.device)
            targets = matching.targets()
            try:
                theta = train_flat(self.net, theta, state.average, targets, recipe, seed=config.seed, stream=stream)
            except NonFiniteLossError:  # images that students diverge on are bad images, not an end of the run
                scores.append(1 / self.net.num_classes)
                continue
            scores.append(flat_accuracy(self.net, theta, self.test, self.test_labels))
        top1 = sum(scores) / len(scores)
        state.tests.append({"iteration": state.iteration, "top1": top1, "lr": float(state.lr)})
        if top1 >= state.best.get("top1", -1.0):
            state.best = {
                "top1": top1, "iteration": state.iteration, "images": state.average.clone(), "lr": state.lr.clone(),
                "logits": state.logits.clone(),
            }  # fmt: skip

    def _start(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Images at the start, class by class, and their labels."""
        chosen = []
        for label in range(self.net.num_classes):
            rows = torch.nonzero(self.train_labels == label)[:, 0]
            order = seeds.permutation(self.config.seed, "mtt/init", label, len(rows))
            chosen.append(rows[torch.from_numpy(order[: self.config.ipc])])
        index = torch.cat(chosen)
        images = whole[index]
        if self.config.init == "noise":
            generator = torch.Generator().manual_seed(self.config.seed)
            images = torch.randn(images.shape, generator=generator)
        return images.to(self.device), self.train_labels[index]

    def _fresh(self, images: Tensor, labels: Tensor, store: Any) -> State:
        logits = torch.zeros(len(images), 0)
        if self.config.soft_labels:
            thetas = [store.snapshot(expert, store.epochs).to(self.device) for expert in range(min(len(store), 10))]
            with torch.no_grad():
                logits = torch.stack([self.net.logits(theta, images) for theta in thetas]).mean(0)
        return fresh_state(images, self.config.lr_teacher, logits.to(self.device))

    def _set(self, matching: Matching, images: Tensor) -> DistilledSet:
        return DistilledSet(self.space.invert(images), matching.labels.cpu(), tuple(self.source.class_names))

    def _write(self, matching: Matching) -> None:
        """The distilled set: visible pixels, and the images as they were trained with their learning rate."""
        state, config = matching.state, self.config
        images, lr, logits = state.average, state.lr, state.logits
        if config.test == "split" and state.best:
            images, lr, logits = state.best["images"], state.best["lr"], state.best["logits"]
        distilled = self._set(matching, images)
        distilled.extras = {"trained_images": images.cpu(), "lr": lr.reshape(1).cpu()}
        if config.soft_labels:
            distilled.extras["soft_logits"] = logits.cpu()
        distilled.manifest = {
            "method": "mtt",
            "preset": config.preset,
            "config": self.settings["config"],
            "source": self.settings["source"],
            "seed": config.seed,
            "normalization": normalization_to_json(self.space.normalization),
            "space": "zca" if config.zca else "normalized",
            "lr": float(lr),
            "recipe": {"protocol": "dsa", "lr": float(lr), "momentum": 0.9, "weight_decay": 5e-4, "dsa": config.dsa},
            "tests": state.tests,
            "experts_trained_on": self.seen,
            "losses": [round(loss, 6) for loss in state.losses],
        }
        if not (self.out / MANIFEST_FILE).exists():
            distilled.save(self.out, format="safetensors")
        atomic_write_bytes(self.out / "contact_sheet.png", contact_sheet_png(distilled))


def _held_out(labels: Tensor, config: MTTConfig) -> Tensor:
    """bool [N]: pictures of each class that neither experts nor images see."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    if config.test == "none":
        return held
    for label in range(int(labels.max()) + 1):
        rows = torch.nonzero(labels == label)[:, 0]
        order = seeds.permutation(config.seed, "mtt/holdout", label, len(rows))
        held[rows[torch.from_numpy(order[: max(1, round(config.holdout * len(rows)))])]] = True
    return held
