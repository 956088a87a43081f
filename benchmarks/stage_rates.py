"""CPU seconds of ddfast's own stages on one core, measured on real files: what the prediction is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddfast._types import IMAGENET
from ddfast.data import CropRequest, draw_rrc_boxes, open_source, open_stream
from ddfast.methods.rded import output, stages
from ddfast.methods.rded.config import RDEDConfig

PICTURES, ROUNDS = 64, 3


@dataclass(frozen=True)
class StageRates:
    """Core-seconds a source picture (read, decode, five crops to 112 px) and a patch (decode, stitch, encode)."""

    input_seconds: float
    stitch_seconds: float
    mean_bytes: float
    mean_pixels: float


def stage_rates(folder: Path) -> StageRates:
    """Measures on the first pictures of some classes of a folder of class folders; best of a few rounds.

    Raises:
        ValueError: the folder holds no class folders.
    """
    source, config = open_source(folder), RDEDConfig(ipc=4)
    labels = range(0, len(source.class_names), max(1, len(source.class_names) // 4))
    groups = [(label, np.arange(min(PICTURES // 4, source.count(label)))) for label in labels]
    request = CropRequest((112, 112), 5, IMAGENET)
    sizes: list[np.ndarray] = []
    best = [float("inf")] * 2
    for _ in range(ROUNDS):
        stream = open_stream("threads", workers=0)
        begin, count = time.process_time(), 0
        for batch in stream.crops(source, groups, request, _draw, batch_images=32):
            count += len(batch.positions)
            sizes.append(batch.sizes)
        best[0] = min(best[0], (time.process_time() - begin) / count)
        label, positions = groups[0]
        chosen = stages.Chosen(
            label, positions[:16], np.tile(np.array([[0, 0, 180, 180]], np.int32), (16, 1)), np.zeros(16), [], [], 0
        )
        begin = time.process_time()
        output.class_files(label, stages.stitch(chosen, source, stream, config, IMAGENET), config)
        best[1] = min(best[1], (time.process_time() - begin) / 16)
        stream.close()
    data = [source.load(label, int(p)) for label, positions in groups for p in positions]
    return StageRates(
        best[0], best[1], float(np.mean([len(d) for d in data])), float(np.mean(np.prod(np.concatenate(sizes), axis=1)))
    )


def _draw(label: int, positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return draw_rrc_boxes(0, label, positions, sizes, 5)
