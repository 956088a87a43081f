"""Classifiers in files that say all about themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddfast._types import Normalization
from ddfast.evaluation.teacher import find_teacher
from ddfast.nets.convnet import ConvNet
from ddfast.nets.described import AveragedNets, described_bytes
from ddfast.nets.observers import load_observer
from ddfast.store import DistilledSet

OWN = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
NAMES = ("ant", "bee", "cat")


def nets(count: int) -> list[ConvNet]:
    torch.manual_seed(0)
    return [ConvNet(2, 3, 8, width=5, norm="instance") for _ in range(count)]


def written(path: Path, count: int = 1) -> list[ConvNet]:
    made = nets(count)
    path.write_bytes(described_bytes(made, norm="instance", size=8, normalization=OWN, class_names=NAMES))
    return made


def test_an_observer_is_what_its_file_says(tmp_path: Path) -> None:
    (net,) = written(tmp_path / "teacher.safetensors")
    found = load_observer(str(tmp_path / "teacher.safetensors"))
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(found.module(x), net(x))
    assert (found.class_names, found.normalization, found.input_size) == (NAMES, OWN, 8)
    assert (tmp_path / "teacher.safetensors").read_bytes() == described_bytes(
        nets(1), norm="instance", size=8, normalization=OWN, class_names=NAMES
    )


def test_several_nets_average_probabilities(tmp_path: Path) -> None:
    made = written(tmp_path / "teacher.safetensors", 3)
    found = load_observer(str(tmp_path / "teacher.safetensors"))
    x = torch.randn(4, 3, 8, 8)
    mean = torch.stack([net.double()(x.double()).softmax(1) for net in made]).mean(0)
    torch.testing.assert_close(found.module(x).double().exp(), mean, rtol=1e-5, atol=1e-7)
    sharp = AveragedNets([torch.nn.Identity(), torch.nn.Identity()])(torch.tensor([[1e4, -1e4]]))
    assert torch.isfinite(sharp).all()


def test_a_teacher_of_a_set_in_another_class_order(tmp_path: Path) -> None:
    (net,) = written(tmp_path / "teacher.safetensors")
    given = DistilledSet(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "ant"))
    teacher, note = find_teacher(str(tmp_path / "teacher.safetensors"), None, given, None)
    x = torch.randn(2, 3, 8, 8)
    assert teacher is not None
    assert teacher.normalization == OWN
    assert torch.equal(teacher(x), net(x)[:, [2, 0]])
    assert note == ""
    other = DistilledSet(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.tensor([0]), ("ant", "dog"))
    with pytest.raises(ValueError, match="dog"):
        find_teacher(str(tmp_path / "teacher.safetensors"), None, other, None)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    written(file)
    with pytest.raises(ValueError, match=r"input_size: got 16, .* 8 pixels"):
        load_observer(str(file), input_size=16)
    with pytest.raises(ValueError, match=r"weights: got other\.pth"):
        load_observer(str(file), weights="other.pth")
    with pytest.raises(ValueError, match="class_names: got 2 names for 3 outputs"):
        described_bytes(nets(1), norm="instance", size=8, normalization=OWN, class_names=NAMES[:2])
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="damaged"):
        load_observer(str(file))
    file.write_bytes(whole)
    state = load_file(file)
    about = {"format": "ddfast.classifier/1", "network": {"depth": 2}, "class_names": list(NAMES)}
    save_file(state, file, {"ddfast": json.dumps(about)})
    with pytest.raises(ValueError, match=r"damaged \('norm'\)"):
        load_observer(str(file))
