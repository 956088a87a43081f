"""packaging/check_dist.py finds what must not be in a wheel or source distribution, and what is missing."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
INFO = "ddfast-0.1.0.dist-info"
PLAIN = {
    "ddfast/__init__.py": b"",
    "ddfast/py.typed": b"",
    "ddfast/nets/imagenet_wnids.txt": b"n01440764\n",
    "ddfast/evaluation/style.css": b"body {}\n",
    f"{INFO}/METADATA": b"Metadata-Version: 2.4\nName: ddfast\nVersion: 0.1.0\nLicense-Expression: Apache-2.0\n",
    f"{INFO}/licenses/LICENSE": b"Apache",
    f"{INFO}/entry_points.txt": b"[console_scripts]\nddfast = ddfast.cli:main\n",
}


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_dist", ROOT / "packaging" / "check_dist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, contents: dict[str, bytes], name: str = "ddfast-0.1.0-py3-none-any.whl") -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in contents.items():
            archive.writestr(path, data)
    return folder / name


def test_the_wheel_of_python_alone_passes(check: ModuleType, tmp_path: Path) -> None:
    assert check.wheel_faults(wheel(tmp_path, PLAIN)) == []


@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"ddfast/__init__.py", f"{INFO}/METADATA"}))
def test_what_is_missing_is_named(check: ModuleType, tmp_path: Path, name: str) -> None:
    contents = {path: data for path, data in PLAIN.items() if path != name}
    assert check.wheel_faults(wheel(tmp_path, contents)) == [f"{name} is missing"]


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("tests/test_cli.py", b"", "tests/test_cli.py does not belong in a wheel"),
        ("benchmarks/limit.py", b"", "benchmarks/limit.py does not belong in a wheel"),
        ("ddfast/big.bin", bytes(200_001), "ddfast/big.bin has 200,001 bytes, expected at most 200,000"),
        ("ddfast/__pycache__/cli.pyc", b"", "ddfast/__pycache__/cli.pyc is no source"),
    ],
)
def test_what_does_not_belong_is_named(check: ModuleType, tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    assert check.wheel_faults(wheel(tmp_path, {**PLAIN, name: data})) == [fault]


def test_wheels_of_a_platform_need_their_kernels(check: ModuleType, tmp_path: Path) -> None:
    name = "ddfast-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert check.wheel_faults(wheel(tmp_path, PLAIN, name)) == ["native modules: [], expected ['_cpu']"]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_kernels_link_system_libraries_alone(check: ModuleType, tmp_path: Path) -> None:
    built = ROOT / "ddfast" / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not built.exists():
        pytest.skip("ddfast._cpu is not built")
    kernels = built.read_bytes()
    assert "libc.so.6" in check.needed(kernels)
    assert check.needed(kernels) <= check.SYSTEM
    name = "ddfast-0.1.0-cp311-cp311-linux_x86_64.whl"
    path = wheel(tmp_path, {**PLAIN, "ddfast/_cpu.so": kernels}, name)
    assert check.wheel_faults(path) == []
    check.SYSTEM.remove("libstdc++.so.6")
    try:
        assert check.wheel_faults(path) == ["ddfast/_cpu.so links libstdc++.so.6"]
    finally:
        check.SYSTEM.add("libstdc++.so.6")


def test_source_distributions_hold_every_kernel(check: ModuleType, tmp_path: Path) -> None:
    sources = [str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    names = [*check.IN_SDIST, *sources]
    path = tmp_path / "ddfast-0.1.0.tar.gz"
    for missing in (None, "csrc/common/isa.h", "tests/conftest.py"):
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                if name != missing:
                    archive.addfile(tarfile.TarInfo(f"ddfast-0.1.0/{name}"), io.BytesIO())
        assert check.sdist_faults(path) == ([f"{missing} is missing"] if missing else [])


def test_exit_code_and_sizes(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = wheel(tmp_path, PLAIN)
    assert check.main([str(good)]) == 0
    assert "MB, as expected" in capsys.readouterr().out
    bad = wheel(tmp_path, {**PLAIN, "setup.py": b""})
    assert check.main([str(bad)]) == 1
    assert check.main([]) == 1
