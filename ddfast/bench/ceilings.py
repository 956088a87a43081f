"""What this machine can do, measured: one core's matrix products, copies, JPEG decoding, crops, JPEG encoding; its GPU.

Peaks are those of the best matrix product tried: fp32 on AVX-512 cores reaches the multiply-add units' own peak; with
AMX, bf16 products stay far below the nominal tile peak, so a bf16 floor is what a library reaches, not the silicon's.
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from ddfast.bench.device_timing import median_seconds
from ddfast.bench.pictures import picture
from ddfast.ops import multi_crop

_MATRIX_SIDES = (512, 1024, 2048)
# read + written: within the L2 cache, beyond it, within a shared cache, memory
_COPY_SIZES = (1 << 19, 1 << 22, 1 << 25, 1 << 28)


@dataclass(frozen=True)
class Ceilings:
    """Of one core: FLOP/s, bytes/s read + written by a copy, decode seconds = per_byte * bytes + per_pixel * pixels.

    ``copy_bytes`` is the rate beyond all caches, ``copy_rates`` maps bytes read + written by one copy to its rate.
    """

    fp32_flops: float
    bf16_flops: float
    copy_bytes: float
    decode_per_byte: float
    decode_per_pixel: float
    crop_seconds: float
    encode_seconds: float
    note: str = ""
    copy_rates: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """One line a ceiling."""
        return "\n".join(
            (
                f"one core of {platform.processor() or platform.machine()}, torch {torch.__version__}: {self.note}",
                f"  matmul fp32 {self.fp32_flops / 1e9:.0f} GFLOP/s, bf16 {self.bf16_flops / 1e9:.0f} GFLOP/s",
                f"  copy {self.copy_bytes / 1e9:.1f} GB/s (read + written)",
                f"  decode {self.decode_per_byte * 1e9:.2f} ns/byte + {self.decode_per_pixel * 1e9:.2f} ns/pixel",
                f"  crop to 112 px {self.crop_seconds * 1e6:.0f} us",
                f"  JPEG encode 224 px {self.encode_seconds * 1e3:.2f} ms",
            )
        )


def cpu_seconds(run: Callable[[], object], passes: int = 5) -> float:
    """Least process CPU seconds of ``run``: what other processes do on the machine does not count."""
    best = float("inf")
    for _ in range(passes):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def measure(folder: Path | None = None) -> Ceilings:
    """Measure one core; ``folder`` holds JPEGs (searched recursively, up to 60 are used) for the decode fit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        files, note = _jpegs(folder)
        per_byte, per_pixel = fit_decode(files)
        copies = {str(size): copy_rate(size) for size in _COPY_SIZES}
        return Ceilings(
            matmul_flops(torch.float32),
            matmul_flops(torch.bfloat16),
            copies[str(_COPY_SIZES[-1])],
            per_byte,
            per_pixel,
            crop_seconds(),
            encode_seconds(),
            note,
            copies,
        )
    finally:
        torch.set_num_threads(threads)


def as_dict(ceilings: Ceilings) -> dict[str, Any]:
    """For a result file; with the GPU's copy and matrix products where CUDA is there."""
    return {**asdict(ceilings), "gpu": gpu_ceilings()}


def matmul_flops(dtype: torch.dtype) -> float:
    """FLOP/s of the best of some matrix products in ``dtype`` on the current number of threads (set 1 for one core)."""
    best = 0.0
    for side in _MATRIX_SIDES:
        left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
        out = torch.empty(side, side, dtype=dtype)
        torch.mm(left, right, out=out)
        passes = max(3, 8 * 1024**3 // side**3)
        seconds = cpu_seconds(lambda left=left, right=right, out=out: torch.mm(left, right, out=out), passes)  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds)
    return best


