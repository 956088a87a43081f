"""Experts of all classes: they give soft labels to what the blocks made, and say which classes are alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddfast.data import Source
from ddfast.methods._driver import EXPERTS
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.d3.config import D3Config
from ddfast.nets.described import described_bytes, read_described
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.experts import train_experts, trained
from ddfast.train.trajectories import TrajectoryStore, read_replay_buffers

TEACHER_FILE = "teacher.safetensors"
STREAM = "d3"
_BATCH = 256  # pictures of a forward; a constant, since the last bits may depend on it


def whole_problem(source: Source, config: D3Config, options: RunOptions) -> Problem:
    """The task of all classes.

    Raises:
        ValueError: a class has too few readable pictures.
    """
    return Problem(source, config.matching_config(), options, STREAM, 1)


def make_teacher(problem: Problem, config: D3Config, options: RunOptions, folder: Path) -> bytes:
    """Contents of ``teacher.safetensors``: the experts of all classes at ``label_epoch``.

    Args:
        problem: of `whole_problem`.
        config, options: of the run.
        folder: for experts that are trained here; going on there after an interruption gives the same bytes.

    Raises:
        FileNotFoundError: ``label_buffers`` names a folder without experts.
        ValueError: its experts are of other classes or pictures, too few or too short.
        NonFiniteLossError: an expert diverged.
        ddfast.runs.RunError: they are of another architecture, or damaged.
    """
    net = problem.net
    if not isinstance(net, FlatConvNet):
        raise TypeError(f"net: got {type(net).__name__}, expected a ConvNet")
    thetas = _trained(problem, config, options, folder) if config.label_buffers is None else _given(problem, config)
    return described_bytes(
        [net.module(theta.cpu()) for theta in thetas], norm=net.norm, size=net.input_size,
        normalization=problem.space.normalization, class_names=problem.class_names,
    )  # fmt: skip


def label_experts(
    problem: Problem, config: D3Config, options: RunOptions, folder: Path, wanted: Callable[[], bool] | None = None
) -> TrajectoryStore:
    """The experts of all classes, trained in ``folder`` by however many workers come.

    Args:
        problem, config, options, folder: as `make_teacher`'s.
        wanted: as `train_experts`'s.

    Raises:
        NonFiniteLossError: an expert diverged.
        ddfast.runs.RunError: the folder holds others, or the disk is full; `Superseded` if ``wanted`` said so.
    """
    images, labels = problem.resident()
    return train_experts(
        problem.net, images, labels, config.label_expert_config(), folder / EXPERTS, pictures=problem.fingerprint,
        info={"space": "normalized"}, device=options.torch_device(), quiet=options.quiet, worker=options.worker(),
        wanted=wanted,
    )  # fmt: skip


def check_given(config: D3Config, net: FlatNet) -> None:
    """Refuses ``label_buffers`` before anything is trained, as far as can be seen without reading all of them.

    Raises:
        FileNotFoundError, ValueError, ddfast.runs.RunError: as `make_teacher`.
    """
    if config.label_buffers is None or not isinstance(net, FlatConvNet):
        return
    folder = Path(config.label_buffers)
    if not folder.is_dir():
        raise FileNotFoundError(f"label_buffers: no folder {folder}")
    if not any(folder.glob("replay_buffer_*.pt")):
        store = trained(folder, net)
        _enough(folder, len(store), store.epochs, config)


def open_teacher(path: Path) -> nn.Module:
    """The network of `make_teacher`: logits, of several experts the logarithm of their mean probabilities.

    Raises:
        ValueError: the file is missing or damaged.
    """
    found = read_described(path)
    if found is None:
        raise ValueError(f"{path}: is no file of label experts; start anew with --overwrite")
    return found.module


@torch.no_grad()
def soft_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    """float32 [n, C] on the CPU, whose softmax (temperature 1) is the label of each normalised picture [n, 3, S, S]."""
    teacher = teacher.to(images.device)
    return torch.cat([teacher(part).float().cpu() for part in images.split(_BATCH)])


def confusion(teacher: nn.Module, problem: Problem) -> NDArray[np.float64]:
    """float64 [C, C]: row i is the mean prediction for class i, of held-out pictures or, where none are held out, of
    training pictures."""
    images, labels = (problem.test, problem.test_labels) if len(problem.test) else problem.resident()
    parts = torch.arange(len(labels), device=labels.device).split(_BATCH)
    predicted = torch.cat([soft_logits(teacher, images[part]) for part in parts]).double().softmax(1)
    sums = torch.zeros(len(problem.class_names), predicted.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels.cpu(), predicted)
    mean: NDArray[np.float64] = (sums / sums.sum(1, keepdim=True)).numpy()
    return mean


def _trained(problem: Problem, config: D3Config, options: RunOptions, folder: Path) -> list[Tensor]:
    store = label_experts(problem, config, options, folder)
    return [store.snapshot(number, config.label_epoch) for number in range(config.label_experts)]


def _given(problem: Problem, config: D3Config) -> list[Tensor]:
    """Experts of an earlier run, or of MTT's replay buffers."""
    folder, net = Path(str(config.label_buffers)), problem.net
    if buffers := sorted(folder.glob("replay_buffer_*.pt")):
        experts = list(islice(read_replay_buffers(buffers), config.label_experts))
        _enough(folder, len(experts), min(len(expert) for expert in experts) - 1, config)
        try:
            return [net.join(expert[config.label_epoch]) for expert in experts]
        except ValueError as error:
            raise ValueError(f"label_buffers: {folder} holds experts of another task ({error})") from error
    store = trained(folder, net)
    if store.info.get("pictures") != problem.fingerprint:
        raise ValueError(
            f"label_buffers: {folder} holds experts of other pictures than this run trains on (another set, size, seed "
            "or holdout); leave it out to train them"
        )
    _enough(folder, len(store), store.epochs, config)
    return [store.snapshot(number, config.label_epoch) for number in range(config.label_experts)]


def _enough(folder: Path, experts: int, epochs: int, config: D3Config) -> None:
    if experts < config.label_experts or epochs < config.label_epoch:
        raise ValueError(
            f"label_buffers: {folder} holds {experts} experts of {epochs} epochs, expected label_experts "
            f"{config.label_experts} of label_epoch {config.label_epoch} or more"
        )
