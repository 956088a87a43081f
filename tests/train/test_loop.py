from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import resume_worker
import torch
from resume_worker import COUNT, net, objective, train
from torch import nn

from ddfast.runs import RunError
from ddfast.train import NonFiniteLossError, TrainConfig
from ddfast.train.checkpoint import load_weights
from ddfast.train.loop import Batch, LoopOptions, Objective, TrainMemoryError, run
from ddfast.train.memory import fitting_batch
from ddfast.train.optimizers import step_rate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(("optimizer", "ema"), [("adamw", 0.9), ("sgd", 0.0)])
def test_a_killed_training_resumed_gives_the_same_weights_bit_for_bit(
    tmp_path: Path, optimizer: str, ema: float
) -> None:
    path = tmp_path / "student.ckpt"
    command = [sys.executable, resume_worker.__file__, str(path), optimizer, str(ema), "4", "2"]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_weights(path, net()) == 3
    whole, report = train(None, optimizer, ema)
    resumed, again = train(str(path), optimizer, ema)
    assert same(whole, resumed)
    assert again.losses == report.losses
    assert again.steps == report.steps
    finished, once_more = train(str(path), optimizer, ema)  # nothing left to do
    assert same(whole, finished)
    assert once_more.losses == report.losses
    assert [entry.name for entry in tmp_path.iterdir()] == ["student.ckpt"]


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "a.ckpt", net()
    options = LoopOptions(checkpoint=path, identity={"set": "abc"})
    run(model, COUNT, TrainConfig(epochs=1, lr=0.1), objective(model), None, options)
    with pytest.raises(RunError, match=r"lr 0\.1 there, 0\.2 here"):
        run(model, COUNT, TrainConfig(epochs=1, lr=0.2), objective(model), None, options)
    other = LoopOptions(checkpoint=path, identity={"set": "abd"})
    with pytest.raises(RunError, match="set 'abc' there, 'abd' here"):
        run(model, COUNT, TrainConfig(epochs=1, lr=0.1), objective(model), None, other)
    smaller = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    with pytest.raises(RunError, match="network"):
        run(smaller, COUNT, TrainConfig(epochs=1, lr=0.1), objective(smaller), None, options)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be read as a training checkpoint"):
        run(model, COUNT, TrainConfig(epochs=1, lr=0.1), objective(model), None, options)


def test_nan_keeps_the_last_good_checkpoint_and_says_where(tmp_path: Path) -> None:
    path, model = tmp_path / "a.ckpt", net()
    plain = objective(model)
    kept: list[torch.Tensor] = []

    def prepare(batch: Batch) -> tuple[torch.Tensor, ...]:
        if (batch.epoch, batch.step) == (2, 0):
            kept[:] = [value.clone() for value in model.state_dict().values()]
        x, y = plain.prepare(batch)
        return (x * float("nan") if (batch.epoch, batch.step) == (2, 1) else x), y

    options = LoopOptions(checkpoint=path, checkpoint_seconds=0.0)
    config = TrainConfig(epochs=5, batch_size=8, lr=0.01, schedule="constant")
    with pytest.raises(NonFiniteLossError, match=r"epoch 3, step 2, at learning rate 0\.01.*a\.ckpt keeps the weights"):
        run(model, COUNT, config, Objective(prepare, plain.loss), None, options)
    fresh = net()
    assert load_weights(path, fresh) == 2
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), kept, strict=True))


def test_weights_that_became_nan_in_the_last_step_are_not_written(tmp_path: Path) -> None:
    path, model = tmp_path / "a.ckpt", nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def loss(x: torch.Tensor) -> torch.Tensor:
        value = model(x).sum()
        return torch.where(value == value, value * 0 + torch.sqrt(value * 0), value)  # finite; its gradient is not

    with pytest.raises(NonFiniteLossError, match="weights became NaN"):
        run(model, 1, TrainConfig(epochs=1), Objective(lambda batch: (torch.ones(1, 4),), loss), None,
            LoopOptions(checkpoint=path))  # fmt: skip
    assert not path.exists()


def test_out_of_memory_names_a_batch_size() -> None:
    model = net()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainMemoryError, match="out of memory on cpu with batch_size 16; batch_size 8 should fit"):
        run(model, COUNT, TrainConfig(batch_size=16), Objective(objective(model).prepare, loss))
    with pytest.raises(TrainMemoryError, match="one image a step"):
        run(model, COUNT, TrainConfig(batch_size=1), Objective(objective(model).prepare, loss))

    def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(model, COUNT, TrainConfig(), Objective(objective(model).prepare, broken))


def test_fitting_batch_halves_until_it_fits() -> None:
    gb = 10**9
    assert fitting_batch(100, 11 * gb, 1 * gb, 10 * gb) == 50
    assert fitting_batch(100, 41 * gb, 1 * gb, 10 * gb) == 12  # 40 GB at 100, so 9 GB hold 22: 50, 25, 12
    assert fitting_batch(3, 100 * gb, 1 * gb, 2 * gb) == 1


