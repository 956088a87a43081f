"""Scripts and settings that build the packages: what is wrong is said before anything is built."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_cuda_targets_in_the_form_of_pytorch_are_refused() -> None:
    environment = {**os.environ, "DDFAST_CUDA": "0", "DDFAST_CUDA_ARCHS": "8.0;9.0"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("DDFAST_CUDA_ARCHS='8.0;9.0': expected numbers without a dot")


def test_other_versions_of_cuda_than_13_are_refused(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    command = ["bash", str(ROOT / "packaging" / "cuda_wheel.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, "CUDA_VERSION": "12.8"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "CUDA_VERSION=12.8: expected a version of CUDA 13" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_source_distribution_has_the_folders_that_its_tests_import() -> None:
    packed = set(re.findall(r"^graft (\S+)", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)) | {"ddfast"}
    found = set()
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0] for name in names}
    own = {name for name in found if name and (ROOT / name).is_dir()}
    assert {"tests", "docs", "benchmarks"} <= own
    assert own <= packed


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_ask_for_few_rights_and_pin_their_actions(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert re.search(r"^permissions:\n  contents: read\n", text, re.MULTILINE)
    used = re.findall(r"uses: (\S+)@(\S+)", text)
    assert used
    assert [each for each in used if not re.fullmatch(r"v\d+(\.\d+)*|[0-9a-f]{40}", each[1])] == []


def test_what_wheels_are_made_of_starts_their_workflow() -> None:
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    paths = re.findall(r'^      - "?([^"\n:]+?)"?$', text.partition("pull_request:")[2].partition("workflow_")[0], re.M)
    assert {"ddfast/**", "csrc/**", "packaging/**", "LICENSE", "README.md", "setup.py", "pyproject.toml"} <= set(paths)
