"""Checks what is inside wheels and source distributions, and prints their sizes: ``check_dist.py FILE...``.

Standard library and ``readelf`` (binutils, which every compiler comes with) only, so that it runs in any build image.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ("ddfast/py.typed", "ddfast/nets/imagenet_wnids.txt", "ddfast/evaluation/style.css")
# The last line is what tests import and read.
IN_SDIST = (
    "pyproject.toml", "setup.py", "LICENSE", "README.md", "CHANGELOG.md", "tests/conftest.py", *DATA,
    "mkdocs.yml", "docs/generate/commands.py", "examples/run_all.py", ".ci/run",
    ".github/ISSUE_TEMPLATE/bug_report.yml", "benchmarks/results/schema.json", "benchmarks/reproduced/demo.json",
)  # fmt: skip
LARGEST_FILE = 200_000  # bytes; kernels excepted
LARGEST = {"wheel": 5_000_000, "sdist": 3_000_000}
# The libraries that manylinux expects on every system; nothing of torch, CUDA or OpenMP.
SYSTEM = {
    "libc.so.6", "libm.so.6", "libpthread.so.0", "librt.so.1", "libdl.so.2", "ld-linux-x86-64.so.2",
    "libstdc++.so.6", "libgcc_s.so.1",
}  # fmt: skip


def needed(library: bytes) -> set[str]:
    """Names of the shared libraries that an ELF file asks the loader for."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        listing = subprocess.run(["readelf", "-d", file.name], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", listing))


def _common(sizes: dict[str, int], path: Path, kind: str) -> Iterable[str]:
    for name, size in sizes.items():
        if size > LARGEST_FILE and not name.endswith(".so"):
            yield f"{name} has {size:,} bytes, expected at most {LARGEST_FILE:,}"
        if fnmatch(name, "*__pycache__*") or fnmatch(name, "*.py[co]"):
            yield f"{name} is no source"
    if path.stat().st_size > LARGEST[kind]:
        yield f"the file has {path.stat().st_size:,} bytes, expected at most {LARGEST[kind]:,}"


def wheel_faults(path: Path) -> list[str]:
    """What is wrong with a wheel; empty when it is as it should be."""
    with zipfile.ZipFile(path) as wheel:
        sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
        modules = [name for name in sizes if name.endswith(".so")]
        libraries = {name: needed(wheel.read(name)) for name in modules}
        infos = [name for name in sizes if name.endswith(".dist-info/METADATA")]
        meta = Parser().parsestr(wheel.read(infos[0]).decode()) if len(infos) == 1 else None
    if meta is None:
        return [f"{len(infos)} METADATA files, expected 1"]
    faults = list(_common(sizes, path, "wheel"))
    info = infos[0].rpartition("/")[0]
    wanted = [*DATA, f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"]
    faults += [f"{name} is missing" for name in wanted if name not in sizes]
    faults += [f"{name} does not belong in a wheel" for name in sizes if not name.startswith(("ddfast/", f"{info}/"))]
    faults += [f"{name} links {', '.join(extra)}" for name, found in libraries.items() if (extra := found - SYSTEM)]
    if meta["License-Expression"] != "Apache-2.0":
        faults.append(f"License-Expression is {meta['License-Expression']!r}, expected 'Apache-2.0'")
    kernels = {Path(name).name.split(".")[0] for name in modules}
    pure = path.name.endswith("-py3-none-any.whl")
    expected = set() if pure else {"_cpu", "_cuda"} if "+cu" in meta["Version"] else {"_cpu"}
    if kernels != expected:
        faults.append(f"native modules: {sorted(kernels)}, expected {sorted(expected)}")
    return faults


def sdist_faults(path: Path) -> list[str]:
    """What is wrong with a source distribution; beside the checkout it must hold all sources of the kernels."""
    with tarfile.open(path) as archive:
        sizes = {member.name.partition("/")[2]: member.size for member in archive if member.isfile()}
    faults = list(_common(sizes, path, "sdist"))
    sources = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "csrc").rglob("*")) if file.is_file()]
    faults += [f"{name} is missing" for name in (*IN_SDIST, *sources) if name not in sizes]
    faults += [f"{name} is built, not source" for name in sizes if name.endswith(".so")]
    return faults


def main(names: list[str]) -> int:
    """Prints each file's size and faults; 1 when there are any."""
    bad = not names
    for path in map(Path, names):
        faults = wheel_faults(path) if path.suffix == ".whl" else sdist_faults(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {'; '.join(faults) or 'as expected'}")
        bad = bad or bool(faults)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
