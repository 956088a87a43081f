"""Every command and option that a Markdown file shows is taken as it is written; which blocks CI runs is fixed here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ddfast.methods import method_names
from docs.generate.commands import parser, walk
from tests.docs import programs
from tests.docs.accept import refusal, refused_everywhere
from tests.docs.blocks import FILES, ROOT, TEMPLATES, Command, blocks, commands, inline_code, split

_COMMANDS = [command for file in FILES for command in commands(file)]
_INLINE = [(file, code) for file in (*FILES, *TEMPLATES) for code in inline_code(file)]
_OWN = {words[0] for words, _ in walk(parser())}
# Options in sentences that are not ddfast's: the file that has them, or the program
_OF_OTHERS = {
    "--dry-run": "benchmarks/gpu_pack/__main__.py",
    "--push": "examples/huggingface_upload.py",
    "--help": "all commands",
    "--max-restarts": "torchrun",
}
# Blocks that CI runs (.ci/docs_commands.py), page by page
RUN = {
    "README.md": 3,
    "docs/evaluation.md": 1,
    "docs/getting-started.md": 8,
    "docs/install.md": 1,
    "docs/interchange.md": 2,
    "docs/labels.md": 2,
    "docs/methods/coresets.md": 1,
    "docs/methods/d3.md": 1,
    "docs/methods/index.md": 1,
    "docs/methods/mtt.md": 1,
    "docs/methods/pdd.md": 1,
    "docs/methods/rded.md": 1,
    "docs/ops.md": 3,
    "docs/scale-out.md": 1,
    "docs/timing.md": 1,
}


def test_which_blocks_are_run() -> None:
    found = {str(file.relative_to(ROOT)): sum(block.run for block in blocks(file)) for file in FILES}
    assert {name: count for name, count in found.items() if count} == RUN
    for file in FILES:  # none is marked in vain
        marks = len(re.findall(r"^\s*<!--\s*run\b", file.read_text(encoding="utf-8"), re.M | re.I))
        assert marks == found[str(file.relative_to(ROOT))], file


def test_fences_begin_their_lines() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^[ \t]+```", text, re.MULTILINE), f"{file}: a block that is indented is not checked"
        assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, file
        known = {"", "bash", "python", "text", "json"}
        assert {block.language for block in blocks(file)} <= known, file


def test_there_are_commands_to_check() -> None:
    shown = {command.ddfast[0] for command in _COMMANDS if command.ddfast}
    assert {"distill", "relabel", "evaluate", "continual", "export", "reproduce", "bench", "status"} <= shown
    assert sum(bool(command.ddfast) for command in _COMMANDS) > 100


def test_commands_of_blocks_are_taken() -> None:
    wrong = []
    for command in _COMMANDS:
        reason = refusal(command.ddfast) if command.ddfast else programs.refusal(command.words)
        if not reason and command.ddfast and command.words[0] != "ddfast":
            reason = programs.refusal(command.words) if "/" not in command.words[0] else ""
        if reason:
            wrong.append(f"{command.place}\n  {reason}")
    assert not wrong, "\n".join(wrong)


def test_commands_of_sentences_are_taken() -> None:
    wrong = []
    for file, code in _INLINE:
        if code.startswith("--") or not re.match(r"[.\w/-]+( |$)", code) or "(" in code or " = " in code:
            continue
        for words in split(code):
            program = words[0].removeprefix(".venv/bin/")
            if program == "ddfast" and len(words) > 1:
                reason = _of_sentence(Command(code, words).ddfast)
            elif program in _OWN and any(word.startswith("--") for word in words):
                reason = _of_sentence(Command(code, ("ddfast", *words)).ddfast)
            elif len(words) > 1 and (program in programs.PROGRAMS or any(re.match("--?[a-z]", w) for w in words[1:])):
                reason = programs.refusal(words)
            else:
                continue
            if reason:
                wrong.append(f"{file.relative_to(ROOT)}: {code}\n  {reason}")
    assert not wrong, "\n".join(wrong)


def _of_sentence(words: tuple[str, ...]) -> str:
    """As `refusal`, but a sentence may leave out what a command needs besides."""
    reason = refusal(words)
    if any(each in reason for each in ("are required", "expected one argument")):
        options = words[next((k for k, word in enumerate(words) if word.startswith("--")), len(words)) :]
        return refused_everywhere(options, (words[1],) if words[0] == "distill" else ()) if options else ""
    return reason


def test_options_of_sentences_are_taken() -> None:
    wrong = []
    for file, code in _INLINE:
        if not re.match(r"--[a-z]", code):
            continue
        words = shlex.split(code)
        methods = [file.stem] if file.stem in method_names() else []
        if words[0] not in _OF_OTHERS and (reason := refused_everywhere(words, methods)):
            wrong.append(f"{file.relative_to(ROOT)}: {code}\n  {reason}")
    assert not wrong, "\n".join(wrong)


def test_options_of_others_are_there() -> None:
    used = {word for _, code in _INLINE for word in code.split()}
    for option, where in _OF_OTHERS.items():
        assert option in used, f"{option} is in no sentence any more"
        if where.endswith(".py"):
            assert f'"{option}"' in (ROOT / where).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("distill coreset --data d --out o --selection best", "selection"),
        ("distill pdd --data d --out o --preset smoke --base mmt", "base"),
        ("distill pdd --data d --out o --base dm --base-option iteration=5", "did you mean 'iterations'"),
        ("distill rded --data d --out o --precision fp8", "precision"),
        ("distill d3 --data d --out o --bandwidths best", "bandwidths"),
        ("evaluate smoke --students conv3-xx", "norm"),
        ("evaluate smoke --staged all", "staged"),
        ("reproduce d3-large", "reproduce"),
        ("distil rded", "invalid choice"),
    ],
)
def test_what_is_wrong_is_found(words: str, reason: str) -> None:
    assert reason in refusal(tuple(words.split()))


@pytest.mark.parametrize(
    "line",
    [
        "huggingface-cli upload USER/NAME smoke_hf --repo-type dataset",
        "pip install '.[demos]'",
        "pip instal .",
        "pip install nothing-of-ours",
        "python examples/missing.py",
        "python examples/run_all.py --every",
        "python -m benchmarks.limits",
        "pytest tests/nothing",
        "pytest --benchmark-enabled",
        "torchrun --nproc 8 -m ddfast info",
    ],
)
def test_unknown_programs_and_forms_are_found(line: str) -> None:
    (words,) = split(line)
    assert programs.refusal(words)


def test_every_file_is_checked() -> None:
    assert {path.name for path in FILES} >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pull_request_template.md"}
    found = {path for path in _markdown() if not {"build", "node_modules"} & set(path.parts)}
    hidden = {path for path in found if any(part.startswith(".") and part != ".github" for part in path.parts)}
    assert {ROOT / path for path in found - hidden} <= set(FILES)


def _markdown() -> list[Path]:
    """What git tracks, not what the pages' own commands write here; without git all that is there."""
    command = ["git", "ls-files", "-z", "*.md"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not listing.returncode:  # git refuses a checkout of another user
            return [Path(name) for name in listing.stdout.split("\0") if name and (ROOT / name).exists()]
    return [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