def copy_rate(size: int) -> float:
    """Bytes/s read plus written by a copy that moves ``size`` bytes in all."""
    source = torch.ones(size // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    repeats = max(1, (1 << 26) // size)

    def copy() -> None:
        for _ in range(repeats):
            target.copy_(source)

    copy()
    return size * repeats / cpu_seconds(copy)


def gpu_ceilings() -> dict[str, float] | None:
    """Bytes/s of a large copy and FLOP/s of 8192^3 products on the GPU; None without CUDA. fp32 has TF32 off."""
    if not torch.cuda.is_available():
        return None
    source = torch.ones(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found = {"copy_bytes": 2 * source.numel() / median_seconds(lambda: target.copy_(source), rounds=20)}
    for name, dtype in (("fp32_flops", torch.float32), ("bf16_flops", torch.bfloat16)):
        left, right = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
        run = lambda left=left, right=right: torch.mm(left, right)  # noqa: E731
        found[name] = 2 * 8192**3 / median_seconds(run, rounds=20)
    return found


def fit_decode(files: list[bytes]) -> tuple[float, float]:
    """Seconds per byte and per pixel of libjpeg-turbo (simplejpeg, RGB, default DCT): least squares of t = a B + b P.

    Both are at least 0. Files of one aspect of size and compression alone cannot tell the two apart; the sum is then
    right for files like these only.
    """
    rows, times = [], []
    for data in files:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        rows.append((len(data), height * width))
        times.append(cpu_seconds(lambda data=data: simplejpeg.decode_jpeg(data), 7))  # type: ignore[misc]
    matrix, seconds = np.array(rows, float), np.array(times)
    per_byte, per_pixel = np.linalg.lstsq(matrix, seconds, rcond=None)[0]
    if per_byte < 0 or per_pixel < 0:
        column = int(per_byte < 0)
        alone = float((matrix[:, column] @ seconds) / (matrix[:, column] @ matrix[:, column]))
        per_byte, per_pixel = (0.0, alone) if column else (alone, 0.0)
    return float(per_byte), float(per_pixel)


def crop_seconds(crops: int = 5) -> float:
    """Seconds one 112 px crop takes ``ddfast.ops.multi_crop`` on a 375 x 500 picture (the best backend there is)."""
    pixels = torch.randint(0, 256, (375 * 500 * 3,), dtype=torch.uint8)
    sides = torch.linspace(123, 375, crops).int()
    boxes = torch.stack([(375 - sides) // 2, (500 - sides) // 2, sides, sides], 1).int()
    offset, size = torch.zeros(1, dtype=torch.int64), torch.tensor([[375, 500]], dtype=torch.int32)
    index = torch.zeros(crops, dtype=torch.int32)
    out = torch.empty(crops, 3, 112, 112)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def many() -> None:
        for _ in range(20):
            multi_crop(pixels, offset, size, boxes, index, size=(112, 112), mean=mean, std=std, out=out)

    many()
    return cpu_seconds(many) / (20 * crops)


def encode_seconds() -> float:
    """Seconds to write one 224 px picture as Pillow's default JPEG."""
    image = Image.fromarray(picture(224, 224, 3))

    def many() -> None:
        for _ in range(10):
            image.save(io.BytesIO(), "JPEG")

    return cpu_seconds(many) / 10


def _jpegs(folder: Path | None) -> tuple[list[bytes], str]:
    if folder is not None:
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
        if not paths:
            raise ValueError(f"data: {folder} holds no JPEG files")
        files = [path.read_bytes() for path in paths[:: max(1, len(paths) // 60)]][:60]
        return files, f"decode fitted to {len(files)} files of {len(b''.join(files)) / len(files) / 1e3:.0f} kB"
    files = []
    for seed, (height, width, quality) in enumerate(((375, 500, 95), (375, 500, 75), (224, 224, 95), (320, 427, 85))):
        memory = io.BytesIO()
        Image.fromarray(picture(height, width, seed)).save(memory, "JPEG", quality=quality)
        files.append(memory.getvalue())
    return files, "decode fitted to made-up pictures, give --data for real ones"
