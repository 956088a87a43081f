"""D3's loop against a plain transcription in float64; the image-gradient cut, chunks, restarts, bad numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddfast.train.latent.matcher import D3Matcher
from ddfast.train.trajectories import TrajectoryStore
from tests.train.d3_case import Transcription, matching, store_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path: Path = tmp_path_factory.mktemp("experts")
    return store_of(path)


def tensors(ours: D3Matcher | Transcription) -> list[Tensor]:
    return [
        ours.latents.detach(),
        ours.syn_lr.detach(),
        *(each.detach() for each in ours.decoder.state_dict().values()),
    ]


@pytest.mark.parametrize("changes", [
    {}, {"mtt_weight": 0.0}, {"mmd_weight": 0.0}, {"sampling": False}, {"mmd_features": "target", "batch_syn": None},
    {"batch_norm": "running"},
])  # fmt: skip
def test_three_iterations_are_those_of_the_transcription(store: TrajectoryStore, changes: dict[str, Any]) -> None:
    ours = matching(store, **changes)
    begun = [each.clone() for each in tensors(ours)]
    plain = Transcription(ours)
    losses = [plain.advance(iteration) for iteration in range(3)]
    assert [ours.advance() for _ in range(3)] == pytest.approx(losses, rel=1e-9)
    for found, wanted, before in zip(tensors(ours), tensors(plain), begun, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
        if "mtt_weight" not in changes or found.ndim:
            assert not torch.equal(found, before)
