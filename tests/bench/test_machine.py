"""Names of machines."""

from __future__ import annotations

import pytest

from ddfast.bench import machine


@pytest.mark.parametrize(
    ("cpu", "isa", "gpu", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", ["amx"], None, "xeon-platinum-8481c-2c"),
        ("Intel(R) Xeon(R) Processor", ["amx", "avx512"], None, "xeon-amx-2c"),
        ("AMD EPYC 9B14 96-Core Processor", [], "NVIDIA H200", "epyc-9b14-2c-h200"),
        ("", [], None, "cpu-2c"),
    ],
)
def test_slug(cpu: str, isa: list[str], gpu: str | None, slug: str) -> None:
    assert machine.slug(cpu, 2, isa, gpu) == slug
