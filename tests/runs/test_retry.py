"""`ddfast retry` and a resumed run make damaged results anew, whatever the method."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddfast.runs.upkeep import retry
from tests.runs.matching_workers import work


def _damage(path: Path) -> bytes:
    """Flips a bit and gives back what was there."""
    good = path.read_bytes()
    path.write_bytes(good[:-3] + bytes([good[-3] ^ 16]) + good[-2:])
    return good


@pytest.mark.parametrize(("method", "task"), [("dm", "distill"), ("pdd", "write"), ("d3", "merge")])
def test_damaged_images_are_found_and_made_anew(tmp_path: Path, method: str, task: str) -> None:
    out = tmp_path / "out"
    work(method, out)
    assert retry(out, verify=True) == []
    good = _damage(out / "images.safetensors")
    assert retry(out, verify=True) == [task]
    work(method, out)
    assert (out / "images.safetensors").read_bytes() == good
    assert retry(out, verify=True) == []
    if method == "d3":
        block = out / "blocks/0/block.safetensors"
        good = _damage(block)
        assert retry(out, verify=True) == ["block-0"]
        work(method, out)
        assert block.read_bytes() == good
        block.write_bytes(good[:-5])  # seen without checksums
        work(method, out)
        assert block.read_bytes() == good


def test_a_retried_expert_is_trained_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    work("mtt", out)
    store = out / "experts/experts.safetensors"
    good = _damage(store)
    assert retry(out, "experts/expert-00002") == ["experts/expert-00002"]
    assert retry(out, "distill") == ["distill"]
    work("mtt", out)
    assert store.read_bytes() == good
