"""Valid folders, made anew in each session, that fuzzers do damage to."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from ddfast._types import Normalization
from ddfast.data.whitening import ZCA
from ddfast.nets.convnet import ConvNet
from ddfast.nets.described import described_bytes
from ddfast.runs import Ledger
from ddfast.store import DistilledSet, LabelStore
from ddfast.train.checkpoint import State, identity, save
from ddfast.train.config import TrainConfig
from ddfast.train.fkd import write_fkd
from ddfast.train.forgetting import FORMAT as FORGETTING
from ddfast.train.relabel import relabel
from ddfast.train.trajectories import TrajectoryStore, write_replay_buffer
from tests.data.known_sets import make_downsampled, make_flat, make_idx, make_svhn
from tests.fuzz.fuzz_targets import CONFIG, OUTPUTS, TASKS, VIEW
from tests.train.label_helpers import teacher, tiny_set
from tests.train.latent_case import stored, tiny_distribution

KNOWN: dict[str, Any] = {
    "method": "rded", "preset": "demo", "config": {"factor": 2, "iterations": 10, "observer": "train:conv3"},
    "source": {"name": "cifar10", "fingerprint": "ab" * 32}, "observer": {"name": "conv3", "weights": "a 12"},
    "seed": 3,
    "normalization": {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}, "stages": [0, 0, 0, 1, 1, 1],
    "stage_lrs": [0.01, 0.02], "stage_momentum": "carried", "formation": {"factor": 2, "kind": "multi", "cap": 8},
    "recipe": {"protocol": "dsa", "dsa": "color_crop", "flip": True, "shift": 1, "scale": [0.5, 1.0],
               "weight_decay": 5e-4},
    "cost": {"steps": 3, "flops": 1e9, "machine": "here"}, "lr": 0.01,
    "soft_labels": {"teacher": "teacher.safetensors"},
    "failures": [{"label": 0, "sample": "a/b.jpg", "reason": "truncated"}],
}  # fmt: skip


def pictures(count: int = 6, side: int = 16) -> torch.Tensor:
    """Smooth pictures uint8 [count, side, side, 3]."""
    ramp = torch.arange(side)
    plane = (ramp[:, None] * 7 + ramp[None] * 5)[None, :, :, None] + torch.arange(3) * 40
    return ((plane + torch.arange(count)[:, None, None, None] * 23) % 256).to(torch.uint8)


def make_set(root: Path, form: str = "folder", lossless: bool = True, known: dict[str, Any] | None = None) -> None:
    """A small set with every key that manifests have."""
    manifest = dict(KNOWN if known is None else known)
    manifest["images"] = [{"cells": [{"sample": "a/1.jpg", "box": [0, 1, 8, 8], "score": "inf"}]}] * 6
    extras = {"soft_logits": torch.ones(6, 3).half(), "lr": torch.tensor(0.1)}
    made = DistilledSet(pictures(), torch.tensor([0, 0, 1, 1, 2, 2]), ("a", "<b>", "ü/.."), manifest, extras)
    made.save(root, format=form, lossless=lossless)


def make_white(root: Path) -> None:
    """A set of whitened images with its whitening."""
    zca = ZCA.fit(pictures(12, 4))
    extras = {"trained_images": zca.apply(pictures(6, 4))}
    known = {**{key: KNOWN[key] for key in ("method", "normalization", "recipe", "lr")}, "space": "zca"}
    known["recipe"] = {"protocol": "dsa", "dsa": "color_flip", "shift": 1}
    made = DistilledSet(pictures(6, 4), torch.tensor([0, 0, 1, 1, 2, 2]), ("a", "b", "c"), known, extras, zca)
    made.save(root, format="safetensors")


def make_d3(root: Path) -> None:
    """A distributional set."""
    stored(tiny_distribution(), "fp16").save(root, format="safetensors")


def make_labels(root: Path) -> None:
    """Labels of views, the two largest of each."""
    relabel(
        tiny_set(), [teacher()], root, view=VIEW, seed=42, epochs=2, batch_size=4, kind="topk", k=2,
        tail_temperature=1.0, order="random_sampler", progress="quiet",
    )  # fmt: skip


def make_fkd(root: Path) -> None:
    """Labels in the FKD layout."""
    store = relabel(
        tiny_set(), [teacher()], root / "labels", view=VIEW, seed=42, epochs=1, batch_size=4, kind="fp16",
        order="random_sampler", progress="quiet",
    )  # fmt: skip
    assert isinstance(store, LabelStore)
    write_fkd(store, root)


def make_buffers(root: Path) -> None:
    """Experts, replay buffers (of the zip format and the one before), scores, checkpoints and a classifier."""
    root.mkdir()
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 4)
    experts = TrajectoryStore.create(root / "experts.safetensors", 2, 2, 16, {"net": {"width": 4}, "seed": 1})
    for epoch in range(3):
        experts.write(0, epoch, torch.full((16,), float(epoch)))
    snapshots = [[[p.detach() + e for p in net.parameters()] for e in range(3)] for _ in range(2)]
    write_replay_buffer(root / "replay_buffer_0.pt", snapshots)
    torch.save(snapshots, root / "replay_buffer_1.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, root / "weights.pt")
    torch.save(net.state_dict(), root / "old.pt", _use_new_zipfile_serialization=False)
    save_file(dict(net.state_dict()), root / "weights.safetensors")
    counts, learned = torch.ones(2, 5, dtype=torch.int16), torch.ones(2, 5, dtype=torch.uint8)
    info = f'{{"format": "{FORGETTING}", "experts": {{"pictures": "ab"}}, "epochs": 3}}'
    save_file({"counts": counts, "learned": learned}, root / "forgetting.safetensors", {"ddfast": info})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    config = TrainConfig(epochs=2)
    save(root / "checkpoint.pt", identity(net, 4, config, {}), net, optimizer, None, State(1, [0.5], [], 1.0))
    classifier = described_bytes(
        [ConvNet(2, 3, 8, width=5, norm="instance")], norm="instance", size=8,
        normalization=Normalization((0.4,) * 3, (0.2,) * 3), class_names=("a", "b", "c"),
    )  # fmt: skip
    (root / "teacher.safetensors").write_bytes(classifier)


def make_classes(root: Path) -> None:
    """Class folders, one of them nested."""
    for name, form in (("ant", "JPEG"), ("bee", "PNG"), ("c\u00e4t/deep", "JPEG")):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for index, picture in enumerate(pictures(2, 12).numpy()):
            Image.fromarray(picture).save(folder / f"{index}.{'png' if form == 'PNG' else 'jpg'}", form)


def make_tiny(root: Path) -> None:
    """Tiny-ImageNet's layout of the validation part."""
    images = root / "data/images"
    images.mkdir(parents=True)
    for index, picture in enumerate(pictures(3, 12).numpy()):
        Image.fromarray(picture).save(images / f"val_{index}.JPEG")
    (root / "data/val_annotations.txt").write_text("val_0.JPEG\tn1\t0\t0\nval_1.JPEG\tn2\t0\t0\nval_2.JPEG\tn1\t0\t0\n")


