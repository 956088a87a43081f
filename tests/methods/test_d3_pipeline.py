"""D3 from start to finish: blocks on their own, restarts, several machines, and what does not fit."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import ddfast
from ddfast.cli import main
from ddfast.methods._options import RunOptions
from ddfast.methods.d3 import D3Config
from ddfast.methods.d3.block import distil_block
from ddfast.methods.d3.stored_block import BLOCK_FILE
from ddfast.runs import RunError
from tests.methods.d3_case import POINTS, TINY, arrays, contents, d3, killed, made, source

OPTIONS = RunOptions(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two blocks."""
    out = tmp_path_factory.mktemp("d3") / "whole"
    d3(out)
    return out


def processes() -> ForkServerContext:
    """Starts processes that have imported already what a run takes seconds to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.methods.d3_case", "torch._dynamo"])
    return context


def test_blocks_are_those_that_are_distilled_alone(whole: Path, tmp_path: Path) -> None:
    found = ddfast.load(whole)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    for number, classes in enumerate(((0, 1, 2), (3, 4, 5))):
        config = D3Config(**TINY)
        alone = distil_block(source(), classes, config, tmp_path / str(number), OPTIONS, block=number)
        assert torch.equal(found.extras[f"latents.{number}"], alone.latents.latents)
        for name, value in alone.latents.decoder.state_dict().items():
            assert torch.equal(found.extras[f"decoder.{number}.{name}"], value)
        assert found.manifest["block_tests"][number] == alone.tests
        assert found.manifest["blocks"][number] == list(classes)


def test_killed_runs_end_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    context, out = processes(), tmp_path / "killed"
    for point in POINTS:
        process = context.Process(target=killed, args=(str(out), point))
        process.start()
        process.join(300)
        assert process.exitcode == -9, f"did not come to {point}"
    with pytest.raises(RunError, match="resume"):
        d3(out)
    d3(out, resume=True)
    assert contents(out) == contents(whole)


def test_parts_made_elsewhere_are_merged(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    d3(here, only_blocks="1", quiet=False)
    assert "block 0 (ant, bee, cat, ...) is missing still" in capsys.readouterr().err
    assert not (here / "manifest.json").exists()
    assert not (here / "teacher.safetensors").exists()
    with pytest.raises(RunError, match=r"cannot merge, block 0 \(ant, bee, cat, ...\) is missing"):
        d3(here, only_blocks="none", resume=True)
    d3(there, only_blocks="0")
    shutil.copytree(there / "blocks/0", here / "blocks/0")
    d3(here, only_blocks="none", resume=True)
    assert contents(here) == contents(whole)


def test_two_processes_take_a_block_each(whole: Path, tmp_path: Path) -> None:
    context, out = processes(), tmp_path / "shared"
    two = [context.Process(target=d3, args=(out,), kwargs={"resume": True}) for _ in range(2)]
    for process in two:
        process.start()
    for process in two:
        process.join(300)
    assert [process.exitcode for process in two] == [0, 0]
    assert contents(out) == contents(whole)


def test_confused_classes_share_a_block(tmp_path: Path) -> None:
    found = made(tmp_path / "out", split="confusion", iterations=2, label_epoch=12, soft_labels="none")
    blocks = json.loads((tmp_path / "out/split.json").read_text())["blocks"]
    assert found.manifest["blocks"] == blocks
    assert sorted(label for block in blocks for label in block) == list(range(6))
    assert found.labels.tolist() == [label for block in blocks for label in block for _ in range(2)]
    assert "soft_logits" not in found.extras
    listed = tmp_path / "listed"
    d3(listed, split=str(tmp_path / "out/split.json"), blocks=1, iterations=2, only_blocks="1")
    there, here = (load_file(folder / "blocks/1" / BLOCK_FILE) for folder in (tmp_path / "out", listed))
    assert torch.equal(there["latents.0"], here["latents.0"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "0-2/4,5", "blocks": 1}, r"no block has class 3 \(dog\)"),
        ({"split": "0-3/3-5", "blocks": 1}, r"class 3 \(dog\) is in block 1 and in block 0"),
        ({"split": "0-2/3-5", "blocks": 3}, "blocks: got 3, but split lists 2"),
        ({"blocks": 4}, "blocks: got 4 for 6 classes, expected at most 3"),
        ({"only_blocks": "1,2"}, "only_blocks: got 2, expected 0 to 1"),
        ({"given": source(classes=1), "blocks": 1}, "stripes has 1 class, but d3 needs 2 or more"),
        ({"depth": 5}, "^size: got 16 for depth 5, expected at least 32, or a smaller depth$"),
        ({"label_buffers": "nowhere"}, "label_buffers: no folder nowhere"),
        ({"observer": torch.nn.Identity()}, "d3 has none"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        d3(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_command_line_runs_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "stripes.npz", images=images, labels=labels)
    options = {**TINY, "iterations": 1, "test": "none", "only_blocks": "0,1", "device": "cpu"}
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = ["distill", "d3", "--data", str(tmp_path / "stripes.npz"), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--only-blocks", "1"]) == 0
    said = capsys.readouterr()
    assert "block 0" in said.err
    assert said.out == ""
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.startswith(f"12 images in {tmp_path / 'out'}")
    assert main([*command, "--resume", "--only-blocks", "7"]) == 1
    assert "only_blocks: got 7, expected 0 to 1" in capsys.readouterr().err


def nan(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["latents.0"][3, 1, 0] = float("nan")


def resolution(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    about["distribution"]["blocks"][0]["decoder"]["size"] = 32


def other_seed(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    about["settings"]["config"]["seed"] = 5


def other_place(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    about["block"], about["classes"] = 0, [0, 1, 2]


def no_decoder(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["decoder.0.head.bias"]


def test_bad_blocks_are_named(whole: Path, tmp_path: Path) -> None:
    d3(tmp_path / "out", only_blocks="0")
    path, sound = tmp_path / "out/blocks/1" / BLOCK_FILE, whole / "blocks/1" / BLOCK_FILE
    path.parent.mkdir()
    cases: list[tuple[Any, type[Exception], str]] = [
        (nan, ValueError, r"blocks/1/block.safetensors: latents.0: holds NaN"),
        (resolution, ValueError, r"blocks/1/block.safetensors: .*pictures of 32 pixels, the set's have \[16, 16\]"),
        (no_decoder, ValueError, r"blocks/1/block.safetensors: .*decoder.0.head.bias: missing"),
        (other_seed, RunError, "(?s)blocks/1/block.safetensors: .*other settings.*seed: the run has 5, you ask for 0"),
        (other_place, RunError, "holds block 0 of classes 0, 1, 2, expected block 1 of 3, 4, 5"),
    ]
    for change, kind, message in cases:
        tensors = load_file(sound)
        with safe_open(str(sound), "pt") as content:
            about = json.loads(content.metadata()["ddfast"])
        change(about, tensors)
        save_file(tensors, path, {"ddfast": json.dumps(about)})
        with pytest.raises(kind, match=message):
            d3(tmp_path / "out", resume=True)
    path.write_bytes(sound.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"block.safetensors: is damaged"):
        d3(tmp_path / "out", resume=True)
    path.write_bytes(sound.read_bytes())
    d3(tmp_path / "out", resume=True)
    assert (tmp_path / "out/images.safetensors").read_bytes() == (whole / "images.safetensors").read_bytes()
