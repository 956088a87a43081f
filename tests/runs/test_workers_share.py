"""1, 2 and 4 workers started together in one folder end in the same bytes, whatever they share before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddfast.evaluation import read_report
from tests.evaluation.eval_case import settled
from tests.methods.rded_case import files_of, write_pictures
from tests.runs import workers_case as case


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "train", case.CLASSES, case.EACH)


def run(job: case.Job, count: int, out: Path, pictures: Path) -> dict[str, bytes]:
    """Files of a run by some workers, both of whom work if they are two; an observer is trained by one."""
    shared = case.together(job, count, out, pictures)
    assert shared.trained <= 1
    if count == 2:
        assert min(shared.tasks) > 0
    return files_of(out)


JOBS = (case.rded, case.rded_safetensors, case.rded_parity, case.herding, case.forgetting, case.relabelled)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_any_number_of_workers_gives_the_same_files(job: case.Job, tmp_path: Path, pictures: Path) -> None:
    alone = run(job, 1, tmp_path / "1", pictures)
    assert len(alone) > 2
    assert not any("/tasks/" in name or "observer" in name for name in alone)
    for count in (2, 4):
        assert run(job, count, tmp_path / str(count), pictures) == alone, f"{count} workers"


@pytest.mark.parametrize("job", [case.evaluated, case.continued], ids=lambda job: job.__name__)
def test_any_number_of_workers_gives_the_same_report(job: case.Job, tmp_path: Path, pictures: Path) -> None:
    found: list[Any] = []
    for count in (1, 2, 4):
        out = tmp_path / str(count)
        found.append((sorted(run(job, count, out, pictures)), _figures(out)))
    assert found[1] == found[0]
    assert found[2] == found[0]


def _figures(out: Path) -> Any:
    if (out / "table.md").exists():
        return (out / "table.md").read_text()
    return settled(read_report(out))
