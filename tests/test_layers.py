"""The layered import graph, third-party boundaries, naming and file sizes of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ddfast"
LAYERS = {
    "_env": 0, "_temporary": 0, "_types": 0, "_machine": 0, "_outside": 0, "_printable": 0, "_processes": 0,
    "_torch_check": 0, "_tensor_files": 0.5, "_native": 0.5, "ops": 1, "_info": 2, "nets": 2, "store": 2, "runs": 2,
    "data": 3, "train": 4, "methods": 5, "evaluation": 5, "studies": 5.25, "demo": 5.5, "reproduce": 5.5, "bench": 5.5,
    "_cli": 5.75, "cli": 6, "__main__": 7, "__init__": 7,
}  # fmt: skip
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)
THIRD_PARTY_HOMES = {
    "benchmarks": lambda p: False,  # not in the wheel
    "tests": lambda p: False,
    "triton": lambda p: p.name == "triton_kernels.py",
    "nvidia": lambda p: "data" in p.parts,
    "torchvision": lambda p: "data" in p.parts or p == PACKAGE / "nets" / "observers.py",
    "timm": lambda p: "data" in p.parts or p == PACKAGE / "nets" / "observers.py",
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path, *, top_level_only: bool = False) -> list[str]:
    """Dotted names imported by a file; those under ``if TYPE_CHECKING`` are left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for n in ast.walk(node)
    }
    found = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ".".join(("ddfast", *path.relative_to(PACKAGE).parts[:-1])).split(".")
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found += [base, *(f"{base}.{a.name}" for a in node.names)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_or_lower_layers(path: Path) -> None:
    mine = room(path)
    assert mine in LAYERS, f"{path} stands in no room of the house"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "ddfast" or len(parts) < 2 or parts[1] == mine or parts[1] not in LAYERS:
            continue
        assert LAYERS[parts[1]] < LAYERS[mine], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_party_packages_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path):
        home = THIRD_PARTY_HOMES.get(name.split(".")[0])
        assert home is None or home(path), f"{path.relative_to(ROOT)} imports {name}"


def test_ops_do_not_import_each_other() -> None:
    ops = [p.name for p in (PACKAGE / "ops").iterdir() if p.is_dir() and not p.name.startswith("_")]
    for path in (PACKAGE / "ops").rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["ddfast", "ops"] and len(parts) > 2 and parts[2] in ops and path.parent.name in ops:
                assert parts[2] == path.parent.name, f"{path.relative_to(ROOT)} imports {name}"


def test_every_op_has_reference_tests_and_benchmark_of_the_same_stem() -> None:
    for folder in (PACKAGE / "ops").iterdir():
        if not folder.is_dir() or folder.name.startswith("_"):
            continue
        op = folder.name
        wanted = [folder / "__init__.py", folder / "reference.py", ROOT / "tests" / "ops" / f"test_{op}.py",
                  ROOT / "benchmarks" / "ops" / f"bench_{op}.py"]  # fmt: skip
        if '"cpp"' in (folder / "__init__.py").read_text():  # the reference stays where C++ is not faster
            wanted += [ROOT / "csrc" / op / f"{op}.h", ROOT / "csrc" / op / f"{op}_cpu.cpp"]
        missing = [str(p.relative_to(ROOT)) for p in wanted if not p.exists()]
        assert not missing, f"op {op} lacks {missing}"


def test_no_file_is_over_500_lines() -> None:
    sources = [*ROOT.glob("ddfast/**/*.py"), *ROOT.glob("csrc/**/*.[ch]*"), *ROOT.glob("tests/**/*.py"),
               *ROOT.glob("benchmarks/**/*.py")]  # fmt: skip
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_import_is_lean() -> None:
    code = (
        "import sys, ddfast, ddfast.ops, ddfast.nets, ddfast.data, ddfast.store, ddfast.runs, ddfast.methods\n"
        "import ddfast.bench.run\n"
        "bad = [m for m in ('triton', 'nvidia.dali', 'torchvision', 'timm', 'matplotlib', 'openvino',"
        " 'torch._dynamo') if m in sys.modules]\n"
        "assert not bad, bad\n"
        "torch = sys.modules['torch']\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_bare_import_needs_no_torch() -> None:
    code = "import sys, ddfast; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
