"""Choice of the backend: best available, forced by context, refused with a reason."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from ddfast import __version__, build_info, ops
from ddfast._info import describe
from ddfast.ops import _registry


@pytest.fixture
def probe() -> _registry.Op:
    op = _registry.Op("probe", "probe(Tensor x) -> str", lambda x: "reference")
    op.add_backend("reference", op.reference)
    op.add_backend("cpp", lambda x: "cpp", rejects=lambda x: "" if x.dtype == torch.float32 else "float32 only")
    op.add_backend("cuda", lambda x: "cuda")
    _registry.OPS["probe"] = op
    yield op
    del _registry.OPS["probe"]


def test_the_best_backend_that_takes_the_arguments_runs(probe: _registry.Op, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._MISSING, "cpp", lambda device: "")
    probe.add_backend("cpp", lambda x: "cpp", rejects=lambda x: "" if x.dtype == torch.float32 else "float32 only")
    assert probe(torch.zeros(1)) == "cpp"
    assert probe(torch.zeros(1, dtype=torch.float64)) == "reference"


def test_forcing_a_backend_and_undoing_it(probe: _registry.Op) -> None:
    with ops.use_backend("reference", ["probe"]):
        assert probe(torch.zeros(1)) == "reference"
        with pytest.raises(ops.BackendError, match="CUDA tensors"), ops.use_backend("cuda", ["probe"]):
            probe(torch.zeros(1))
    assert not _registry._forced


def test_a_forced_backend_that_rejects_the_arguments_raises(
    probe: _registry.Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry._MISSING, "cpp", lambda device: "")
    probe.add_backend("cpp", lambda x: "cpp", rejects=lambda x: "float32 only")
    with ops.use_backend("cpp", ["probe"]), pytest.raises(ops.BackendError, match="float32 only"):
        probe(torch.zeros(1))


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name: got 'numpy'"), ops.use_backend("numpy"):
        pass
    with pytest.raises(ValueError, match="ops: got 'nothing'"), ops.use_backend("cpp", ["nothing"]):
        pass
    with pytest.raises(ValueError, match="op: got 'nothing'"):
        ops.available_backends("nothing")


def test_a_source_tree_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    assert build_info()["ddfast"] == __version__


def test_build_info_names_every_op_and_reads_well() -> None:
    info = build_info()
    for op in ("multi_crop", "crop_score", "class_topk", "mosaic"):
        assert "reference" in info["ops"][op]["cpu"]
    text = describe(info)
    assert "ddfast._cpu" in text
    assert "multi_crop" in text
    assert info["packages"]["torch"] in text
