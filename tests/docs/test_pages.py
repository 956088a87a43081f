"""What README and pages show works: commands parse, Python compiles and its imports exist, parts are generated."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

from docs.generate import MARK, PARTS, expand, part, rewrite
from docs.generate.commands import parser, walk
from tests.docs.blocks import PAGES, ROOT, Block, blocks, command_lines, text_of

_COMMANDS = [(place, words) for page in PAGES for place, words in command_lines(page)]
_PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


def test_there_are_commands_to_check() -> None:
    shown = {words[0] for _, words in _COMMANDS}
    assert {"distill", "relabel", "evaluate", "continual", "export", "reproduce", "bench", "status"} <= shown
    assert len(_COMMANDS) > 100


def test_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    line, wrong = parser(), []
    for place, words in _COMMANDS:
        if words[-1:] == ["--help"]:
            continue
        try:
            line.parse_args(words)
        except SystemExit:
            message = capsys.readouterr().err.split("error: ")[-1]
            in_sentence = ":" not in place.split(": ")[0]  # which may leave out what a command needs besides
            if not (in_sentence and any(each in message for each in ("are required", "expected one argument"))):
                wrong.append(f"{place}\n  {message}")
    assert not wrong, "\n".join(wrong)


def test_every_command_is_described() -> None:
    names = {words[0] for words, _ in walk(parser())}
    (commands,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert names == {choice.dest for choice in commands._choices_actions}
    text = text_of(ROOT / "docs/commands.md")
    assert all(f"{{#{name}}}" in text for name in names)
    assert "`--launch-workers`" in text
    assert "`--ipc`" not in text, "options of methods are on their pages"


@pytest.mark.parametrize("block", _PYTHON, ids=str)
def test_python_compiles_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text, filename=str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ddfast":
            assert hasattr(importlib.import_module("ddfast"), node.attr), node.attr


def test_every_method_has_its_page_presets_and_options() -> None:
    from ddfast.methods import get_method, method_names

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in method_names():
        assert f"<!-- generated: presets {name} -->" in text
        assert f"<!-- generated: options {name} -->" in text
        made = part("presets", name)
        assert all(f"`{preset}`" in made for preset in get_method(name).presets)


def test_generated_parts_are_there_and_all_used() -> None:
    used = {found[1].split()[0] for page in PAGES for found in MARK.finditer(page.read_text(encoding="utf-8"))}
    assert used == set(PARTS)
    with pytest.raises(ValueError, match="generated: got 'nothing', expected one of changelog, commands"):
        expand("<!-- generated: nothing -->")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_written_parts_are_as_made_now(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rewrite(text) == text, "run python -m docs.generate"


def test_every_reproduced_table_is_shown() -> None:
    text = text_of(ROOT / "docs/reproducing.md")
    rows = ("| 1 | 23.5 ± 0.3 |", "| RDED | 26.0 ± 0.5 |", "**Stages x images per stage", "| both terms, two blocks |")
    for found in rows:
        assert found in text
    shown = {path.stem for path in (ROOT / "benchmarks/reproduced").glob("*.json")}
    source = (ROOT / "docs/reproducing.md").read_text(encoding="utf-8")
    assert all(f" {name} -->" in source for name in shown - {"rded-imagenet20-lite0"})


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {page.relative_to(ROOT / 'docs')}" in listed, page


def test_pictures_are_small() -> None:
    for picture in Path(ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 300_000, picture


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "examples/README.md"])
def test_links_of_files_outside_the_pages_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for found in re.finditer(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if target.startswith("http"):
            continue
        place = (ROOT / name).parent / target
        assert place.exists(), found[0]
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text_of(place), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_readme_stays_short_and_its_commands_are_the_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 250
    first, second = [block for block in blocks(ROOT / "README.md") if block.language == "bash"][:2]
    assert "ddfast demo" in first.text
    assert "pytest" in second.text
    assert first.text.count("\n") == second.text.count("\n") == 1
