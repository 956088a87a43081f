"""The decode fit on known costs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ddfast.bench import ceilings as measuring


def test_decode_fit_recovers_known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for side, quality in ((64, 30), (64, 95), (200, 50), (320, 90)):
        memory = io.BytesIO()
        noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(memory, "JPEG", quality=quality)
        files.append(memory.getvalue())
    sizes = iter([(len(data), side**2) for data, side in zip(files, (64, 64, 200, 320), strict=True)])

    def known(_run: object, _passes: int = 5) -> float:
        length, pixels = next(sizes)
        return 5e-9 * length + 2e-9 * pixels

    monkeypatch.setattr(measuring, "cpu_seconds", known)
    assert measuring.fit_decode(files) == pytest.approx((5e-9, 2e-9))
