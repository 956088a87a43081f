"""PDD's options, presets and command line, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ddfast
from ddfast.cli import main
from ddfast.methods import get_method
from ddfast.methods.pdd import PRESETS, PDDConfig
from ddfast.train.matching.trajectory import TrajectorySettings
from tests.methods.pdd_case import MTT, pdd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": 0}, "stages: got 0"),
        ({"ipc_per_stage": 0}, "ipc_per_stage: got 0"),
        ({"pool": -1}, "pool: got -1"),
        ({"base": "rded"}, "base: got 'rded', which cannot be conditioned on earlier sets; expected one of .*mtt"),
        ({"base": "pdd"}, "base: got 'pdd', which cannot be conditioned"),
        ({"base": "nothing"}, "base: got 'nothing'; expected one of"),
        ({"base_preset": "cifar10"}, "preset: got 'cifar10', expected one of cifar10-ipc1"),
        ({"options": {"ipc": 3}}, "base_option: got ipc=3, which ipc_per_stage decides"),
        ({"options": {"syn_steps": "many"}}, "base_option: got syn_steps='many', expected a whole number"),
        ({"options": {"zca": "maybe"}}, "base_option: got zca='maybe', expected true or false"),
        ({"options": {"soft_labels": True}}, "soft_labels does not go with stages"),
        ({"options": {"lr_img": -1.0}}, "lr_img: got -1.0"),
        ({"stages": 7}, "stages=7 with ipc_per_stage=2 needs 14 pictures of each class"),
        ({"stages": 6}, r"ipc=12 needs .* beside those held out"),
    ],
)
def test_wrong_settings(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pdd(tmp_path / "out", **change)


def test_unknown_options_of_the_base_are_named() -> None:
    with pytest.raises(TypeError, match="mtt has no option 'syn_stepz'; did you mean 'syn_steps'"):
        PDDConfig(base_option={"syn_stepz": 3})
    with pytest.raises(TypeError, match=r"idc has no option .*preset 'cifar10-2x5' is for its own base"):
        get_method("pdd").configure("cifar10-2x5", base="idc")


def test_text_of_base_options_is_read_as_the_base_has_it() -> None:
    given = {"syn_steps": "7", "lr_lr": "1e-6", "zca": "no", "batch_syn": "none", "dsa": ""}
    base: Any = get_method("pdd").configure("cifar10-2x5", base_option=given).base_config
    assert (base.syn_steps, base.lr_lr, base.zca, base.batch_syn, base.dsa) == (7, 1e-6, False, None, "")
    assert (base.ipc, base.max_start_epoch, base.lr_img) == (2, 5, 1000.0)  # the preset's are kept


# images per class of a stage, steps, expert epochs, epochs an iteration may start from, batch, rates, whitening
ROWS = {
    "cifar10-2x5": (2, 50, 2, 5, 20, 1000, 1e-7, 0.01, True),
    "cifar10-10x5": (10, 30, 2, 15, 100, 1000, 1e-5, 0.01, True),
    "cifar100-2x5": (2, 20, 3, 20, 200, 1000, 1e-5, 0.01, True),
    "cifar100-10x5": (10, 20, 2, 20, 512, 1000, 1e-5, 0.01, True),
    "tinyimagenet-2x5": (2, 20, 2, 20, 64, 1e4, 1e-4, 0.01, False),
    "tinyimagenet-10x5": (10, 20, 2, 20, 64, 1e4, 1e-4, 0.01, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_presets_are_the_published_rows(name: str) -> None:
    config = get_method("pdd").configure(name)
    base: Any = config.base_config
    assert config.preset == name
    assert (config.stages, config.transition_epochs, config.networks) == (5, 1000, 100)
    names = (
        "ipc",
        "syn_steps",
        "expert_epochs",
        "max_start_epoch",
        "batch_syn",
        "lr_img",
        "lr_lr",
        "lr_teacher",
        "zca",
    )
    assert tuple(getattr(base, each) for each in names) == ROWS[name]
    assert (base.size, base.depth) == ((64, 4) if name.startswith("tiny") else (32, 3))
    assert base.iterations == 5000
    assert base.expert_train_epochs >= base.max_start_epoch - 1 + base.expert_epochs


def test_command_line_reaches_the_options_of_the_base(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "colours.npz", images=images, labels=np.arange(18) % 3)
    options = [f"--base-option={name}={value}" for name, value in {**MTT, "test": "none", "iterations": 1}.items()]
    out = tmp_path / "out"
    code = main(["distill", "pdd", "--data", str(tmp_path / "colours.npz"), "--out", str(out), "--stages", "2",
                 "--ipc-per-stage", "1", "--transition-epochs", "1", "--quiet", *options])  # fmt: skip
    assert code == 0
    base = ddfast.load(out).manifest["config"]["base_config"]
    assert {name: base[name] for name in MTT} == {**MTT, "iterations": 1}


def test_settings_of_the_loop_are_options_of_mtt() -> None:
    """`make_matcher` fills them by name."""
    options = set(vars(get_method("mtt").configure(None)))
    assert set(vars(TrajectorySettings())) - {"stream"} <= options


def test_presets_of_other_bases() -> None:
    # of the authors' README for IDC; DC's loops for 10 images per class are those of its program
    for name, per_stage, iterations in (
        ("cifar10-2x5", 2, 200_000), ("cifar10-10x5", 10, 200_000), ("cifar100-2x5", 2, 200_000),
        ("cifar100-10x5", 10, 100_000),
    ):  # fmt: skip
        config = get_method("pdd").configure(f"idc-{name}")
        base: Any = config.base_config
        assert (config.stages, config.transition_epochs, base.ipc, base.iterations) == (5, 200, per_stage, iterations)
        assert (base.decoding.factor, base.n_data, base.inner_loop) == (2, 2000, 100)
        assert base.settings().lr_img == pytest.approx(5e-3 * per_stage / 10)
    for name in ("dc", "dsa"):
        config = get_method("pdd").configure(f"{name}-cifar10-10x5")
        base = config.base_config
        assert (config.base, base.ipc, base.outer, base.inner, base.iterations) == (name, 10, 10, 50, 1000)
    assert all(get_method("pdd").configure(name).base_config.ipc >= 1 for name in PRESETS)
    for name in ("mtt", "idc", "dc", "dsa", "dm"):
        assert get_method("pdd").configure("smoke", base=name).base_config.preset == "smoke"
