"""Expert trajectories: as plain torch trains them, kept on disk, gone on with after any stop, read from MTT's files."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ddfast._types import IMAGENET
from ddfast.data.resident import Resident
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError, Task, seeds
from ddfast.train import NonFiniteLossError, experts, trajectories
from ddfast.train.adjoint import many_step
from ddfast.train.dsa import STRATEGY
from ddfast.train.experts import ExpertConfig, _together, train_experts, trained
from ddfast.train.trajectories import TrajectoryStore, read_replay_buffers, write_replay_buffer

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
CONFIG = ExpertConfig(experts=3, epochs=3, batch_size=8, lr=0.05, dsa="")


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 3
    images = torch.randn(20, 3, 8, 8, generator=generator)
    images[torch.arange(20), labels] += 1.0
    return images, labels


def test_snapshots_are_those_of_plain_sgd(tmp_path: Path) -> None:
    images, labels = pictures()
    store = train_experts(NET, images, labels, CONFIG, tmp_path, quiet=True)
    for number in (0, 2):
        module = NET.module(store.snapshot(number, 0)).double()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for epoch in range(3):
            order = torch.from_numpy(seeds.permutation(0, f"expert {number}", epoch, 20))
            for index in order.split(8):
                optimizer.zero_grad()
                F.cross_entropy(module(images[index].double()), labels[index]).backward()
                optimizer.step()
            want = NET.flatten(module)
            torch.testing.assert_close(store.snapshot(number, epoch + 1).double(), want, rtol=1e-4, atol=1e-5)
    assert not torch.equal(store.snapshot(0, 0), store.snapshot(1, 0))


def test_file_is_plain_safetensors(tmp_path: Path) -> None:
    store = train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True)
    with safe_open(str(store.path), "pt") as file:
        theta, counts = file.get_tensor("theta"), file.get_tensor("snapshots")
    assert list(theta.shape) == [3, 4, NET.size]
    assert counts[:3].tolist() == [4, 4, 4]
    assert torch.equal(theta[1, 2], store.snapshot(1, 2))


class Stop(Exception):
    pass


def test_stopped_after_any_epoch_it_goes_on_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_experts(NET, *pictures(), CONFIG, tmp_path / "whole", quiet=True)
    write = TrajectoryStore.write
    left = 0

    def stopping(self: TrajectoryStore, expert: int, epoch: int, theta: Tensor) -> None:
        nonlocal left
        write(self, expert, epoch, theta)
        left -= 1
        if left == 0:
            raise Stop

    monkeypatch.setattr(TrajectoryStore, "write", stopping)
    for left in (1, 2, 3, 4):  # noqa: B007
        with pytest.raises(Stop):
            train_experts(NET, *pictures(), CONFIG, tmp_path / "stopped", quiet=True)
    left = 10**6
    stopped = train_experts(NET, *pictures(), CONFIG, tmp_path / "stopped", quiet=True)
    assert stopped.path.read_bytes() == whole.path.read_bytes()
    left = 1
    again = train_experts(NET, *pictures(), CONFIG, tmp_path / "stopped", quiet=True)  # nothing left to do
    assert again.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.slow
def test_killed_process_loses_at_most_an_epoch(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.train.test_experts import CONFIG, NET, pictures\n"
        "from ddfast.train.experts import train_experts\n"
        "from ddfast.train.trajectories import TrajectoryStore\n"
        "write = TrajectoryStore.write\n"
        "def killing(self, expert, epoch, theta):\n"
        "    write(self, expert, epoch, theta)\n"
        "    if (expert, epoch) == (1, 2):\n"
        "        os.kill(os.getpid(), 9)\n"
        "TrajectoryStore.write = killing\n"
        "train_experts(NET, *pictures(), CONFIG, Path(sys.argv[1]), quiet=True)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")], cwd=root, check=False)
    assert done.returncode == -9
    assert TrajectoryStore.open(tmp_path / "killed").epochs_done(1) == 2
    killed = train_experts(NET, *pictures(), CONFIG, tmp_path / "killed", quiet=True)
    whole = train_experts(NET, *pictures(), CONFIG, tmp_path / "whole", quiet=True)
    assert killed.path.read_bytes() == whole.path.read_bytes()


def test_other_experts_are_refused(tmp_path: Path) -> None:
    train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True)
    with pytest.raises(RunError, match=r"training\.lr"):
        train_experts(NET, *pictures(), replace(CONFIG, lr=0.1), tmp_path, quiet=True)
    with pytest.raises(RunError, match=r"'width': 16.*expected.*'width': 32"):
        trained(tmp_path, replace(NET, width=32))
    assert len(trained(tmp_path, NET)) == 3


def test_a_removed_file_is_trained_again(tmp_path: Path) -> None:
    store = train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True)
    before = store.path.read_bytes()
    store.path.unlink()
    assert train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True).path.read_bytes() == before


def test_divergence_stops_with_the_snapshots_before(tmp_path: Path) -> None:
    images, labels = pictures()
    images[5] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"expert 0: the loss became nan in epoch 1 at learning rate 0\.05"):
        train_experts(NET, images, labels, CONFIG, tmp_path, quiet=True)
    assert TrajectoryStore.open(tmp_path).epochs_done(0) == 0
    with pytest.raises(RunError, match="are not finished"):
        trained(tmp_path, NET)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    store = train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True)
    with pytest.raises(IndexError, match=r"epoch: got 9, but expert 0 has snapshots 0 \.\. 3"):
        store.snapshot(0, 9)
    store.path.write_bytes(store.path.read_bytes()[:-100])
    with pytest.raises(RunError, match="was cut short while in use"):
        store.snapshot(2, 3)
    with pytest.raises(RunError, match="it was cut short"):
        TrajectoryStore.open(tmp_path)
    store.path.write_bytes(b"nonsense")
    with pytest.raises(RunError, match="is no file of expert trajectories"):
        TrajectoryStore.open(tmp_path)


def test_replay_buffers_there_and_back(tmp_path: Path) -> None:
    store = train_experts(NET, *pictures(), CONFIG, tmp_path / "own", quiet=True)
    lists = [[NET.split(store.snapshot(k, e)) for e in range(4)] for k in range(3)]
    write_replay_buffer(tmp_path / "replay_buffer_0.pt", lists[:2])
    write_replay_buffer(tmp_path / "replay_buffer_1.pt", lists[2:])
    back = list(read_replay_buffers([tmp_path / "replay_buffer_0.pt", tmp_path / "replay_buffer_1.pt"]))
    assert [[len(snapshot) for snapshot in expert] for expert in back] == [[10] * 4] * 3
    assert torch.equal(NET.join(back[2][3]), store.snapshot(2, 3))
    raw = torch.load(tmp_path / "replay_buffer_0.pt", weights_only=True)
    assert isinstance(raw[0][0][0], Tensor)
    damaged = (tmp_path / "replay_buffer_0.pt").read_bytes()[:-500]
    (tmp_path / "replay_buffer_0.pt").write_bytes(damaged)
    with pytest.raises(RunError, match=r"replay_buffer_0\.pt: cannot be read as a replay buffer"):
        list(read_replay_buffers([tmp_path / "replay_buffer_0.pt"]))


def test_given_starts_are_where_experts_begin(tmp_path: Path) -> None:
    starts = torch.stack([NET.init(torch.Generator().manual_seed(50 + k)) for k in range(3)])
    store = train_experts(NET, *pictures(), CONFIG, tmp_path / "given", starts=starts, quiet=True)
    assert all(torch.equal(store.snapshot(k, 0), starts[k]) for k in range(3))
    fresh = train_experts(NET, *pictures(), CONFIG, tmp_path / "fresh", quiet=True)
    same = torch.stack([fresh.snapshot(k, 0) for k in range(3)])
    again = train_experts(NET, *pictures(), CONFIG, tmp_path / "same", starts=same, quiet=True)
    assert torch.equal(again.snapshot(2, 3), fresh.snapshot(2, 3))
    with pytest.raises(RunError, match="starts"):
        train_experts(NET, *pictures(), CONFIG, tmp_path / "given", starts=starts + 1e-6, quiet=True)
    with pytest.raises(RunError, match="starts"):
        train_experts(NET, *pictures(), CONFIG, tmp_path / "given", quiet=True)
    with pytest.raises(ValueError, match=r"starts: got shape \[2, "):
        train_experts(NET, *pictures(), CONFIG, tmp_path / "wrong", starts=starts[:2], quiet=True)


@pytest.mark.parametrize("dsa", ["", STRATEGY])
def test_side_by_side_they_are_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsa: str) -> None:
    config = replace(CONFIG, dsa=dsa)
    alone = train_experts(NET, *pictures(), config, tmp_path / "alone", together=1, quiet=True)
    two = train_experts(NET, *pictures(), config, tmp_path / "two", together=2, quiet=True)
    assert two.path.read_bytes() == alone.path.read_bytes()
    monkeypatch.setattr(many_step, "fastest_way", lambda net, device: "grouped")  # as on a GPU
    grouped = train_experts(NET, *pictures(), config, tmp_path / "grouped", together=3, quiet=True)
    for k in range(3):
        torch.testing.assert_close(grouped.snapshot(k, 3), alone.snapshot(k, 3), rtol=1e-4, atol=1e-5)


def test_stopped_side_by_side_they_go_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three experts at different epochs when it stops; later all three run together."""
    whole = train_experts(NET, *pictures(), CONFIG, tmp_path / "whole", quiet=True)
    write, left = TrajectoryStore.write, 5

    def stopping(self: TrajectoryStore, expert: int, epoch: int, theta: Tensor) -> None:
        nonlocal left
        write(self, expert, epoch, theta)
        left -= 1
        if left == 0:
            raise Stop

    monkeypatch.setattr(TrajectoryStore, "write", stopping)
    with pytest.raises(Stop):
        train_experts(NET, *pictures(), CONFIG, tmp_path / "stopped", together=2, quiet=True)
    there = TrajectoryStore.open(tmp_path / "stopped")
    assert [there.epochs_done(k) for k in range(3)] == [2, 1, -1]
    stopped = train_experts(NET, *pictures(), CONFIG, tmp_path / "stopped", together=3, quiet=True)
    assert stopped.path.read_bytes() == whole.path.read_bytes()


