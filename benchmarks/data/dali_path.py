"""Decode and crops by NVIDIA DALI on the CPU, with given boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddfast._types import Normalization

if TYPE_CHECKING:
    from benchmarks.data.input_paths import Pictures

BATCH = 8


def crops(work: Pictures, side: int, normalization: Normalization) -> Iterator[Tensor]:
    """float32 [m, 3, side, side] of each picture; m is the number of boxes of the first one."""
    from nvidia.dali import fn, pipeline_def, types

    files = list(work.files())
    number = len(files[0][1])
    mean, std = ([255 * value for value in values] for values in (normalization.mean, normalization.std))

    def batches(slot: int) -> Iterator[list[np.ndarray]]:
        """Encoded bytes (slot -1) or the boxes of one crop, as anchor and shape."""
        for start in range(0, len(files), BATCH):
            chunk = files[start : start + BATCH]
            if slot < 0:
                yield [np.frombuffer(path.read_bytes(), np.uint8) for path, _ in chunk]
            else:
                yield [np.array(boxes[slot], np.int32) for _, boxes in chunk]

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline() -> tuple[object, ...]:
        image = fn.decoders.image(fn.external_source(source=batches(-1)), device="cpu", output_type=types.RGB)
        out = []
        for slot in range(number):
            box = fn.external_source(source=batches(slot))
            cut = fn.slice(image, start=box[:2], shape=box[2:], axes=[0, 1])
            small = fn.resize(cut, size=[side, side], interp_type=types.INTERP_LINEAR, antialias=True)
            out.append(fn.crop_mirror_normalize(small, dtype=types.FLOAT, output_layout="CHW", mean=mean, std=std))
        return tuple(out)

    pipe = pipeline()
    pipe.build()
    for _ in range(0, len(files), BATCH):
        outputs = [output.as_array() for output in pipe.run()]
        yield from torch.from_numpy(np.stack(outputs, axis=1))
