"""What the package says of itself is the same everywhere, and whole."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import ddfast

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = read_configuration(ROOT / "pyproject.toml", expand=False)
PROJECT = SETTINGS["project"]


def tracked(folder: str) -> list[str]:
    listing = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return listing.stdout.split()


def test_one_version() -> None:
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert PROJECT["version"] == ddfast.__version__ == citation[1]


def test_authors_are_those_to_cite() -> None:
    text = (ROOT / "CITATION.cff").read_text().partition("authors:\n")[2]
    cited = re.findall(r'^  - name: "(.+)"$', text, re.MULTILINE)
    assert cited
    assert [author["name"] for author in PROJECT["authors"]] == cited


def test_a_released_version_is_in_the_changelog() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    if len(headings) > 1:
        assert headings[1] == PROJECT["version"]


def test_every_data_file_of_the_package_is_in_the_wheel() -> None:
    named = {f"ddfast/{name}" for name in SETTINGS["tool"]["setuptools"]["package-data"]["ddfast"]}
    assert named == {name for name in tracked("ddfast") if not name.endswith(".py")}


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {(ROOT / name).parent for name in tracked("ddfast") if name.endswith(".py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_extras_that_texts_name_exist(text: str) -> None:
    wanted = re.findall(r"""["' ](?:\.|ddfast)\[([a-z,]+)\]""", (ROOT / text).read_text())
    assert {extra for names in wanted for extra in names.split(",")} <= set(PROJECT["optional-dependencies"])


def test_every_extra_is_explained() -> None:
    install = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n## ")[0]
    page = ROOT / "docs" / "install.md"
    known = install + (page.read_text() if page.exists() else "")
    assert [extra for extra in PROJECT["optional-dependencies"] if f"`{extra}`" not in known] == []


@pytest.mark.parametrize("extra", ["huggingface", "interchange"])
def test_datasets_knows_the_lists_that_exports_are_typed_with(extra: str) -> None:
    """Before version 4 it reads no feature of the type List, as which soft labels are exported."""
    wanted = [each for each in PROJECT["optional-dependencies"][extra] if each.startswith("datasets")]
    assert wanted == ["datasets>=4"]


def test_pythons_of_classifiers_wheels_and_types_agree() -> None:
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    built = [re.sub(r"cp3(\d+)-\*", r"3.\1", name) for name in SETTINGS["tool"]["cibuildwheel"]["build"]]
    assert named == built
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert SETTINGS["tool"]["mypy"]["python_version"] == named[0]


def test_the_command_exists() -> None:
    module, _, function = PROJECT["scripts"]["ddfast"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_bug_reports_ask_for_info() -> None:
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml").read_text()
    asked = form.partition("`ddfast info`")[2].partition("  - type")[0]
    assert "required: true" in asked