def test_one_that_diverges_leaves_the_others_snapshots(tmp_path: Path) -> None:
    starts = torch.stack([NET.init(torch.Generator().manual_seed(k)) for k in range(3)])
    starts[1, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="expert 1: the loss became nan in epoch 1"):
        train_experts(NET, *pictures(), CONFIG, tmp_path, starts=starts, together=3, quiet=True)
    there = TrajectoryStore.open(tmp_path)
    assert [there.epochs_done(k) for k in range(3)] == [1, 0, 1]
    assert [path.name for path in tmp_path.glob("tasks/*.failed-*")] == ["expert-00001.failed-0.json"]


def test_identity_names_architecture_and_recipe() -> None:
    who = experts.expert_identity(NET, CONFIG, pictures()[0], "abc")
    assert who["net"] == asdict(NET)
    assert who["training"]["lr"] == 0.05
    assert who["pictures"] == "abc"
    assert "normalization" not in who
    bytes_of = Resident(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), IMAGENET)
    there = experts.expert_identity(NET, CONFIG, bytes_of, "abc")["normalization"]
    assert there == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_two_workers_that_begin_together_share_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "experts.safetensors"
    reserve = trajectories._reserve
    first: list[TrajectoryStore] = []

    def overtaken(handle: int, length: int) -> None:
        """The other worker makes the file, and writes, while this one makes room."""
        reserve(handle, length)
        if not first:
            first.append(TrajectoryStore.__new__(TrajectoryStore))
            first[0] = TrajectoryStore.create(path, 2, 1, 4, {"seed": 0})
            first[0].write(0, 0, torch.arange(4.0))

    monkeypatch.setattr(trajectories, "_reserve", overtaken)
    second = TrajectoryStore.create(path, 2, 1, 4, {"seed": 0})
    assert second.snapshot(0, 0).tolist() == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["experts.safetensors"]


