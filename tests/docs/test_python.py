"""Python blocks of the pages compile, import what is there and call ddfast with arguments that it has.

CI has mypy read them too (.ci/page_types.py).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ddfast.evaluation.protocols import EvaluationConfig
from ddfast.methods import RunOptions, get_method
from tests.docs.blocks import FILES, Block, blocks

_PYTHON = [block for file in FILES for block in blocks(file) if block.language == "python"]
_UNKNOWN = object()


def uncommented(text: str) -> str:
    """The block with calls that it shows in comments."""
    return re.sub(r"^# (ddfast\.)", r"\1", text, flags=re.MULTILINE)


def names_of(tree: ast.AST) -> dict[str, Any]:
    """What a block imports, by its name there; AttributeError or ImportError where it is not."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                module = importlib.import_module(name.name)
                found[name.asname or name.name.split(".")[0]] = (
                    module if name.asname else importlib.import_module(name.name.split(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                found[name.asname or name.name] = getattr(module, name.name)
    return found


def resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression of names and points is; AttributeError where a module has no such name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, names)
        return _UNKNOWN if owner is _UNKNOWN else getattr(owner, node.attr)
    return _UNKNOWN


def calls(tree: ast.AST, names: dict[str, Any]) -> Iterator[tuple[ast.Call, Any]]:
    """Calls of what ddfast has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = resolve(node.func, names)
            if str(getattr(called, "__module__", "")).startswith("ddfast"):
                yield node, called


def check(text: str) -> None:
    """Raises for whatever is wrong in a block."""
    tree = ast.parse(text)
    names = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node, names)
    for node, called in calls(tree, names):
        keywords = {each.arg: each.value for each in node.keywords if each.arg}
        complete = len(keywords) == len(node.keywords) and not any(isinstance(each, ast.Starred) for each in node.args)
        signature = inspect.signature(called)
        (signature.bind if complete else signature.bind_partial)(*node.args, **keywords)
        if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
            check_settings(called.__name__, node, {k: v for k, v in keywords.items() if k not in signature.parameters})


def check_settings(function: str, call: ast.Call, keywords: dict[str, ast.expr]) -> None:
    """Settings of functions that take any name: they are a config's fields, with values that it takes."""
    values = {}
    for name, node in keywords.items():
        try:
            values[name] = ast.literal_eval(node)
        except ValueError:  # a variable: of it the name alone is known
            values[name] = None
    if function == "evaluate":
        EvaluationConfig(**{name: value for name, value in values.items() if value is not None})
        return
    assert function == "distill", f"{function}: which settings does it take?"
    known = get_method(ast.literal_eval(call.args[0]))
    preset = next((ast.literal_eval(each.value) for each in call.keywords if each.arg == "preset"), None)
    run = {f.name for f in dataclasses.fields(RunOptions)}
    RunOptions(**{name: value for name, value in values.items() if name in run and value is not None})
    known.configure(preset, **{name: value for name, value in values.items() if name not in run})


@pytest.mark.parametrize("block", _PYTHON, ids=str)
def test_block_is_python_that_ddfast_takes(block: Block) -> None:
    check(uncommented(block.text))


@pytest.mark.parametrize(
    "text",
    [
        "import ddfast\nddfast.distil('rded', 'mnist5k')",
        "import ddfast\nddfast.distill('rded', 'mnist5k', presets='smoke')",
        "import ddfast\nddfast.distill('coreset', 'mnist5k', selection='best')",
        "import ddfast\nddfast.evaluate('smoke', teachers='resnet18')",
        "import ddfast\nddfast.load()",
        "from ddfast.ops import multi_crops",
        "from ddfast.ops import plane_block\nplane_block(1)",
        "from ddfast.train import StudentConfig\nStudentConfig(epoch=3)",
    ],
)
def test_what_is_wrong_is_found(text: str) -> None:
    with pytest.raises((AttributeError, ImportError, TypeError, ValueError)):
        check(text)
