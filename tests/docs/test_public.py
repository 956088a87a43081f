"""What the pages call public is what there is: names of the Python page, keys of ``--json``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from ddfast.bench.run import Bench
from ddfast.cli import main
from ddfast.train.relabel import relabel
from docs.generate.json_keys import KEYS
from tests.data.data_helpers import make_class_folders
from tests.docs.blocks import PAGES, ROOT, blocks, text_of
from tests.fuzz.fuzz_targets import VIEW
from tests.train.label_helpers import teacher, tiny_set

_API = (ROOT / "docs/api.md").read_text(encoding="utf-8")
_ABOUT = ("name", "commit", "threads", "versions")  # of a committed result, beside what the command writes
_SHOWN = {
    name for name in re.findall(r"^::: (\S+)|^      heading: (\S+)$", _API, re.MULTILINE) for name in name if name
}


def _used(text: str) -> Iterator[str]:
    """Names of ddfast that a piece of Python imports or looks up in ``ddfast`` itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddfast":
            yield from (f"{node.module}.{each.name}" for each in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ddfast":
            yield f"ddfast.{node.attr}"


def test_names_that_pages_and_examples_use_are_on_the_python_page() -> None:
    texts = {str(block): block.text for page in PAGES for block in blocks(page) if block.language == "python"}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))}
    modules = {"ddfast.ops"}
    wrong = [
        f"{where}: {name}" for where, text in texts.items() for name in _used(text) if name not in _SHOWN | modules
    ]
    assert not wrong, "\n".join(wrong)


def test_the_page_of_commands_lists_the_keys() -> None:
    text = text_of(ROOT / "docs/commands.md")
    assert all(f"| `{command}` |" in text for command in KEYS)
    assert "ipc_equivalent" in text


def test_json_documents_have_the_keys_that_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = relabel(
        tiny_set(), [teacher()], tmp_path / "labels", view=VIEW, seed=1, epochs=1, batch_size=4, progress="quiet"
    )
    monkeypatch.setattr("ddfast.train.relabel.relabel_folder", lambda *_, **__: store)
    make_class_folders(tmp_path / "data", {"a": 3, "b": 3})
    make_class_folders(tmp_path / "test", {"a": 2, "b": 2})
    data, test, out = (str(tmp_path / name) for name in ("data", "test", "out"))
    short = ["--epochs", "1", "--width", "8", "--students", "conv2-in", "--seeds", "1", "--processes", "1", "--quiet"]
    wanted = ["--selection", "random", "--data", data, "--ipc", "2", "--size", "16", "--out", out, "--quiet"]
    calls: dict[str, list[str]] = {
        "info": [], "distill": ["coreset", *wanted], "explain": [out], "status": [out], "retry": [out], "clean": [out],
        "export": [out, "--to", "imagefolder", "--out", str(tmp_path / "export")],
        "relabel": [out, "--teacher", "resnet18", "--out", "labels"],
        "evaluate": [out, "--data", test, "--no-controls", "--no-soft", *short],
        "continual": [out, "--data", test, "--steps", "2", "--orders", "1", *short],
    }  # fmt: skip
    for command, words in calls.items():
        assert main([command, *words, "--json"]) == 0, capsys.readouterr().err
        _compare(command, json.loads(capsys.readouterr().out))


def test_documents_that_take_long_to_make_have_the_keys_that_are_listed(tmp_path: Path) -> None:
    _compare("bench", Bench(tmp_path, True).document(True))
    for path in sorted((ROOT / "benchmarks/reproduced").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if "about" in document:
            _compare("reproduce", document)
        if path.stem == "demo":
            _compare("demo", {key: value for key, value in document.items() if key not in _ABOUT})


def test_what_the_readme_says_of_the_demo_holds() -> None:
    demo = json.loads((ROOT / "benchmarks/reproduced/demo.json").read_text(encoding="utf-8"))
    found = {(row["images"], row["labels"]): mean(row["top1"]) for row in demo["students"]}
    assert found["1 a class, learned by DM", "hard labels"] > found["1 a class, random pictures", "hard labels"] + 10
    hard, soft = (
        found["10 a class, random pictures", labels] - found["10 a class, crops by RDED", labels]
        for labels in ("hard labels", "soft labels")
    )
    assert hard > 5 > soft > 0


def _compare(command: str, document: dict[str, Any]) -> None:
    listed = set(KEYS[command]) - {"..."}
    assert listed <= set(document), f"{command}: {listed - set(document)} is listed"
    if "..." not in KEYS[command]:
        assert set(document) == listed, f"{command}: {set(document) - listed} is not listed"
