"""parity=True writes the same bytes as a transcription of the reference that uses the real loader and random draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import ddfast
from benchmarks.baselines import rded_reference
from tests.methods.rded_case import files_of, small_net


@pytest.mark.parametrize(("factor", "size"), [(2, 32), (1, 24), (3, 32)])
@pytest.mark.parametrize("workers", [0, 2])
def test_parity_equals_the_transcription_byte_for_byte(
    pictures: Path, tmp_path: Path, workers: int, factor: int, size: int
) -> None:
    settings = {"ipc": 1 if factor == 3 else 2, "mipc": 10, "num_crop": 3, "size": size, "factor": factor}

    def build() -> nn.Module:
        nn.Conv2d(3, 5, 3)  # eats from the generator, as the reference's random initialisation does
        import torch

        state = torch.get_rng_state()
        net = small_net()
        torch.set_rng_state(state)
        return net

    rded_reference.distill(pictures, build, tmp_path / "reference", nclass=4, workers=workers, seed=7, **settings)
    ddfast.distill(
        "rded", pictures, observer=build, out=tmp_path / "ours", parity=True, rounding="truncate", seed=7,
        parity_workers=workers, quiet=True, **settings,
    )  # fmt: skip
    wanted = {k: v for k, v in files_of(tmp_path / "reference").items() if k.endswith(".jpg")}
    found = {k: v for k, v in files_of(tmp_path / "ours").items() if k.endswith(".jpg")}
    assert len(wanted) == 4 * settings["ipc"]
    assert found == wanted


def test_parity_continues_after_an_interruption(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddfast.methods.rded import parity

    settings = {
        "observer": net, "parity": True, "rounding": "truncate", "ipc": 2, "mipc": 10, "num_crop": 2, "size": 32,
        "quiet": True,
    }  # fmt: skip
    ddfast.distill("rded", pictures, out=tmp_path / "whole", **settings)
    plain, calls = parity.distill_class, []

    def stop_at_third(*args: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(parity, "distill_class", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        ddfast.distill("rded", pictures, out=tmp_path / "cut", **settings)
    monkeypatch.setattr(parity, "distill_class", plain)
    ddfast.distill("rded", pictures, out=tmp_path / "cut", resume=True, **settings)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_parity_refuses_what_the_reference_cannot_do(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rounding='truncate'"):
        ddfast.distill("rded", pictures, observer=net, out=tmp_path / "a", parity=True, ipc=1, mipc=10)
    with pytest.raises(ValueError, match="mipc=20"):
        ddfast.distill(
            "rded", pictures, observer=net, out=tmp_path / "b", parity=True, rounding="truncate", ipc=1, mipc=20
        )
