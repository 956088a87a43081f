"""What README and pages show is there: parts are generated as they are now, commands described, tables shown."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from docs.generate import MARK, PARTS, expand, part, rewrite
from docs.generate.commands import parser, walk
from tests.docs.blocks import PAGES, ROOT, blocks, text_of


def test_every_command_is_described() -> None:
    names = {words[0] for words, _ in walk(parser())}
    (commands,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert names == {choice.dest for choice in commands._choices_actions}
    text = text_of(ROOT / "docs/commands.md")
    assert all(f"{{#{name}}}" in text for name in names)
    assert "`--launch-workers`" in text
    assert "`--ipc`" not in text, "options of methods are on their pages"


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
    elsewhere = {"rded-imagenet20-lite0", "scale-simulation", "demo"}  # parts of their own, shown or the tests say so
    assert all(f" {name} -->" in source for name in shown - elsewhere)


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {page.relative_to(ROOT / 'docs')}" in listed, page


def test_pictures_are_small() -> None:
    for picture in Path(ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 300_000, picture


def test_the_readme_stays_short_and_its_commands_are_the_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 250
    first, second = [block for block in blocks(ROOT / "README.md") if block.language == "bash"][:2]
    assert "ddfast demo" in first.text
    assert "pytest" in second.text
    assert first.text.count("\n") == second.text.count("\n") == 1
