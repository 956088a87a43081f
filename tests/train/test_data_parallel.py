from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parallel_case as case
import pytest
import torch
from torch import nn

from ddfast.train import data_parallel
from ddfast.train.whole_batch_norm import whole_batch_norms

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@dataclass
class Launch:
    """What each rank found, how each ended, and the seconds from the first one's end to the last one's."""

    found: list[dict[str, Any]]
    codes: list[int]
    errors: list[str]
    waited: float
    folder: Path


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def launch(count: int, folder: Path) -> Launch:
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()),
              "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, case.__file__, str(folder)], stderr=subprocess.PIPE, text=True,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    ranks[-1].wait(120)
    begun = time.perf_counter()
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    waited = time.perf_counter() - begun
    found = [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]
    return Launch(found, [rank.returncode for rank in ranks], errors, waited, folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds; its folder has the checkpoint of a training that was stopped."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.raises(case.Stopped):
        case.soft(None, folder / "one.pt", stop=True)
    shutil.copy(folder / "one.pt", folder / "kept.pt")
    return {**case.everything(None, folder), "folder": folder}


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copy(alone["folder"] / "kept.pt", folder / "one.pt")
    return launch(request.param, folder)


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


def test_a_killed_rank_ends_the_others_at_once(ranks: Launch) -> None:
    assert ranks.codes == [3] * (len(ranks.codes) - 1) + [-9]
    assert all("another rank ended" in error for error in ranks.errors[:-1])
    assert ranks.waited < 10


def test_what_cannot_be_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="start it with torchrun"), data_parallel.joined("cpu"):
        pass
    layers = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))
    with pytest.raises(ValueError, match="layer '0' is a InstanceNorm2d"), whole_batch_norms(layers):
        pass
