"""What is refused before there is a run folder, and messages that name the argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddfast
from ddfast.cli import main
from ddfast.data.arrays import ArraySource
from ddfast.runs import RunError
from tests.methods.matching_case import source


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("method", ["dm", "pdd", "coreset"])
def test_a_device_that_is_not_there(tmp_path: Path, method: str) -> None:
    with pytest.raises(ValueError, match=r"device: got 'cuda', but PyTorch sees no CUDA device"):
        ddfast.distill(method, source(), out=tmp_path / "out", device="cuda", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("dm", {"ipc": "a"}, "ipc: got 'a', expected a whole number"),
        ("mtt", {"ipc": 2.0}, "ipc: got 2.0, expected a whole number"),
        ("idc", {"lr_img": "fast"}, "lr_img: got 'fast', expected a number"),
        ("mtt", {"zca": 1}, "zca: got 1, expected True or False"),
        ("mtt", {"dsa": 3}, "dsa: got 3, expected text"),
        ("rded", {"ipc": "a"}, "ipc: got 'a', expected a whole number"),
        ("dsa", {"workers": "two"}, "workers: got 'two', expected a whole number"),
        ("rded", {"scale": 0.5}, "scale: got 0.5, expected 2 numbers"),
    ],
)
def test_a_value_of_another_type(tmp_path: Path, method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        ddfast.distill(method, source(), out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_ranges_are_taken() -> None:
    rded = ddfast.methods.get_method("rded")
    assert rded.configure(None, scale=(0.5, 1.0)).scale == (0.5, 1.0)
    assert rded.configure(None, scale=[0.5, np.float32(1)]).scale == [0.5, 1.0]
    with pytest.raises(TypeError, match=r"^scale: got \(0.5, 'all'\), expected 2 numbers$"):
        rded.configure(None, scale=(0.5, "all"))


def test_numbers_of_numpy_are_numbers() -> None:
    config = ddfast.methods.get_method("mtt").configure(None, ipc=np.int64(3), lr_img=np.float32(2), batch_syn=None)
    assert (config.ipc, config.lr_img, config.batch_syn) == (3, 2.0, None)


def test_messages_name_source_and_out(tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"^source \(--data\): .*nowhere"):
        ddfast.distill("dm", tmp_path / "nowhere", out=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"^out: .*is not empty"):
        ddfast.distill("dm", source(), out=tmp_path)
    with pytest.raises(RunError, match=r"^out: .*is a file"):
        ddfast.distill("dm", source(), out=tmp_path / "notes.txt")


@pytest.mark.parametrize("method", ["mtt", "dc", "dsa", "idc", "pdd"])
def test_one_class_is_refused_where_gradients_are_matched(tmp_path: Path, method: str) -> None:
    one = ArraySource(np.zeros((8, 8, 8, 3), dtype=np.uint8), np.zeros(8, dtype=np.int64), ("only",))
    with pytest.raises(ValueError, match=rf"^source \(--data\): arrays has 1 class, but {method} needs 2 or more"):
        ddfast.distill(method, one, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["mtt", "dc", "dsa", "dm", "idc", "pdd", "d3"])
def test_pictures_too_small_for_the_network_leave_no_folder(tmp_path: Path, method: str) -> None:
    given: dict[str, Any] = {"size": 8, "depth": 4}
    given = {"base": "dm", "base_option": given} if method == "pdd" else given
    message = "^size: got 8 for depth 4, expected at least 16, or a smaller depth$"
    if method == "d3":
        given, message = {"size": 16, "depth": 5}, "^size: got 16 for depth 5, expected at least 32"
    with pytest.raises(ValueError, match=message):
        ddfast.distill(method, source(), out=tmp_path / "out", device="cpu", quiet=True, **given)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"^size: got 8 for ResNet-AP, expected at least 16$"):
        ddfast.distill("idc", source(), out=tmp_path / "out", device="cpu", quiet=True, size=8,
                       architecture="resnetap10")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_help_lists_what_a_method_uses(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {}
    for method in ("dm", "pdd", "coreset", "rded"):
        with pytest.raises(SystemExit):
            main(["distill", method, "--help"])
        text = capsys.readouterr().out
        listed[method] = {
            name for name in ("--engine", "--constant-frame-skip", "--stream", "--device") if name in text
        }
    assert listed["dm"] == listed["pdd"] == {"--device"}
    assert listed["coreset"] == {"--stream", "--device"}
    assert len(listed["rded"]) == 4
