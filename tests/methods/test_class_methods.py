"""DC, DSA and DM as methods: runs and restarts, presets, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddfast
from ddfast.data.arrays import ArraySource
from ddfast.methods import get_method
from ddfast.runs import RunError
from ddfast.train.matching.images import ImageMatcher

METHODS = ("dc", "dsa", "dm")
SETTINGS: dict[str, Any] = {
    "ipc": 2, "size": 8, "depth": 2, "width": 16, "iterations": 4, "batch_real": 6, "eval_every": 2,
    "eval_students": 1, "eval_epochs": 3, "quiet": True,
}  # fmt: skip


def source(each: int = 12) -> ArraySource:
    rng = np.random.default_rng(0)
    labels = np.arange(3 * each) % 3
    images = rng.normal(110, 40, (3 * each, 8, 8, 3))
    images[np.arange(3 * each), :, :, labels] += 60
    return ArraySource(images.clip(0, 255).astype(np.uint8), labels, ("red", "green", "blue"), name="colours")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_in_the_same_set(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ddfast.distill(method, source(), out=tmp_path / "whole", **SETTINGS)
    advance = ImageMatcher.advance

    def interrupted(self: ImageMatcher) -> float:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(ImageMatcher, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ddfast.distill(method, source(), out=tmp_path / "part", **SETTINGS)
    resumed = ddfast.distill(method, source(), out=tmp_path / "part", **SETTINGS, resume=True)
    assert torch.equal(resumed.extras["trained_images"], whole.extras["trained_images"])
    assert resumed.manifest["losses"] == whole.manifest["losses"]
    assert len(whole.manifest["losses"]) == 4
    assert [test["iteration"] for test in whole.manifest["tests"]] == [2, 4]
    assert whole.images.shape == (6, 8, 8, 3)
    assert whole.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert whole.manifest["recipe"]["lr"] == 0.01


def test_other_settings_do_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    ddfast.distill("dm", source(), out=tmp_path, **SETTINGS)
    with pytest.raises(RunError):
        ddfast.distill("dm", source(), out=tmp_path, **{**SETTINGS, "batch_real": 7}, resume=True)


def test_dc_begins_with_noise_and_dsa_with_pictures() -> None:
    dc, dsa = (get_method(name).configure("cifar10-ipc10") for name in ("dc", "dsa"))
    assert (dc.init, dc.dsa, dc.eval_epochs) == ("noise", "", 300)
    assert (dsa.init, dsa.eval_epochs) == ("real", 1000)
    assert "flip" in dsa.dsa
    assert "flip" not in get_method("dsa").configure("mnist-ipc1").dsa


@pytest.mark.parametrize("method", METHODS)
def test_presets_are_valid_and_smoke_is_among_them(method: str) -> None:
    found = get_method(method)
    assert {"smoke", "cifar10-ipc1", "cifar10-ipc10", "cifar10-ipc50", "cifar100-ipc10", "mnist-ipc10"} <= set(
        found.presets
    )
    for name in found.presets:
        config = found.configure(name)
        assert config.preset == name
        assert config.momentum == 0.5


def test_bad_settings_and_sources_are_named(tmp_path: Path) -> None:
    for change, message in (
        ({"outer": 0}, "outer: got 0"), ({"lr_net": 0.0}, "lr_net: got 0.0"), ({"batch_real": 0}, "batch_real: got 0"),
        ({"dsa": "warp"}, "dsa: got 'warp'"), ({"precision": "fp8"}, "precision: got 'fp8'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            get_method("dc").configure(None, **change)
    with pytest.raises(ValueError, match="ipc=12 needs as many readable pictures"):
        ddfast.distill("dsa", source(), out=tmp_path, **{**SETTINGS, "ipc": 12})
