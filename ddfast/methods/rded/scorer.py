"""Turns patches into margins ``t`` at several precisions, and measures how far each precision is from the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ddfast import _machine, ops
from ddfast.data import Source, Stream, draw_rrc_boxes
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.selection import Level
from ddfast.nets.capture import CaptureError, trace
from ddfast.nets.forward import MICRO_BATCH, PRECISIONS, build_forward
from ddfast.nets.observers import Observer
from ddfast.runs import seeds

if TYPE_CHECKING:
    from ddfast.methods._options import RunOptions
    from ddfast.nets.forward import Forward

_DTYPES = {"fp64": torch.float64}
# Many times the largest error of a small sample; an error beyond it is noticed at re-scoring and widens the bound.
_SAFETY = {"bf16": 3.0, "fp16": 3.0, "fp32": 8.0}
_SAMPLES = {"bf16": 64, "fp16": 64, "fp32": 8}
# What crop_score's float32 arithmetic may add to the first level: a few roundings of the loss, and of t where t > 0.
_FLOAT32_NOISE = 4e-6
_TINIEST_LOSS = 1e-34  # below it float32 loses digits; such scores are taken from the logits in float64
CLASSES_KEPT = 4  # classes whose patches are on the GPU at a time: scored, waiting, selected
_RESCORED_AT_ONCE, _DECODED_AT_ONCE = 10, 8
_MANY_CROPS = 200_000  # ten seconds of a fast GPU: compiling beside them pays


def draw_positions(config: RDEDConfig, label: int, count: int) -> NDArray[np.int64]:
    """The ``mipc`` pictures of a class that take part: the head of a seeded permutation of its ``count`` pictures."""
    return seeds.permutation(config.seed, "images", label, count)[: config.mipc]


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """``t = logsumexp_{j != target} z_j - z_target`` in float64; logits [n, C], targets int64 [n] -> [n]."""
    z, column = logits.double(), targets[:, None]
    return torch.logsumexp(z.scatter(1, column, -torch.inf), dim=1) - z.gather(1, column)[:, 0]


def loss_to_margin(loss: Tensor) -> Tensor:
    """``t = log(expm1(loss))`` in float64, inverse of ``loss = log1p(exp(t))``; 0 gives -inf, +inf gives +inf."""
    value = loss.double()
    # log(expm1(l)) = l + log(1 - exp(-l)), where the second term drops below float64's digits
    return torch.where(value > 40, value, value.clamp(max=40).expm1().log())


def box_tensors(boxes: NDArray[np.int32], index: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """Boxes [n, 4] and picture index [n] as int32 tensors."""
    rows = torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.int32))
    return rows, torch.from_numpy(np.ascontiguousarray(index, dtype=np.int32))


def _equal_parts(total: int, most: int) -> int:
    """Size of the fewest equal parts of at most ``most``: 300 by 128 gives 100."""
    return -(-total // -(-total // most))


@dataclass
class Sample:
    """Crops addressed by (label, position, crop) with their target output."""

    label: int
    positions: NDArray[np.int64]
    boxes: NDArray[np.int32]  # [n, 4]
    patches: Tensor | None = None  # float32 [n, 3, p, p] where they were kept


class Scorer:
    """Scores crops of a source by an observer at the precisions a run needs.

    ``first`` is the forward of the first level; crops whose scores leave the selection open go to the later ones.
    """

    def __init__(
        self,
        source: Source,
        stream: Stream,
        observer: Observer,
        config: RDEDConfig,
        options: RunOptions,
        targets: Sequence[int],
    ) -> None:
        self.source, self.stream, self.observer, self.config = source, stream, observer, config
        self.targets = list(targets)
        self.device = options.torch_device()
        self.threads = _machine.cores() if options.workers is None else options.workers
        self._options = options
        self._forwards: dict[str, Forward] = {}
        try:
            self._traced: fx.GraphModule | None = trace(observer.module, config.size)
        except CaptureError:
            self._traced = None  # each forward says so in its messages
        self.low = config.precision != "fp32"
        self.names = [config.precision, "fp32", "fp64"] if self.low else ["fp32", "fp64"]
        self.first = self.forward(self.names[0])
        self.keeps = self._room_to_keep()
        # Half the bytes on the way to a GPU; its rounding is part of the first level's error bound.
        halved = self.low and self.device != "cpu" and not self.keeps
        self.patch_dtype = PRECISIONS[config.precision] if halved else torch.float32
        self.deltas = self._calibrate()

    def forward(self, precision: str) -> Forward:
        """The observer at ``fp16``, ``bf16``, ``fp32`` or ``fp64``, built on first use."""
        if precision not in self._forwards:
            first = precision == self.names[0]
            self._forwards[precision] = build_forward(
                self.observer, patch=self.config.patch, canvas=self.config.size, precision=precision,
                engine="torch" if precision == "fp64" else self._options.engine,
                constant_frame_skip=self._options.constant_frame_skip, device=self.device,
                micro_batch=self._micro_batch(first), traced=self._traced, many=first and self._crops() >= _MANY_CROPS,
            )  # fmt: skip
        return self._forwards[precision]

    def images_a_batch(self) -> int:
        """Pictures scored at a time; on a GPU the batches of a full class are equal: one shape to tune for."""
        most = self._options.images_a_batch()
        if self._options.batch_images is not None or self.device == "cpu":
            return most
        return _equal_parts(self.config.mipc, most)

    def _micro_batch(self, first: bool) -> int | None:
        if self.device != "cpu":
            return _equal_parts(self.images_a_batch() * self.config.num_crop, MICRO_BATCH["cuda"])
        # Re-scoring takes few crops at a time, and engines with a fixed batch compute all of its rows.
        return None if first else _RESCORED_AT_ONCE

    def _crops(self) -> int:
        counts = (self.source.count(label) for label in range(len(self.source.class_names)))
        return self.config.num_crop * sum(min(count, self.config.mipc) for count in counts)

    def levels(self) -> list[Level]:
        """Fresh levels with the calibrated bounds.

        What one class finds out about them stays with it: results must not depend on which worker does which classes.
        """
        levels = [Level(name, delta) for name, delta in zip(self.names, [*self.deltas, 0.0], strict=True)]
        levels[0].delta += _FLOAT32_NOISE
        levels[0].relative = _FLOAT32_NOISE
        return levels

    def score(self, crops: Tensor, label: int) -> Tensor:
        """First-level margins, float64 [n], of patches [n, 3, p, p] of one class; on a GPU, without waiting for it."""
        with torch.inference_mode():
            logits = self.first(crops)
            target = torch.full((len(logits),), self.targets[label], dtype=torch.int64, device=logits.device)
            loss = ops.crop_score(logits[:, None], target)[0][:, 0]
            t, tiny = loss_to_margin(loss), loss < _TINIEST_LOSS
            if t.is_cuda or tiny.any():
                t = torch.where(tiny, margins(logits, target), t)
        return t

    def rescore(self, precision: str, sample: Sample) -> NDArray[np.float64]:
        """Margins of single crops at another precision; where patches were not kept, pictures are decoded again."""
        if sample.patches is not None and precision == "fp32":
            return self._margins(precision, sample.patches, [self.targets[sample.label]] * len(sample.patches))
        out = np.empty(len(sample.positions))
        step = _RESCORED_AT_ONCE * torch.get_num_threads()  # engines run one such batch on every core
        for start in range(0, len(out), step):
            stop = min(start + step, len(out))
            # Few pictures are in memory at a time: they may be large.
            parts = [slice(i, min(i + _DECODED_AT_ONCE, stop)) for i in range(start, stop, _DECODED_AT_ONCE)]
            cut = [self._cut(precision, Sample(sample.label, sample.positions[p], sample.boxes[p])) for p in parts]
            out[start:stop] = self._margins(precision, torch.cat(cut), [self.targets[sample.label]] * (stop - start))
        return out

    def _margins(self, precision: str, patches: Tensor, targets: Sequence[int]) -> NDArray[np.float64]:
        with torch.inference_mode():
            t = margins(self.forward(precision)(patches).cpu(), torch.tensor(targets))
        return np.asarray(t.numpy())

    def _room_to_keep(self) -> bool:
        """Whether the float32 patches of the classes in flight may stay on the GPU until their class is selected."""
        if not self.low or self.device == "cpu" or not self.stream.exact:
            return False
        config = self.config
        most = max((self.source.count(label) for label in range(len(self.source.class_names))), default=0)
        nbytes = min(config.mipc, most) * config.num_crop * 3 * config.patch**2 * torch.float32.itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        return nbytes * CLASSES_KEPT <= free // 4

    def _cut(self, precision: str, sample: Sample) -> Tensor:
        unique, index = np.unique(sample.positions, return_inverse=True)
        images = self.stream.decode(self.source, sample.label, unique)
        normalization = self.observer.normalization
        patches = ops.multi_crop(
            images.pixels, images.offsets, images.sizes, *box_tensors(sample.boxes, index),
            size=(self.config.patch, self.config.patch),
            mean=normalization.mean, std=normalization.std, dtype=_DTYPES.get(precision, torch.float32), validate=False,
        )  # fmt: skip
        return patches.to(self.device)

    def _calibrate(self) -> list[float]:
        """Bounds on |t - t of the next level|, from a fixed sample of crops spread over the classes."""
        deltas = []
        for name, finer in zip(self.names, self.names[1:], strict=False):
            samples = self._sample(_SAMPLES[name])
            difference = self._sample_margins(name, samples) - self._sample_margins(finer, samples)
            worst = float(np.abs(difference[np.isfinite(difference)]).max(initial=0.0))
            deltas.append(_SAFETY[name] * worst + 1e-9)
        return deltas

    def _sample_margins(self, precision: str, samples: Sequence[Sample]) -> NDArray[np.float64]:
        if not samples:
            return np.empty(0)
        targets = [self.targets[s.label] for s in samples for _ in s.positions]
        return self._margins(precision, torch.cat([self._cut(precision, s) for s in samples]), targets)

    def _sample(self, size: int) -> list[Sample]:
        count = len(self.source.class_names)
        labels = sorted({round(i * (count - 1) / max(1, min(count, 16) - 1)) for i in range(min(count, 16))})
        each = -(-size // len(labels))
        samples = []
        for label in labels[:size]:
            positions = self._readable(label, draw_positions(self.config, label, self.source.count(label))[: 2 * each])
            if len(positions):
                samples.append(self._random_crops(label, positions[:each]))
        return samples

    def _readable(self, label: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        from ddfast.data import DecodeError

        good = []
        for position in positions:
            try:
                self.stream.decode(self.source, label, np.array([position]))
            except DecodeError:
                continue  # the run itself reports unreadable files
            good.append(position)
        return np.array(good, dtype=np.int64)

    def _random_crops(self, label: int, positions: NDArray[np.int64]) -> Sample:
        sizes = self.stream.decode(self.source, label, positions).sizes.numpy()
        boxes = draw_rrc_boxes(self.config.seed, label, positions, sizes, 1, self.config.scale)
        return Sample(label, positions, boxes[:, 0])
