"""Made-up ceilings."""

from __future__ import annotations

CEILINGS = {
    "fp32_flops": 100e9, "bf16_flops": 400e9, "copy_bytes": 10e9, "copy_rates": {"1000000": 50e9, "100000000": 10e9},
    "decode_per_byte": 7e-9, "decode_per_pixel": 1.5e-9, "crop_seconds": 4e-5, "encode_seconds": 1e-3, "note": "",
    "gpu": {"copy_bytes": 4e12, "fp32_flops": 50e12, "bf16_flops": 800e12},
}  # fmt: skip
