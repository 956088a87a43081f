"""What ddfast writes is read in a process that cannot import ddfast, and what others write is read by ddfast."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddfast._types import IMAGENET
from ddfast.store import DistilledSet
from ddfast.train.augment import render
from ddfast.train.fkd import FKDLabels, write_fkd
from ddfast.train.relabel import relabel
from ddfast.train.replay import Replay
from ddfast.train.views import ViewConfig
from tests.train.label_helpers import teacher, tiny_set

VIEW = ViewConfig((12, 12), scale=(0.3, 1.0), flip=True, mix="cutmix")
# Runs scripts that come in, one a line, with their arguments: one start of torch for all of them
OUTSIDE = """
import json, sys, traceback
sys.modules["ddfast"] = None  # importing it fails
for line in sys.stdin:
    code, arguments = json.loads(line)
    names = {"arguments": arguments, "result": None}
    try:
        exec(code, names)
        print(json.dumps([names["result"], None]), flush=True)
    except Exception:
        print(json.dumps([None, traceback.format_exc()]), flush=True)
"""

# As the training script of SRe2L goes through an epoch's files, with a sampler of seed 42
READS_FKD = """
import pathlib, torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import v2
folder, images, out = arguments
images = load_file(images)["images"].permute(0, 3, 1, 2).float() / 255
sampler = torch.utils.data.RandomSampler(images, generator=torch.Generator().manual_seed(42))
made = {}
for epoch in range(2):
    order = list(sampler)
    for step, rows in enumerate(order[at : at + 4] for at in range(0, len(order), 4)):
        file = pathlib.Path(folder) / f"epoch_{epoch}" / f"batch_{step}.tar"
        coords, flip, mix_index, mix_lam, mix_bbox, logits = torch.load(file, weights_only=True)
        views = []
        for row, (i, j, h, w), mirrored in zip(rows, coords, flip):
            box = [round(float(side) * 12) for side in (i, j, h, w)]
            view = v2.functional.resized_crop(images[row], *box, [12, 12], antialias=True)
            views.append(v2.functional.horizontal_flip(view) if mirrored else view)
        views = v2.functional.normalize(torch.stack(views), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        a, b, c, d = mix_bbox
        mixed = views.clone()
        mixed[:, :, a:c, b:d] = views[mix_index][:, :, a:c, b:d]
        made |= {f"{epoch}/{step}/views": mixed, f"{epoch}/{step}/logits": logits}
save_file(made, out)
"""
# As its relabelling script writes them: numpy's numbers in the mixing, columns of coordinates, half-precision logits
WRITES_FKD = """
import pathlib, numpy, torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import RandomResizedCrop, v2
images, folder, truth = arguments
images = load_file(images)["images"].permute(0, 3, 1, 2).float() / 255
torch.manual_seed(0)
numpy.random.seed(0)
rows = torch.randperm(10)[:6]
boxes = [RandomResizedCrop.get_params(images[r], [0.3, 1.0], [0.75, 1.33]) for r in rows]
flip = [bool(torch.rand(1) < 0.5) for _ in rows]
views = [v2.functional.resized_crop(images[r], *box, [12, 12], antialias=True) for r, box in zip(rows, boxes)]
views = torch.stack([view.flip(2) if mirrored else view for view, mirrored in zip(views, flip)])
views = v2.functional.normalize(views, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
partner, lam = torch.randperm(6), numpy.random.beta(1.0, 1.0)
cut, cx, cy = int(12 * numpy.sqrt(1.0 - lam)), numpy.random.randint(12), numpy.random.randint(12)
a, c = numpy.clip(cx - cut // 2, 0, 12), numpy.clip(cx + cut // 2, 0, 12)
b, d = numpy.clip(cy - cut // 2, 0, 12), numpy.clip(cy + cut // 2, 0, 12)
mixed = views.clone()
mixed[:, :, a:c, b:d] = views[partner][:, :, a:c, b:d]
coords = [torch.tensor([side / 12 for side in column], dtype=torch.float64) for column in zip(*boxes)]
target = pathlib.Path(folder) / "FKD_cutmix_fp16" / "epoch_0"
target.mkdir(parents=True)
torch.save([coords, torch.tensor(flip), partner, lam, [a, b, c, d], mixed.mean((2, 3)).half()], target / "batch_0.tar")
save_file({"rows": rows, "views": mixed}, truth)
"""


Outside = Callable[..., Any]


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    """Runs a script with paths as ``arguments`` in a process without ddfast; returns its ``result``."""
    with subprocess.Popen([sys.executable, "-c", OUTSIDE], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(code: str, *arguments: Path) -> Any:
            print(json.dumps([code, [str(path) for path in arguments]]), file=process.stdin, flush=True)
            result, failure = json.loads(process.stdout.readline())
            assert failure is None, failure
            return result

        yield run
        process.stdin.close()


def test_safetensors_need_no_ddfast(outside: Outside, tmp_path: Path) -> None:
    one = tiny_set()
    one.extras["soft_logits"] = torch.randn(10, 3)
    one.save(tmp_path / "set", format="safetensors")
    code = """
import json, pathlib
from safetensors.torch import load_file
folder = pathlib.Path(arguments[0])
tensors, manifest = load_file(folder / "images.safetensors"), json.loads((folder / "manifest.json").read_text())
names = {name: [*tensor.shape, str(tensor.dtype)] for name, tensor in tensors.items()}
result = names, tensors["images"].sum().item(), tensors["labels"].tolist(), manifest["class_names"]
"""
    names, total, labels, classes = outside(code, tmp_path / "set")
    assert names == {
        "images": [10, 12, 12, 3, "torch.uint8"],
        "labels": [10, "torch.int64"],
        "soft_logits": [10, 3, "torch.float32"],
    }
    assert (total, labels, tuple(classes)) == (one.images.sum().item(), one.labels.tolist(), one.class_names)


def test_the_block_is_one(outside: Outside) -> None:
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        outside("import ddfast")


def test_fkd_files_train_plain_torch(outside: Outside, tmp_path: Path) -> None:
    one = tiny_set()
    store = relabel(
        one, [teacher()], tmp_path / "labels", view=VIEW, seed=42, epochs=2, batch_size=4, order="random_sampler",
        progress="quiet",
    )  # fmt: skip
    folder = write_fkd(store, tmp_path)
    save_file({"images": one.images}, tmp_path / "images")
    outside(READS_FKD, folder, tmp_path / "images", tmp_path / "read")
    read = load_file(tmp_path / "read")
    assert len(read) == 2 * 2 * 3
    replay = Replay.from_fingerprint(store.fingerprint, len(one))
    for epoch in range(2):
        for step in range(3):
            ours = render(one.images, replay.views(epoch, step), VIEW, IMAGENET)
            theirs = read[f"{epoch}/{step}/views"]
            torch.testing.assert_close(ours.contiguous(), theirs, rtol=0, atol=1e-5)
            logits = read[f"{epoch}/{step}/logits"]
            assert logits.dtype == torch.float16
            torch.testing.assert_close(teacher().module(theirs), logits.float(), rtol=2e-3, atol=2e-3)


def test_fkd_files_of_others_are_read(outside: Outside, tmp_path: Path) -> None:
    one = tiny_set()
    save_file({"images": one.images}, tmp_path / "images")
    outside(WRITES_FKD, tmp_path / "images", tmp_path, tmp_path / "truth")
    truth = load_file(tmp_path / "truth")
    batch = FKDLabels(tmp_path).batch(0, 0)
    views = render(one.images, batch.views(truth["rows"], (12, 12)), VIEW, IMAGENET)
    torch.testing.assert_close(views.contiguous(), truth["views"], rtol=0, atol=1e-5)
    torch.testing.assert_close(views.mean((2, 3)), batch.logits.float(), rtol=2e-3, atol=2e-3)


def test_mtt_tensors_train_plain_torch(outside: Outside, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=generator)
    floats = torch.randn(6, 3, 8, 8, generator=generator)
    one = DistilledSet(images, torch.tensor([2, 0, 1, 1, 0, 2]), ("a", "b", "c"), {"space": "normalized"})
    one.extras = {"trained_images": floats, "lr": torch.tensor([0.05])}
    one.export("mtt", tmp_path / "out")
    # As MTT's evaluation takes them: classes repeated by ipc, a rate as a number, gradients in the images
    code = """
import pathlib, torch
folder, ipc = pathlib.Path(arguments[0]), 2
images, labels, lr = (torch.load(folder / f"{name}_best.pt", weights_only=True) for name in ("images", "labels", "lr"))
assert torch.equal(labels, torch.arange(3).repeat_interleave(ipc)) and labels.dtype == torch.int64
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=lr.item(), momentum=0.9, weight_decay=0.0005)
images = images.detach().requires_grad_(True)
torch.nn.functional.cross_entropy(net(images), labels).backward()
optimizer.step()
result = str(images.dtype), images.is_contiguous(), lr.item(), images.grad.abs().sum().item() > 0
"""
    assert outside(code, tmp_path / "out") == ["torch.float32", True, pytest.approx(0.05), True]
