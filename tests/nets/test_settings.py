"""Process-wide settings are put back, and other code can read them meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ddfast.nets.settings import full_float32, torch_threads


def test_tf32_is_off_inside_and_back_outside() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with full_float32():
        with full_float32():
            pass
        assert torch.backends.cudnn.allow_tf32 is False, "still inside the outer block"
        assert torch.backends.cuda.matmul.allow_tf32 is False
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_the_product_precision_survives(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_programs_that_use_the_newer_switches() -> None:
    code = (
        "import torch\nfrom ddfast.nets.settings import full_float32\nconv = torch.backends.cudnn.conv\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\nconv.fp32_precision = 'ieee'\n"
        "with full_float32():\n    assert torch.backends.cuda.matmul.fp32_precision == 'ieee'\n"
        "assert (conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == ('ieee', 'tf32')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        1 // (before + 1 - torch.get_num_threads())
    assert torch.get_num_threads() == before