def make_npz(root: Path, packed: bool = False) -> None:
    """Arrays in an archive."""
    root.mkdir()
    write = np.savez_compressed if packed else np.savez
    write(
        root / "set.npz", images=pictures(6, 8).numpy(), labels=np.arange(6) % 3, class_names=np.array(["a", "b", "c"])
    )


def make_validation(root: Path) -> None:
    """ImageNet's validation pictures in one folder."""
    make_flat(root, root)
    (root / "val").rename(root / "data")


def ignored(_: object) -> None:
    """For makers that return what they made."""


def make_run(root: Path, stage: int = 1) -> None:
    """A run with a task done, one given back and one untouched, or finished; with a ledger below."""
    root.mkdir()
    for name in ("run", "run/experts"):
        with Ledger.create(root / "new", TASKS, CONFIG, outputs=OUTPUTS) as ledger:
            for index, task in enumerate(ledger.claims(wait=False)):
                if stage == 1 and index == 1:
                    task.release()
                    break
                with task:
                    task.write_bytes(f"0000{task.id[-1]}/a.bin", task.id.encode())
                    task.complete({"label": index})
            if ledger.finished():
                ledger.finish()
        (root / "new").rename(root / name)
    if stage == 1:
        failure = (
            '{"task": "task-00001", "attempt": 0, "error": "E", "where": "x", "owner": "o", "when": 1.0, "seconds": 2}'
        )
        (root / "run/tasks/task-00001.failed-0.json").write_text(failure)


def jpegs() -> dict[str, bytes]:
    """Files of every kind that JPEG knows and Pillow writes."""
    picture = Image.fromarray(pictures(1, 40)[0].numpy())
    exif = Image.Exif()
    exif[0x0112] = 6
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain": (picture, {}), "full": (picture, {"subsampling": 0}), "narrow": (picture, {"subsampling": 1}),
        "progressive": (picture, {"progressive": True}), "restarts": (picture, {"restart_marker_blocks": 2}),
        "grey": (picture.convert("L"), {}), "cmyk": (picture.convert("CMYK"), {}),
        "exif": (picture, {"exif": exif.tobytes()}), "keep": (picture, {"keep_rgb": True, "subsampling": 0}),
        "optimised": (picture, {"optimize": True, "quality": 30}), "comment": (picture, {"comment": b"x" * 300}),
    }  # fmt: skip
    return {name: _encoded(*form) for name, form in forms.items()}


def _encoded(picture: Image.Image, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def make_jpeg(root: Path, kind: str) -> None:
    """A class folder with one JPEG."""
    (root / "data/class").mkdir(parents=True)
    (root / "data/class/a.jpg").write_bytes(jpegs()[kind])


SEEDS: dict[str, Callable[[Path], None]] = {
    "folder": make_set,
    "jpeg-folder": lambda root: make_set(root, lossless=False),
    "safetensors": lambda root: make_set(root, form="safetensors"),
    "white": make_white,
    "d3": make_d3,
    "labels": make_labels,
    "fkd": make_fkd,
    "buffers": make_buffers,
    "classes": make_classes,
    "tiny": make_tiny,
    "npz": make_npz,
    "npz-packed": lambda root: make_npz(root, packed=True),
    "mnist": lambda root: ignored(make_idx(root / "data")),
    "mnist-packed": lambda root: ignored(make_idx(root / "data", packed=True)),
    "svhn": lambda root: ignored(make_svhn(root / "data", packed=False)),
    "svhn-packed": lambda root: ignored(make_svhn(root / "data")),
    "downsampled": lambda root: ignored(make_downsampled(root / "data", side=2)),
    "flat": make_validation,
    "run": make_run,
    "run-finished": lambda root: make_run(root, stage=2),
    **{f"jpeg-{kind}": (lambda root, kind=kind: make_jpeg(root, kind)) for kind in sorted(jpegs())},
}
