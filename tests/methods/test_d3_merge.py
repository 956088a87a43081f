"""What a merged D3 set holds: decoded means, stored numbers, soft labels, scores, cost, pictures."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import ddfast
from ddfast._types import IMAGENET
from ddfast.evaluation.cost import forward_flops
from ddfast.evaluation.teacher import find_teacher
from ddfast.methods._options import RunOptions
from ddfast.methods.d3 import D3Config, merge
from ddfast.methods.d3.cost import forward_macs, run_cost
from ddfast.methods.d3.labels import confusion, make_teacher, soft_logits, whole_problem
from ddfast.methods.d3.stored_block import StoredBlock
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError
from ddfast.train.latent.distribution import Distribution
from ddfast.train.trajectories import TrajectoryStore
from tests.methods.d3_case import TINY, d3, source

NET = FlatConvNet(6, 16, depth=2, width=8)
FIRST = {**TINY, "label_experts": 2, "iterations": 2, "storage": "int8", "eval_epochs": 20}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d3") / "out"
    d3(folder, **FIRST)
    return folder


def test_images_and_labels_are_of_the_numbers_that_are_stored(out: Path) -> None:
    found = ddfast.load(out)
    distribution = Distribution.of(found)
    assert distribution is not None
    assert found.extras["latents.1"].dtype == torch.int8
    means = distribution.means()
    low, high = (means.flatten(1).min(1).values, means.flatten(1).max(1).values)
    assert bool((high - low > 0.1).all())
    pixels = means.permute(0, 2, 3, 1) * torch.tensor(IMAGENET.std) + torch.tensor(IMAGENET.mean)
    assert (found.images - pixels.clamp(0, 1) * 255).abs().max() <= 0.5 + 1e-3
    assert found.extras["soft_logits"].dtype == torch.float16
    experts = TrajectoryStore.open(out / "teacher/experts")
    chances = [NET.logits(experts.snapshot(k, 2).double(), means.double()).softmax(1) for k in range(2)]
    expected = torch.stack(chances).mean(0)
    torch.testing.assert_close(found.extras["soft_logits"].double().exp(), expected, rtol=4e-3, atol=1e-5)
    torch.testing.assert_close(
        found.extras["soft_logits"].double().exp().sum(1), torch.ones(12).double(), rtol=0, atol=5e-3
    )


def test_controls_get_the_same_labels_from_the_teacher_file(out: Path) -> None:
    found = ddfast.load(out)
    teacher, _ = find_teacher(str(out / "teacher.safetensors"), None, found, None)
    distribution = Distribution.of(found)
    assert teacher is not None
    assert distribution is not None
    assert teacher.normalization == found.normalization == IMAGENET
    with torch.no_grad():
        again = teacher(distribution.means())
    torch.testing.assert_close(again.half(), found.extras["soft_logits"], rtol=2e-3, atol=2e-3)


def test_scores_cost_and_pictures(out: Path) -> None:
    manifest = ddfast.load(out).manifest
    scores = manifest["scores"]
    assert [block["own"] for block in scores["blocks"]] == [tests[-1]["top1"] for tests in manifest["block_tests"]]
    # as many pictures of each block are held out
    assert scores["whole"] == pytest.approx(sum(block["whole"] for block in scores["blocks"]) / 2)
    assert scores["whole"] > 0
    cost = manifest["cost"]
    expert = cost["blocks"][0]["experts"]
    assert expert["pictures"] == 2 * 30  # two epochs of three classes with ten pictures beside two held out
    assert expert["steps"] == 2 * 2
    small, decoding = FlatConvNet(3, 16, depth=2, width=8), D3Config(**FIRST).decoder_config().macs
    assert expert["flops"] == 60 * 3 * forward_flops(small.module(torch.zeros(small.size)), 16)
    matching = cost["blocks"][1]["distillation"]
    assert matching["pictures"] == 2 * (2 * 6 + 2 * 2 * 6)
    macs = 12 * (9 * forward_macs(small) + 3 * decoding) + 12 * (3 * forward_macs(small) + 3 * decoding)
    assert matching["flops"] == 2 * 2 * macs
    assert cost["label_experts"]["pictures"] == 2 * 2 * 60
    parts = [cost["label_experts"], *(part for block in cost["blocks"] for part in block.values())]
    assert cost["flops"] == sum(part["flops"] for part in parts)
    for name, at_least in (("means.png", 3 * 16), ("samples.png", 10 * 16), ("interpolation.png", 8 * 16)):
        picture = Image.open(io.BytesIO((out / name).read_bytes()))
        assert min(picture.size) >= at_least
        assert len(set(picture.convert("L").get_flattened_data())) > 50, f"{name} is blank"


def test_means_alone_are_decoded_once_an_iteration() -> None:
    config = D3Config(**{**TINY, "sampling": False, "mmd_samples": 6})  # six real pictures of a class, two means
    problem = whole_problem(source(), config, RunOptions(device="cpu"))
    cost = run_cost(problem, config, ((0, 1, 2), (3, 4, 5)))["blocks"][0]["distillation"]
    assert cost["pictures"] == 4 * (2 * 6 + 6 + 3 * 6)
    net, decoding = forward_macs(FlatConvNet(3, 16, depth=2, width=8)), config.decoder_config().macs
    assert cost["flops"] == 2 * 4 * (12 * (9 * net + 3 * decoding) + 6 * (2 * net + 3 * decoding) + 18 * net)


def test_a_student_that_diverged_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    config = D3Config(**TINY)
    problem = whole_problem(source(), config, RunOptions(device="cpu"))
    parts: Any = [StoredBlock(None, {"tests": [{"iteration": 4, "top1": top1}]}) for top1 in (0.5, 0.75)]  # type: ignore[arg-type]
    unused: Any = None
    monkeypatch.setattr(merge, "_predictions", lambda *_: None)
    found = merge._scores(problem, config, ((0, 1, 2), (3, 4, 5)), parts, unused, None)
    assert found == {"blocks": [{"own": 0.5, "whole": None}, {"own": 0.75, "whole": None}], "whole": None}


def test_every_part_of_the_run_is_timed(out: Path) -> None:
    parts = json.loads((out / "timings.json").read_text())["parts"]
    named = {(each["section"], each["part"]) for each in parts if each["wall"] > 0}
    assert {(f"block {k}", part) for k in (0, 1) for part in ("experts", "matching", "tests")} <= named
    assert {("", "experts of all classes"), ("", "merging")} <= named


def test_confusion_is_the_mean_prediction_of_held_out_pictures() -> None:
    problem = whole_problem(source(), D3Config(**TINY), RunOptions(device="cpu"))
    theta = NET.init(torch.Generator().manual_seed(0))
    net = NET.module(theta)
    found = torch.from_numpy(confusion(net, problem))
    for label in range(6):
        rows = problem.test[problem.test_labels == label]
        mean = F.softmax(NET.logits(theta.double(), rows.double()), 1).mean(0)
        torch.testing.assert_close(found[label], mean, rtol=1e-5, atol=1e-6)
    assert soft_logits(net, problem.test[:0]).shape == (0, 6)


def test_experts_of_all_classes_may_be_given(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "teacher/experts", tmp_path / "experts")
    again = tmp_path / "again"
    d3(again, **{**FIRST, "label_buffers": str(tmp_path / "experts")})
    assert (again / "teacher.safetensors").read_bytes() == (out / "teacher.safetensors").read_bytes()
    assert torch.equal(ddfast.load(again).extras["soft_logits"], ddfast.load(out).extras["soft_logits"])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"label_buffers": "blocks/0/experts"},
            RunError,
            "experts of .*'num_classes': 3.*, expected .*'num_classes': 6",
        ),
        ({"seed": 1}, ValueError, "label_buffers: .* holds experts of other pictures"),
        ({"label_experts": 3}, ValueError, "holds 2 experts of 2 epochs, expected label_experts 3 of label_epoch 2"),
        ({"label_epoch": 3}, ValueError, "holds 2 experts of 2 epochs, expected label_experts 2 of label_epoch 3"),
        ({"label_buffers": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_experts_of_another_task_are_refused(
    out: Path, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    folder = out / changes.pop("label_buffers", "teacher/experts")
    config = D3Config(**{**FIRST, **changes, "label_buffers": str(folder)})
    options = RunOptions(device="cpu", quiet=True)
    before = hashlib.sha256((out / "teacher/experts/experts.safetensors").read_bytes()).digest()
    with pytest.raises(kind, match=message):
        make_teacher(whole_problem(source(), config, options), config, options, tmp_path)
    assert hashlib.sha256((out / "teacher/experts/experts.safetensors").read_bytes()).digest() == before
