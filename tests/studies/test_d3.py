"""D3's studies: results of several sets and both kinds of labels, and sets that are compared at equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddfast.evaluation.results import find_row
from ddfast.methods.d3.config import D3Config
from ddfast.studies import STUDIES, Judged, Made, Study, Table, run_study
from ddfast.train.latent.sizes import BlockSize, distribution_sizes
from tests.evaluation.eval_case import pictures

_NET: dict[str, Any] = {"size": 16, "depth": 2, "width": 8, "test": "none", "iterations": 1, "dsa": ""}
_D3: dict[str, Any] = {
    **_NET, "lpc": 2, "kernels": 8, "z": 4, "syn_steps": 1, "expert_epochs": 1, "max_start_epoch": 1, "experts": 1,
    "expert_train_epochs": 1, "mmd_samples": 2, "label_epoch": 1,
}  # fmt: skip
_STUDENTS: dict[str, Any] = {
    "preset": "d3", "students": "conv2_instance", "width": 8, "epochs": 2, "seeds": 1, "curve_points": 1,
}  # fmt: skip


def test_results_are_named_by_set_and_labels(tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = pictures(8, 1), pictures(6, 2)
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    sets = {
        "priors": Made("d3", _D3), "images": Made("dm", {**_NET, "ipc": 1, "batch_real": 4}),
    }  # fmt: skip
    judged = {
        "page": Judged(("priors", "images"), _STUDENTS),
        "alone": Judged(("priors",), {**_STUDENTS, "controls": False}),
    }
    study = Study("tiny-d3", "colours", None, sets, judged, (Table("t", ("set",), ()),))
    found = run_study(
        study, tmp_path / "out", data=tmp_path / "colours.npz", seeds=1, device="cpu", processes=1, quiet=True
    )  # fmt: skip
    report = json.loads((tmp_path / "out/seed0/judged/page/report.json").read_text())
    values = found["values"]
    expected = {
        f"page/{name} {images}{' soft' if labels == 'soft' else ''}"
        for key, name in (("set1", "priors"), ("set2", "images"))
        for images in ("distilled", "random-images", "random-bytes")
        for labels in ("hard", "soft")[: 2 if key == "set1" else 1]
    }
    assert set(values) == {*expected, "alone/distilled", "alone/distilled soft"}
    for labels, ending in (("hard", ""), ("soft", " soft")):
        row = find_row(report["results"], "set1", "random-bytes", labels, "conv2_instance")
        assert row is not None
        assert values[f"page/priors random-bytes{ending}"] == [pytest.approx(row["top1"]["values"], abs=1e-5)]
        # the same students of the same set
        assert values[f"alone/distilled{ending}"] == values[f"page/priors distilled{ending}"]


@pytest.mark.parametrize("name", ["d3-small", "d3-small-cifar10"])
def test_one_block_and_two_take_the_same_bytes_and_the_rest_is_alike(name: str) -> None:
    sets = STUDIES[name].sets
    whole, parts = (D3Config(**sets[key].options) for key in ("dual", "blocks"))
    rows = 10 * whole.lpc
    one, two = (
        distribution_sizes([BlockSize(config.decoder_config(), rows // config.blocks)] * config.blocks, 10,
                           storage=config.storage, soft_labels=10, label_bytes=2)
        for config in (whole, parts)
    )  # fmt: skip
    assert two["total"]["bytes"] == pytest.approx(one["total"]["bytes"], rel=0.03)
    assert two["total"]["bytes"] <= one["total"]["bytes"]
    assert 1 <= one["total"]["bytes"] / (10 * 3 * 32 * 32) <= 3
    switches = {"mtt": "mmd_weight", "mmd": "mtt_weight", "mean-only": "sampling"}
    for key, switch in switches.items():
        other = dict(sets[key].options)
        assert not other.pop(switch)
        assert other == sets["dual"].options
