"""One block of D3: its pictures, stopping and going on, what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast.data import Source
from ddfast.methods._options import RunOptions
from ddfast.methods.d3 import D3Config
from ddfast.methods.d3.block import ClassesOf, DistilledBlock, block_problem, distil_block
from ddfast.train.latent.matcher import D3Matcher
from tests.methods.d3_case import TINY, source

QUIET = RunOptions(quiet=True, device="cpu")


def block(folder: Path, **changes: Any) -> DistilledBlock:
    return distil_block(source(), (1, 4, 5), D3Config(**{**TINY, **changes}), folder, QUIET, block=1)


def test_a_block_sees_its_own_classes_and_holds_out_the_same_pictures_as_any_other() -> None:
    config = D3Config(**TINY)
    some, all_of_them = (block_problem(source(), classes, config, QUIET) for classes in ((4, 1), range(6)))
    assert some.class_names == ("elk", "bee")
    for label, number in enumerate((4, 1)):
        for part in ("test", "pictures"):
            labels = "test_labels" if part == "test" else "labels"
            own = getattr(some, part)[getattr(some, labels) == label]
            assert torch.equal(own, getattr(all_of_them, part)[getattr(all_of_them, labels) == number])
    part: Source = ClassesOf(source(), (4, 1))
    assert isinstance(part, Source)
    assert part.sample_id(1, 3) == source().sample_id(1, 3)
    assert part.fingerprint() != ClassesOf(source(), (1, 4)).fingerprint()
    for classes in ((), (1, 1), (6,)):
        with pytest.raises(ValueError, match=r"classes: got \[.*different labels from 0 to 5"):
            ClassesOf(source(), classes)


def test_there_may_be_more_priors_than_pictures() -> None:
    config = D3Config(**{**TINY, "lpc": 50})
    assert len(block_problem(source(), (0, 1), config, QUIET).labels) == 20


def test_stopped_and_gone_on_with_it_is_the_same_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = block(tmp_path / "whole")
    advance = D3Matcher.advance

    def stopping(self: D3Matcher) -> float:
        if self.iteration == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(D3Matcher, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            block(tmp_path / "stopped")
    stopped = block(tmp_path / "stopped")
    again = block(tmp_path / "stopped")  # finished, the checkpoint still there
    for other in (stopped, again):
        assert torch.equal(other.latents.latents, whole.latents.latents)
        for name, value in whole.latents.decoder.state_dict().items():
            assert torch.equal(other.latents.decoder.state_dict()[name], value)
        assert (other.losses, other.tests, other.notes, other.lr) == (whole.losses, whole.tests, whole.notes, whole.lr)
    assert whole.latents.labels.tolist() == [1, 1, 4, 4, 5, 5]
    assert [test["iteration"] for test in whole.tests] == [2, 4]
    assert len(whole.notes["mmd_losses"]) == len(whole.notes["trajectory_losses"]) == len(whole.losses) == 4
    assert (whole.notes["pictures"], whole.notes["held_out"]) == (30, 6)
    assert (tmp_path / "whole" / "samples.png").exists()


def test_ablations_leave_a_term_or_the_noise_out(tmp_path: Path) -> None:
    changes: tuple[dict[str, Any], ...] = ({"mtt_weight": 0.0}, {"mmd_weight": 0.0}, {"sampling": False})
    made = [block(tmp_path / str(k), iterations=1, eval_every=1, **change) for k, change in enumerate(changes)]
    assert ["mtt" if "trajectory_losses" in each.notes else "" for each in made] == ["", "mtt", "mtt"]
    assert ["mmd" if "mmd_losses" in each.notes else "" for each in made] == ["mmd", "", "mmd"]
    assert made[0].lr is None
    # with means alone the variances stay as they were drawn
    one, other = made[2].latents.latents, block(tmp_path / "3", iterations=2, sampling=False).latents.latents
    assert torch.equal(one[..., 1], other[..., 1])
    assert not torch.equal(one[..., 0], other[..., 0])
