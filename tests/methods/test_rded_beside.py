"""RDED as it runs beside a GPU: selection in its own thread, patches kept for re-scoring; same files as always."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import ddfast
from ddfast.methods.rded import finisher, scorer, stages
from tests.methods.rded_case import SETTINGS, files_of


def run(pictures: Path, net: nn.Module, out: Path, **settings: object) -> dict[str, bytes]:
    ddfast.distill("rded", pictures, observer=net, out=out, **{**SETTINGS, **settings})
    return files_of(out)


def images(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".jpg")}


def test_selection_in_its_own_thread(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(pictures, net, tmp_path / "plain")
    threads, choose = set(), stages.choose

    def noting(*args: object) -> stages.Chosen:
        threads.add(threading.current_thread().name)
        return choose(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "choose", noting)
    monkeypatch.setattr(finisher, "select_beside", lambda device: True)
    assert run(pictures, net, tmp_path / "beside") == plain
    assert threads
    assert threading.main_thread().name not in threads


def test_an_error_in_the_selecting_thread_ends_the_run(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finisher, "select_beside", lambda device: True)
    plain = run(pictures, net, tmp_path / "plain")
    whole = stages.choose

    def failing(scores: stages.ClassScores, *args: object) -> stages.Chosen:
        if scores.label == 2:
            raise RuntimeError("broken on purpose")
        return whole(scores, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "choose", failing)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        run(pictures, net, tmp_path / "again")
    monkeypatch.setattr(stages, "choose", whole)
    assert run(pictures, net, tmp_path / "again", resume=True) == plain


def test_kept_patches_are_scored_as_pictures_decoded_again(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loader's batches are fresh memory, as copies on a GPU are.
    settings = {"precision": "bf16", "stream": "torch", "workers": 0, "batch_images": 5}
    plain = run(pictures, net, tmp_path / "plain", **settings)
    kept, rescore = [], scorer.Scorer.rescore

    def noting(self: scorer.Scorer, precision: str, sample: scorer.Sample) -> object:
        if precision == "fp32" and sample.patches is not None:
            decoded = self._cut("fp32", sample)
            torch.testing.assert_close(sample.patches, decoded, rtol=0, atol=2e-6)  # another resizer
            kept.append(len(decoded))
        return rescore(self, precision, sample)

    monkeypatch.setattr(scorer.Scorer, "_room_to_keep", lambda self: True)
    monkeypatch.setattr(scorer.Scorer, "rescore", noting)
    assert images(run(pictures, net, tmp_path / "kept", **settings)) == images(plain)
    assert sum(kept) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("engine", ["torch", "compile"])
@pytest.mark.parametrize("stream", ["threads", "torch"])
def test_a_gpu_makes_the_same_images(
    pictures: Path, net: nn.Module, tmp_path: Path, precision: str, engine: str, stream: str
) -> None:
    plain = run(pictures, net, tmp_path / "cpu", device="cpu")
    settings = {"device": "cuda", "precision": precision, "engine": engine, "stream": stream}
    assert images(run(pictures, net, tmp_path / "gpu", **settings)) == images(plain)


@pytest.mark.gpu
def test_a_gpu_without_room_for_patches(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(pictures, net, tmp_path / "cpu", device="cpu")
    monkeypatch.setattr(scorer.Scorer, "_room_to_keep", lambda self: False)
    settings = {"device": "cuda", "precision": "bf16"}
    assert images(run(pictures, net, tmp_path / "gpu", **settings)) == images(plain)


@pytest.mark.gpu
def test_a_gpu_that_compiles_beside_the_work(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(pictures, net, tmp_path / "cpu", device="cpu")
    monkeypatch.setattr(scorer, "_MANY_CROPS", 0)
    settings = {"device": "cuda", "precision": "fp16", "engine": "auto"}
    assert images(run(pictures, net, tmp_path / "gpu", **settings)) == images(plain)
