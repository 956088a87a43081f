"""IDC on the driver of the matching methods: images at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._types import Normalization
from ddfast.data import Source
from ddfast.data.resident import Pictures
from ddfast.methods._driver import run_matching
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.idc.config import IDCConfig
from ddfast.runs.seeds import stream_key
from ddfast.train.matching import MatchingData
from ddfast.train.matching.formation import mixed_pictures
from ddfast.train.matching.idc import IDCMatcher


def run(source: Source, out: Path, config: IDCConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    run_matching("idc", source, out, config, options, make_matcher, observer)


def make_matcher(
    problem: Problem, config: IDCConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
) -> IDCMatcher:
    """Begins from mosaics of real pictures, or as ``config.init`` says."""
    classes = data.net.num_classes
    labels = torch.arange(classes, device=data.images.device).repeat_interleave(config.ipc)
    normalization = problem.space.normalization
    images = _start(problem, config, data.images, stage, normalization)
    return IDCMatcher(data, images, labels, config.decoding, normalization, config.settings(stage))


def _start(problem: Problem, config: IDCConfig, real: Pictures, stage: int, normalization: Normalization) -> Tensor:
    """Stored images [classes * ipc, c, H, W] in [0, 1], class by class."""
    classes = len(problem.class_names)
    if config.init == "noise":
        low, high = stream_key(config.seed, f"idc/noise {stage}")
        generator = torch.Generator().manual_seed((high & 0x7FFFFFFF) << 32 | low)
        noise = torch.randn(classes * config.ipc, *real.shape[1:], generator=generator)
        return (noise / 4 + 0.5).clamp(0, 1).to(real.device)
    factor = config.formation if config.init == "mix" else 1
    rows = problem.initial_rows(config.ipc * factor**2, stage).to(real.device)
    mean, std = (
        torch.tensor(value, device=real.device)[: real.shape[1], None, None]
        for value in (normalization.mean, normalization.std)
    )
    parts = rows.chunk(classes)  # of a class; those of all at once can be many times the images
    return torch.cat([mixed_pictures((real[part] * std + mean).clamp(0, 1), factor) for part in parts])
