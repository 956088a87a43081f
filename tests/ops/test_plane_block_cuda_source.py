"""plane_block's CUDA kernels run on the CPU: the same source through g++, fibers and the address sanitizer."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddfast._native import DTYPE_CODES
from ddfast.ops.plane_block import reference
from tests.ops.test_plane_block import case

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("gamma", "beta", "dgamma", "dbeta", "a", "da", "gp", "dgp", "mean", "rstd", "dmean", "cov", "p", "dp", "ga",
         "dga", "ggamma", "gbeta")  # fmt: skip
SHAPES = [((2, 36, 4, 6), None), ((2, 8, 5, 7), 2), ((1, 64, 2, 2), None)]
METHODS = {"value": 0, "backward": 1, "tangent": 2, "tangent_backward": 3}
F32, BF16 = torch.float32, torch.bfloat16
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda_host")
    host = ROOT / "tests" / "cuda_host"
    command = ["g++", "-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
               f"-I{host / 'include'}", f"-I{ROOT / 'csrc'}", str(host / "plane_block_host.cpp"),
               "-o", str(folder / "plane_block_host")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "cannot find -lasan" in done.stderr or "cannot find -lubsan" in done.stderr:
        pytest.skip("g++ has no sanitizer libraries here")
    assert done.returncode == 0, done.stderr
    return folder / "plane_block_host"


def run(
    program: Path, folder: Path, method: str, pool: bool, eps: float, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """All arrays after the kernel; planes go in and out as they lie in channels-last memory."""
    a = tensors["a"]
    n, c, h, w = a.shape
    models = tensors["gamma"].shape[0] if tensors["gamma"].ndim == 2 else 1
    change = next((tensors[name] for name in ("gp", "da") if name in tensors), a)
    codes = [DTYPE_CODES[str(x.dtype).removeprefix("torch.")] for x in (a, change)]
    content = struct.pack("<9qf", METHODS[method], n, h, w, c, n // models, pool, *codes, eps)
    for name in NAMES:
        data = as_bytes(tensors[name]) if name in tensors else b""
        content += struct.pack("<q", len(data)) + data
    (folder / "in").write_bytes(content)
    done = subprocess.run(
        [str(program), str(folder / "in"), str(folder / "out")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    content, found, place = (folder / "out").read_bytes(), {}, 0
    for name in NAMES:
        (length,) = struct.unpack_from("<q", content, place)
        place += 8
        if length:
            found[name] = from_bytes(content[place : place + length], tensors[name])
        place += length
    return found


def as_bytes(tensor: Tensor) -> bytes:
    rows = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor
    data: bytes = rows.contiguous().view(torch.uint8).numpy().tobytes()
    return data


def from_bytes(data: bytes, like: Tensor) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=like.dtype)
    if like.ndim < 4:
        return flat.reshape(like.shape)
    n, c, h, w = like.shape
    return flat.reshape(n, h, w, c).permute(0, 3, 1, 2)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


@pytest.mark.parametrize(("dtype", "change"), [(F32, F32), (BF16, BF16), (F32, BF16)])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize(("shape", "models"), SHAPES)
def test_kernels_agree_with_the_reference(
    program: Path, tmp_path: Path, shape: tuple[int, int, int, int], models: int | None, pool: bool, dtype: torch.dtype,
    change: torch.dtype,
) -> None:  # fmt: skip
    a, da, gamma, beta, dgamma, dbeta = case(shape, models, dtype)
    da = da.to(change)
    n, c, h, w = shape
    small = (n, c, h // 2, w // 2) if pool else shape
    generator = torch.Generator().manual_seed(9)
    gp, dgp = (torch.randn(small, generator=generator).to(change) for _ in range(2))
    known: dict[str, Any] = {"a": a, "gamma": gamma, "beta": beta}
    rows = {name: poisoned(n, c) for name in ("ggamma", "gbeta", "mean", "rstd", "dmean", "cov")}
    tolerance = {"rtol": 2e-4, "atol": 2e-4} if change == F32 else {"rtol": 2e-2, "atol": 2e-2}

    def check(mine: Tensor, want: Tensor) -> None:
        torch.testing.assert_close(mine.float(), want.float(), **tolerance)

    p, mean, rstd = reference.plane_block(a, gamma, beta, pool, 1e-5)
    got = run(program, tmp_path, "value", pool, 1e-5, {**known, **rows, "p": poisoned(*small, dtype=dtype)})
    check(got["p"], p)
    check(got["mean"], mean)
    check(got["rstd"], rstd)

    known |= {"mean": mean, "rstd": rstd, "gp": gp}
    ga, ggamma, gbeta = reference.backward(gp, a, mean, rstd, gamma, beta, pool)
    outputs = {"ggamma": rows["ggamma"], "gbeta": rows["gbeta"], "ga": poisoned(*shape, dtype=change)}
    got = run(program, tmp_path, "backward", pool, 0.0, {**known, **outputs})
    check(got["ga"], ga)
    check(reference.per_model(got["ggamma"], gamma), ggamma)
    check(reference.per_model(got["gbeta"], gamma), gbeta)

    known |= {"da": da, "dgamma": dgamma, "dbeta": dbeta}
    dp, dmean, cov = reference.tangent(a, da, mean, rstd, gamma, beta, dgamma, dbeta, pool)
    statistics = {"dmean": rows["dmean"], "cov": rows["cov"], "dp": poisoned(*small, dtype=change)}
    got = run(program, tmp_path, "tangent", pool, 0.0, {**known, **statistics})
    check(got["dp"], dp)
    check(got["dmean"], dmean)
    check(got["cov"], cov)

    known |= {"dmean": dmean, "cov": cov}
    for along in (dgp, None):
        more = {} if along is None else {"dgp": along}
        want = reference.tangent_backward(gp, along, a, da, mean, rstd, dmean, cov, gamma, beta, dgamma, pool)
        got = run(program, tmp_path, "tangent_backward", pool, 0.0,
                  {**known, **more, **outputs, "dga": poisoned(*shape, dtype=change)})  # fmt: skip
        check(got["ga"], want[0])
        check(got["dga"], want[1])
        check(reference.per_model(got["ggamma"], gamma), want[2])
        check(reference.per_model(got["gbeta"], gamma), want[3])


def test_a_short_array_is_noticed(program: Path, tmp_path: Path) -> None:
    """The sanitizer is at work: an output one row too small stops the program."""
    a, _, gamma, beta, _, _ = case((2, 8, 4, 4))
    tensors = {
        "a": a,
        "gamma": gamma,
        "beta": beta,
        "mean": poisoned(2, 8),
        "rstd": poisoned(2, 7),
        "p": poisoned(2, 8, 2, 2),
    }
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        run(program, tmp_path, "value", True, 1e-5, tensors)
