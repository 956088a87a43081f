"""What is done with a folder that came from outside: everything that reads it, and a look at what came out."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ddfast
from ddfast import runs
from ddfast._types import IMAGENET
from ddfast.data import CropRequest, DecodeError, decode_image, open_source, open_stream
from ddfast.data.decode import decode_with_pillow
from ddfast.evaluation import made, recipes, staging
from ddfast.nets.checkpoints import read_state_dict
from ddfast.nets.described import read_described
from ddfast.runs import folder as run_folder
from ddfast.runs import lookout, show, upkeep
from ddfast.store import LabelStore, manifest_bytes, read_manifest
from ddfast.store import codec as store_codec
from ddfast.store.loader import recipe_of
from ddfast.train.augment import render
from ddfast.train.checkpoint import load_weights
from ddfast.train.fkd import FKDLabels
from ddfast.train.forgetting import ForgettingScores
from ddfast.train.latent import Distribution
from ddfast.train.presets import Case
from ddfast.train.replay import Replay
from ddfast.train.trajectories import TrajectoryStore, read_replay_buffers
from ddfast.train.views import ViewConfig

TASKS = ("task-00000", "task-00001", "task-00002")
CONFIG = {"method": "demo", "seed": 1}
OUTPUTS = ("[0-9][0-9][0-9][0-9][0-9]", "*.safetensors", "experts")
VIEW = ViewConfig((12, 12), scale=(0.3, 1.0), flip=True, mix="cutmix")


def check_manifest(root: Path) -> None:
    """A manifest that is taken is written as it is read, and its set can be used."""
    manifest = read_manifest(root / "manifest.json")
    written = manifest_bytes(manifest)
    (root / "again.json").write_bytes(written)
    again = read_manifest(root / "again.json")
    manifest["bytes"]["manifest"] = again["bytes"]["manifest"]
    assert again == manifest, "a manifest changed on the way"
    (root / "again.json").unlink()
    made.distillation_cost(manifest, root)
    check_set(root)


def check_set(root: Path) -> None:
    """Everything that students and reports take from a set."""
    found = ddfast.DistilledSet.load(root)
    assert found.images.dtype == torch.uint8
    assert len(found.class_names) >= len(found.counts)
    repr(found)
    manifest = found.manifest
    recipe_of(manifest)
    if found.stages is not None:
        staging.staging_of(found, None)
    case = Case("conv3", len(found.class_names), found.ipc, 16, 1, max(len(found), 1), False)
    recipes.default_student("smoke", [manifest])
    if recipes.recipe_name("smoke", manifest) in recipes.OWN:
        recipes.short_recipe(case, manifest)
    if recipes.is_drawn("smoke", manifest):
        recipes.d3_recipe(case, manifest)
    distribution = Distribution.of(found)
    if distribution is not None:
        assert len(distribution.means()) == len(distribution)
        distribution.samples(seed=0, epoch=0)
    if len(found):
        found.contact_sheet(root / "sheet.png")
        images, labels = next(iter(found.dataloader(4)))
        assert len(images) == len(labels)
        assert torch.isfinite(images).all()
        found.export("imagefolder", root / "exported")


def check_labels(root: Path) -> None:
    """A label store and FKD files: what they hold, and the pictures of their views."""
    store = LabelStore.open(root)
    store.describe()
    for epoch in range(min(store.layout.epochs, 3)):
        store.missing(epoch)
        if store.complete()[epoch]:
            ids = np.arange(min(store.layout.samples, 5))
            assert store.dense(epoch, ids).shape == (len(ids), store.layout.classes)
            store.read(epoch, ids)
    if not store.per_image:
        assert Replay.from_fingerprint(store.fingerprint, min(store.layout.samples, 1000)).steps > 0


def check_fkd(root: Path) -> None:
    """FKD files and the pictures of their views, by the native code."""
    images = torch.arange(10 * 12 * 12 * 3, dtype=torch.int32).to(torch.uint8).view(10, 12, 12, 3)
    labels = FKDLabels(root)
    for step in range(labels.batches(0)):
        batch = labels.batch(0, step)
        views = batch.views(torch.arange(len(batch.logits)) % 10, (12, 12))
        assert torch.isfinite(render(images, views, VIEW, IMAGENET)).all()


def check_buffers(root: Path) -> None:
    """Experts of ours and of MTT, forgetting scores, checkpoints and classifiers."""
    errors = []
    for file in sorted(root.iterdir()):
        try:
            _READERS[file.name](file)
        except (ValueError, TypeError, OSError, runs.RunError) as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _experts(path: Path) -> None:
    store = TrajectoryStore.open(path)
    for expert in range(min(len(store), 3)):
        for epoch in range(min(store.epochs_done(expert) + 1, 3)):
            assert store.snapshot(expert, epoch).shape == store.shape[2:]


def _replay(path: Path) -> None:
    for _ in range(2):
        for expert in read_replay_buffers([path]):
            for snapshot in expert:
                torch.cat([tensor.reshape(-1).float() for tensor in snapshot])


def _forgetting(path: Path) -> None:
    scores = ForgettingScores.load(path)
    assert scores.mean.shape == scores.counts.shape[1:]
    assert len(scores.never_learned) == scores.counts.shape[1]


def _state(path: Path) -> None:
    for value in read_state_dict(path).values():
        value.clone()


def _checkpoint(path: Path) -> None:
    load_weights(path, torch.nn.Linear(3, 4))


def _described(path: Path) -> None:
    found = read_described(path)
    if found is not None:
        found.module(torch.zeros(1, 3, found.size, found.size))


_READERS: dict[str, Callable[[Path], object]] = {
    "experts.safetensors": _experts, "replay_buffer_0.pt": _replay, "replay_buffer_1.pt": _replay,
    "forgetting.safetensors": _forgetting, "weights.pt": _state, "old.pt": _state, "weights.safetensors": _state,
    "checkpoint.pt": _checkpoint, "teacher.safetensors": _described,
}  # fmt: skip


def check_source(root: Path) -> None:
    """A folder of classes or an archive of arrays: names, fingerprint, and pictures through a stream."""
    inner = next(iter(sorted(root.glob("*.npz"))), root / "data")
    source = open_source(inner)
    source.fingerprint()
    stream = open_stream("threads", workers=0, device="cpu")
    request = CropRequest((4, 4), 1, IMAGENET)
    for label in range(min(len(source.class_names), 4)):
        count = source.count(label)
        assert count >= 0
        names = [source.sample_id(label, position) for position in range(min(count, 4))]
        assert len(set(names)) == len(names)
        groups = [(label, np.arange(min(count, 4)))]
        for batch in stream.crops(source, groups, request, _whole, batch_images=4):
            assert torch.isfinite(batch.crops).all()


def _whole(label: int, positions: Any, sizes: Any) -> Any:
    return np.concatenate([np.zeros_like(sizes), sizes], 1)[:, None].astype(np.int32)


def check_jpeg(root: Path) -> None:
    """One file through every decoder of the CPU: where two give pixels, they are the same."""
    data = (root / "data/class/a.jpg").read_bytes()
    found: list[np.ndarray] = []
    errors: list[BaseException] = []
    for decode in (decode_image, decode_with_pillow, store_codec.decode_image):
        try:
            found.append(decode(data))
        except ValueError as error:
            errors.append(error)
    for pixels in found:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
    if not errors:
        assert all(np.array_equal(found[0], pixels) for pixels in found[1:]), "decoders differ"
    source = open_source(root / "data")
    for name in ("threads", "torch"):
        stream = open_stream(name, workers=0, device="cpu")
        batches = list(
            stream.crops(source, [(0, np.arange(1))], CropRequest((4, 4), 1, IMAGENET), _whole, batch_images=1)
        )
        assert sum(len(batch.failures) + len(batch.positions) for batch in batches) == 1
        try:
            stream.decode(source, 0, [0])
        except DecodeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def check_run(root: Path) -> None:
    """A run's folder: shown, tried again, tidied, resumed, finished, overwritten."""
    run = root / "run"
    step = int((root / "step").read_text())
    overview = lookout.Lookout(run).look()
    show.describe_overview(overview, tasks=True).encode("utf-8", "backslashreplace")
    show.as_line(overview)
    if step == 0:
        upkeep.clean(run)
    elif step == 1:
        upkeep.retry(run)
    elif step == 2:
        for view in overview.ledgers[0].tasks:
            upkeep.retry(run, view.task)
    elif step == 3:
        with runs.Ledger.resume(run, TASKS, CONFIG, outputs=OUTPUTS, verify=True) as ledger:
            for task in ledger.claims(wait=False):
                with task:
                    task.write_bytes(f"0000{task.id[-1]}/a.bin", task.id.encode())
                    task.complete({"label": int(task.id[-1])})
            ledger.records()
            if ledger.finished():
                ledger.finish(keep_files=bool(len(overview.ledgers) % 2))
    elif step == 4:
        run_folder.clear_folder(run)
        assert not any(run.iterdir())
    else:
        runs.Ledger.create(run, TASKS, CONFIG, overwrite=True, outputs=OUTPUTS).close()


TARGETS: dict[str, Callable[[Path], None]] = {
    "manifest": check_manifest, "set": check_set, "labels": check_labels, "fkd": check_fkd, "buffers": check_buffers,
    "source": check_source, "jpeg": check_jpeg, "run": check_run,
}  # fmt: skip


def warm() -> None:
    """Imports and allocates once what would otherwise count as the first case's."""
    torch.set_num_threads(1)
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)
    torch.nn.Linear(3, 4)(torch.ones(1, 3)).sum().backward()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
