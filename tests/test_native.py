"""The C++ kernels are there wherever the tests run: a suite that silently tests the reference only proves little."""

from __future__ import annotations

import platform

import pytest

from ddfast import _native, ops


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="native kernels are tuned for x86-64")
def test_the_cpu_module_is_built_and_preferred() -> None:
    assert _native.cpu() is not None, f"{_native.why_missing('_cpu')}; install with `pip install -e .`"
    for op in ("multi_crop", "crop_score", "class_topk", "mosaic"):
        assert ops.available_backends(op, "cpu")[0] == "cpp"
