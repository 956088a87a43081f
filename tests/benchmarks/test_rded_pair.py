"""A speed comparison counts only when both sides chose the same patches; this guard must itself hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.baselines.rded_reference import Chosen, ReferenceRun
from benchmarks.methods import rded_pair as pair
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets import load_observer

CHOSEN = [
    Chosen(0, rank, f"root/cat/{rank}.jpg", 1, (rank, 0, 9, 9), 0.1 * rank, rank % 2, rank // 2) for rank in range(4)
]


def manifest(**changes: object) -> dict:
    cells = [{"sample": f"cat/{choice.rank}.jpg", "box": list(choice.box), "score": choice.score} for choice in CHOSEN]
    cells[3] |= changes
    images = [{"file": f"{j}.jpg", "label": 0, "cells": [cells[j], cells[2 + j]]} for j in range(2)]
    return {"images": images}


def test_agreement_counts_ties_and_refuses_the_rest() -> None:
    run = ReferenceRun(CHOSEN, [], {})
    assert pair.agreement(run, manifest(), 2) == pair.Agreement(4, 4, 0.0)
    tied = pair.agreement(run, manifest(sample="cat/9.jpg", score=0.3 + 1e-6), 2)
    assert (tied.identical, tied.patches) == (3, 4)
    assert "1 swapped" in tied.text()
    with pytest.raises(pair.SelectionDiffersError, match="rank 3"):
        pair.agreement(run, manifest(sample="cat/9.jpg", score=0.31), 2)
    with pytest.raises(pair.SelectionDiffersError, match="4 patches against 3"):
        pair.agreement(replace(run, chosen=CHOSEN[:3]), manifest(), 2)


def test_both_sides_choose_the_same_patches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / "all" / f"c{label}").mkdir(parents=True)
        for index in range(8):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((70 + index, 60))
            coarse.save(tmp_path / "all" / f"c{label}" / f"{index}.jpg", quality=92)
    train = pair.link_classes(tmp_path / "all", tmp_path / "train", 2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2))
    observer = load_observer(net, input_size=32, class_names=("c1", "c0"))
    config = RDEDConfig(ipc=1, mipc=6, num_crop=3, size=32)
    theirs = pair.run_reference(train, tmp_path / "theirs", observer, config, workers=0)
    ours = pair.run_ddfast(train, tmp_path / "ours", observer, config, "fp32", workers=1)
    same = pair.agreement(theirs.result, ours.result.manifest, config.ipc)
    assert same.patches == 8
    assert same.identical == 8
    assert theirs.wall > 0
    assert ours.cpu > 0