def test_moving_average_is_what_is_tested_and_returned() -> None:
    seen: list[torch.Tensor] = []

    def validate(model: nn.Module) -> float:
        assert not model.training
        seen.append(model[0].weight.detach().clone())
        return 0.5

    model, twin = net(), net()
    config = TrainConfig(epochs=1, batch_size=COUNT, lr=0.1, schedule="constant", ema=0.75)
    run(twin, COUNT, TrainConfig(epochs=1, batch_size=COUNT, lr=0.1, schedule="constant"), objective(twin))
    start = model[0].weight.detach().clone()
    run(model, COUNT, config, objective(model), None, LoopOptions(validate=validate))
    truth = 0.75 * start + 0.25 * twin[0].weight.detach()
    torch.testing.assert_close(model[0].weight.detach(), truth)
    assert torch.equal(seen[0], model[0].weight)
    assert model.training


def test_last_and_best_are_told_apart(tmp_path: Path) -> None:
    scores = iter([0.1, 0.6, 0.6, 0.4])
    options = LoopOptions(validate=lambda model: next(scores), test_epochs={1, 3, 4, 6}, checkpoint=tmp_path / "a.ckpt")
    model = net()
    report = run(model, COUNT, TrainConfig(epochs=6), objective(model), None, options)
    assert [(each.epoch, each.top1) for each in report.tested] == [(1, 0.1), (3, 0.6), (4, 0.6), (6, 0.4)]
    assert report.last is not None
    assert report.best is not None
    assert (report.last.epoch, report.best.epoch) == (6, 3)
    assert report.accuracy_text() == ("last epoch 40.00 %; best of 4 tests 60.00 % (epoch 3, chosen on the test data)")
    again = run(net(), COUNT, TrainConfig(epochs=6), objective(model), None, options)
    assert again.tested == report.tested
    assert run(model, COUNT, TrainConfig(epochs=1), objective(model)).accuracy_text() == ""


def test_milestones_drop_the_rate_and_may_restart_the_momentum() -> None:
    config = TrainConfig(epochs=6, lr=1.0, schedule="milestones", milestones=(2, 4))
    assert [step_rate(config, epoch, 0, 3) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    model, twin = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight), nn.init.ones_(twin.weight)
    x = torch.tensor([[1.0, 2.0]])
    config = TrainConfig(
        epochs=4, batch_size=1, lr=0.1, momentum=0.9, nesterov=False, decay_all=True, weight_decay=0.01,
        schedule="milestones", milestones=(2,), reset_momentum=True,
    )  # fmt: skip
    run(model, 1, config, Objective(lambda batch: (x,), lambda x: model(x).square().sum()))
    for rate in (0.1, 0.01):
        optimizer = torch.optim.SGD(twin.parameters(), lr=rate, momentum=0.9, weight_decay=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            twin(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="milestones: got"):
        TrainConfig(schedule="milestones")


@pytest.mark.slow
def test_compiled_steps_train_the_same_net() -> None:
    plain, compiled = net().requires_grad_(True), net()
    plain[3].p = compiled[3].p = 0.0
    config = TrainConfig(epochs=2, batch_size=11, lr=0.01, schedule="constant")
    run(plain, COUNT, config, objective(plain))
    run(compiled, COUNT, config, objective(compiled), None, LoopOptions(compile=True))
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    assert compiled._compiled_call_impl is None


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_captured_steps_train_the_same_net_without_waiting(optimizer: str) -> None:
    results = []
    for captured in (False, True):
        model = net().cuda()
        model[3].p = 0.0
        plain = objective(model)
        ready = [value.cuda() for value in plain.prepare(Batch(torch.arange(COUNT), 0, 0))]
        prepare = lambda batch, ready=ready: tuple(value[batch.index.cuda()] for value in ready)  # noqa: E731
        config = TrainConfig(epochs=8, batch_size=5, lr=0.01, optimizer=optimizer, schedule="cosine")
        run(model, COUNT, config, Objective(prepare, plain.loss), None, LoopOptions(cuda_graph=captured))
        results.append([value.detach().cpu() for value in model.parameters()])
    for plain_value, captured_value in zip(*results, strict=True):
        torch.testing.assert_close(plain_value, captured_value, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_no_step_waits_for_the_device() -> None:
    model = net().cuda()
    x, y = torch.randn(640, 3, 6, 6, device="cuda"), torch.arange(640, device="cuda") % 3
    objective_ = Objective(lambda batch: (x[:5], y[:5]), lambda a, b: nn.functional.cross_entropy(model(a), b))
    steps: list[int] = []

    def prepare(batch: Batch) -> tuple[torch.Tensor, ...]:
        steps.append(batch.step)
        torch.cuda.set_sync_debug_mode("error" if batch.step % 32 < 31 else "default")
        return objective_.prepare(batch)

    try:
        run(model, 640, TrainConfig(epochs=1, batch_size=5), Objective(prepare, objective_.loss))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 128


def test_the_worker_trains_on_several_batches_with_a_short_last_one() -> None:
    assert COUNT % resume_worker.BATCH != 0  # else the tests above would not see the short batch
