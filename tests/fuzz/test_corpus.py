"""Cases that fuzzers found, each a folder ``corpus/<target>/<case>`` as small as it was found."""

from __future__ import annotations

import shutil

import pytest

from tests.fuzz.fuzz_harness import CORPUS, Fuzzer

CASES = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))
WHOLE = (
    ("manifest", "folder"), ("manifest", "safetensors"), ("set", "jpeg-folder"), ("set", "white"), ("set", "d3"),
    ("labels", "labels"), ("fkd", "fkd"), ("buffers", "buffers"), ("source", "classes"), ("source", "tiny"),
    ("source", "npz"), ("source", "mnist"), ("source", "svhn-packed"), ("source", "downsampled"), ("source", "flat"),
    ("jpeg", "jpeg-cmyk"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_found_cases_stay_mended(fuzzer: Fuzzer, case: str) -> None:
    target = case.split("/")[0]
    folder = fuzzer.fresh("npz")
    shutil.rmtree(folder)
    shutil.copytree(CORPUS / case, folder, symlinks=True)
    answer = fuzzer.child.run(target, folder, False)
    assert answer["outcome"] != "bug", answer["text"]


@pytest.mark.parametrize("seed", WHOLE, ids="-".join)
def test_undamaged_folders_are_taken(fuzzer: Fuzzer, seed: tuple[str, str]) -> None:
    answer = fuzzer.child.run(seed[0], fuzzer.fresh(seed[1]), False)
    assert answer == {"outcome": "ok", "text": ""}, answer["text"]


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("seed", ["run", "run-finished"])
def test_undamaged_runs_are_taken(fuzzer: Fuzzer, seed: str, step: int) -> None:
    folder = fuzzer.fresh(seed)
    (folder / "step").write_text(str(step))
    answer = fuzzer.child.run("run", folder, False)
    assert answer["outcome"] == "ok", answer["text"]
