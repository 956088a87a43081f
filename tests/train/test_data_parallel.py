from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import parallel_case as case
import pytest
import torch
from eval_case import NAMES, pictures, saved_set
from torch import nn

from ddfast.cli import main
from ddfast.train import data_parallel
from ddfast.train.whole_batch_norm import whole_batch_norms

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@dataclass
class Launch:
    """What each rank found; of ranks without a launcher also how each ended, and the seconds from the first end on."""

    found: list[dict[str, Any]]
    folder: Path
    codes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    waited: float = 0.0


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def read(count: int, folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]


def three_ranks(folder: Path) -> Launch:
    """Started by hand; the last one is killed."""
    common = {**os.environ, "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()),
              "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "3"}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, case.__file__, str(folder)], stderr=subprocess.PIPE, text=True,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(3)
    ]  # fmt: skip
    ranks[-1].wait(120)
    begun = time.perf_counter()
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    waited = time.perf_counter() - begun
    return Launch(read(3, folder), folder, [rank.returncode for rank in ranks], errors, waited)


def command(folder: Path, out: Path) -> list[str]:
    """An evaluation of two students."""
    words = "--preset smoke --seeds 2 --epochs 3 --width 8 --curve-points 2 --teacher none --device cpu --processes 1"
    data = ["--data", str(folder / "val.npz"), "--out", str(out), "--quiet"]
    return ["evaluate", str(folder / "set"), *data, *words.split()]


def two_ranks(folder: Path) -> Launch:
    """Started by torchrun, which starts both again after one is killed in the middle of an evaluation."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command(folder, folder / "together"), "--data-parallel"]
    subprocess.run(
        [*torchrun, "--max-restarts", "1", "--monitor-interval", "0.1", case.__file__, str(folder), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    return Launch(read(2, folder), folder)


def given(folder: Path) -> None:
    """A distilled set and test pictures."""
    saved_set(folder / "set")
    images, labels = pictures(30, 3)
    np.savez(folder / "val.npz", images=images, labels=labels, class_names=np.array(NAMES))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds; its folder has the checkpoint of a training that was stopped."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.raises(case.Stopped):
        case.soft(None, folder / "one.pt", stop=True)
    shutil.copy(folder / "one.pt", folder / "kept.pt")
    return {**case.everything(None, folder), "folder": folder}


def begin(alone: dict[str, Any], factory: pytest.TempPathFactory) -> Path:
    folder = factory.mktemp("ranks")
    shutil.copy(alone["folder"] / "kept.pt", folder / "one.pt")
    given(folder)
    return folder


@pytest.fixture(scope="module")
def three(alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return three_ranks(begin(alone, tmp_path_factory))


@pytest.fixture(scope="module")
def two(alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return two_ranks(begin(alone, tmp_path_factory))


@pytest.fixture(params=["two", "three"])
def ranks(request: pytest.FixtureRequest) -> Launch:
    found: Launch = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("training", ["soft", "hard", "with_one"])
def test_weights_are_those_of_one_process_and_the_same_on_all_ranks(
    ranks: Launch, alone: dict[str, Any], training: str
) -> None:
    for found in ranks.found:
        torch.testing.assert_close(found[training], alone[training], **EXACT)
        assert torch.equal(found[training], ranks.found[0][training])


def test_losses_are_those_of_whole_batches_on_every_rank(ranks: Launch, alone: dict[str, Any]) -> None:
    for found in ranks.found:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)


def test_a_training_of_several_ranks_is_gone_on_with_by_one(ranks: Launch, alone: dict[str, Any]) -> None:
    student, losses = case.soft(None, ranks.folder / "many.pt")
    torch.testing.assert_close(case.state(student), alone["soft"], **EXACT)
    assert losses == pytest.approx(alone["losses"], rel=1e-6)


def test_nan_in_the_rows_of_one_rank_stops_all_at_the_same_step(ranks: Launch, alone: dict[str, Any]) -> None:
    assert "epoch 1, step 3" in alone["nan"]
    assert {found["nan"] for found in ranks.found} == {alone["nan"]}


def test_every_rank_tests_a_part_and_has_the_counts_of_all(ranks: Launch, alone: dict[str, Any]) -> None:
    assert int(alone["tested"].sum()) == 633
    for found in ranks.found:
        assert torch.equal(found["tested"], alone["tested"])


def test_ranks_hear_rank_0_and_share_a_batch_without_gaps(ranks: Launch) -> None:
    assert [found["told"] for found in ranks.found] == [{"from": 0}] * len(ranks.found)
    assert [found["rows"] for found in ranks.found] == {2: [[0, 5], [5, 10]], 3: [[0, 4], [4, 7], [7, 10]]}[
        len(ranks.found)
    ]


def test_a_killed_rank_ends_the_others_at_once(three: Launch) -> None:
    assert three.codes == [3, 3, -9]
    assert all("another rank ended" in error for error in three.errors[:2])
    assert three.waited < 60  # a lost one is given up after ten minutes


def test_an_evaluation_by_ranks_that_torchrun_starts_again_is_that_of_one_process(two: Launch) -> None:
    assert (two.folder / "epochs0-0").read_text().split()[:4] == ["1", "2", "3", "1"]
    assert (two.folder / "epochs1-0").read_text().split() == ["1", "2", "3"]  # the second student's alone
    assert main([*command(two.folder, two.folder / "alone")]) == 0
    records = [json.loads((two.folder / run / "records.json").read_bytes()) for run in ("together", "alone")]
    for task, ours in records[0].items():
        truth = records[1][task]["record"]
        assert ours["record"]["losses"] == pytest.approx(truth["losses"], rel=1e-3)
        assert ours["record"]["top1"] == pytest.approx(truth["top1"], abs=0.05)
        assert ours["record"]["tested"] == truth["tested"]
    assert (two.folder / "together" / "report.html").exists()


def test_what_cannot_be_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="start it with torchrun"), data_parallel.joined("cpu"):
        pass
    layers = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))
    with pytest.raises(ValueError, match="layer '0' is a InstanceNorm2d"), whole_batch_norms(layers):
        pass