def test_an_empty_file_is_one_that_another_worker_is_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = tmp_path / "made.safetensors", tmp_path / "experts.safetensors"
    TrajectoryStore.create(made, 2, 1, 4, {"seed": 0})
    path.touch()
    timer = threading.Timer(0.2, os.replace, (made, path))
    timer.start()
    assert TrajectoryStore.create(path, 2, 1, 4, {"seed": 0}).epochs_done(0) == -1
    timer.join()
    path.write_bytes(b"")
    monkeypatch.setattr(trajectories, "_MAKING", 0.1)
    with pytest.raises(RunError, match="is empty, its maker was stopped; remove the file"):
        TrajectoryStore.create(path, 2, 1, 4, {"seed": 0})


def test_a_worker_that_lost_its_expert_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "lost", property(lambda self: True))
    with pytest.raises(RunError, match="another worker has taken over expert 0"):
        train_experts(NET, *pictures(), CONFIG, tmp_path, quiet=True)


def test_whitened_images_may_differ_in_last_bits(tmp_path: Path) -> None:
    """Another machine's whitening: the same pictures, so the same experts."""
    images, labels = pictures()
    train_experts(NET, images, labels, CONFIG, tmp_path, pictures="abc", quiet=True)
    assert len(train_experts(NET, images * (1 + 1e-7), labels, CONFIG, tmp_path, pictures="abc", quiet=True)) == 3


@pytest.mark.parametrize(
    "change", [{"experts": 0}, {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.inf}, {"dsa": "zoom"}]
)
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}: got"):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_what_cannot_be_trained_leaves_no_folder(tmp_path: Path) -> None:
    images, labels = pictures()
    with pytest.raises(ValueError, match=r"labels: got 5 for \d+ images"):
        train_experts(NET, images, labels[:5], CONFIG, tmp_path / "out", quiet=True)
    with pytest.raises(ValueError, match="precision: got 'bf16'"):
        train_experts(
            replace(NET, norm="batch"), images, labels, replace(CONFIG, precision="bf16"), tmp_path / "out", quiet=True
        )
    assert not (tmp_path / "out").exists()


def test_as_many_side_by_side_on_a_gpu_as_fit() -> None:
    cuda = torch.device("cuda")
    assert _together(NET, torch.device("cpu"), ExpertConfig()) == 1
    assert _together(FlatConvNet(), cuda, ExpertConfig()) == 20
    assert _together(FlatConvNet(), cuda, ExpertConfig(experts=3)) == 3
    assert _together(FlatConvNet(200, 64, depth=4), cuda, ExpertConfig()) == 5
    assert _together(FlatConvNet(10, 224), cuda, ExpertConfig()) == 1
