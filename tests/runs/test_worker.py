"""Worker identity under each launcher."""

from __future__ import annotations

import pytest

from ddfast.runs import Worker, identify_worker
from ddfast.runs.worker import parse_shard

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "14",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
}


@pytest.mark.parametrize(
    ("shard", "environ", "expected"),
    [
        (None, {}, Worker(0, 1, 0, "alone")),
        ("2/4", {}, Worker(2, 4, 2, "shard")),
        ("2/4", TORCHRUN, Worker(2, 4, 1, "shard")),
        (None, TORCHRUN, Worker(5, 8, 1, "torchrun")),
        (None, {**TORCHRUN, **SRUN}, Worker(5, 8, 1, "torchrun")),
        (None, {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"}, Worker(5, 8, 1, "torchrun")),
        (None, {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}, Worker(5, 8, 1, "torchrun", restarted=True)),
        (None, SRUN, Worker(3, 4, 3, "slurm")),
        (None, {**SRUN, "SLURM_RESTART_COUNT": "1"}, Worker(3, 4, 3, "slurm", restarted=True)),
        (None, {"SLURM_PROCID": "0"}, Worker(0, 1, 0, "slurm")),
        (None, ARRAY, Worker(2, 5, 0, "slurm")),
        (None, {**ARRAY, **SRUN}, Worker(11, 20, 3, "slurm")),
        # --array=1,7,9 has three tasks but places up to 8
        (
            None,
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"},
            Worker(8, 9, 0, "slurm"),
        ),
        (None, {"RANK": "3"}, Worker(0, 1, 0, "alone")),
    ],
)
def test_identity(shard: str | None, environ: dict[str, str], expected: Worker) -> None:
    assert identify_worker(shard, environ) == expected


def test_array_tasks_are_all_different() -> None:
    seen = {
        identify_worker(None, {**ARRAY, **SRUN, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_PROCID": str(rank)}).index
        for task in (10, 12, 14, 16, 18)
        for rank in range(4)
    }
    assert seen == set(range(20))


def test_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert identify_worker().index == 5


@pytest.mark.parametrize("text", ["", "1", "1/", "a/b", "-1/3", "3/3", "0/0", "1/2/3"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(ValueError, match="shard: got"):
        parse_shard(text)


def test_bad_environment() -> None:
    with pytest.raises(ValueError, match="RANK: got 'x'"):
        identify_worker(None, {"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(ValueError, match="index: got 2 of 2"):
        identify_worker(None, {"RANK": "2", "WORLD_SIZE": "2"})
