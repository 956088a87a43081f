"""JPEG files to five normalised float32 crops of 112 px by different means, one thread each, the same boxes for all.

Each function is a generator of [m, 3, 112, 112] (or uint8 [m, 112, 112, 3] where it says so), a picture at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from benchmarks.baselines import rded_reference as reference
from benchmarks.methods import rded_pair as pair
from ddfast._types import IMAGENET
from ddfast.data import CropRequest, open_source, open_stream
from ddfast.methods.rded.config import RDEDConfig

SIDE = 112
MEAN, STD = (torch.tensor(value)[:, None, None] * 255 for value in (IMAGENET.mean, IMAGENET.std))


@dataclass
class Pictures:
    """Files and the boxes drawn for each, by class, as ddfast draws them."""

    train: Path
    config: RDEDConfig
    images: int
    draws: list[reference.Draw] = field(init=False)

    def __post_init__(self) -> None:
        draws = list(pair.draws_of(self.train, self.config))
        each = -(-self.images // len(draws))
        self.draws = [reference.Draw(draw.paths[:each], draw.boxes[:each]) for draw in draws]
        self.images = sum(len(draw.paths) for draw in self.draws)

    def files(self) -> Iterator[tuple[Path, list[reference.Box]]]:
        """Path and boxes of each picture."""
        for draw in self.draws:
            for path, boxes in zip(draw.paths, draw.boxes, strict=True):
                yield Path(path), boxes


def write_pictures(folder: Path, classes: int = 2, each: int = 20) -> Path:
    """Made-up photographs, 500 x 375 q95 4:2:0, for machines without real ones."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.float32)
            noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class{label}" / f"{number:03d}.jpg", quality=95)
    return folder


def rded_transform(work: Pictures) -> Iterator[Tensor]:
    """RDED's own: Pillow, full-image float conversion, float antialiased resizes, normalise."""
    normalize = transforms.Normalize(IMAGENET.mean, IMAGENET.std)
    pool = reference.ClassPool(work.train, 0, 0, work.config.num_crop, SIDE, normalize, draws=work.draws)
    for index in range(len(pool)):
        yield pool[index][0]


def torchvision_v2(work: Pictures) -> Iterator[Tensor]:
    """``decode_jpeg`` and v2's uint8 tensors."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as V

    for path, boxes in work.files():
        image = decode_jpeg(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), ImageReadMode.RGB)
        small = torch.stack([V.resized_crop(image, *box, [SIDE, SIDE], antialias=True) for box in boxes])
        yield V.normalize(V.to_dtype(small, torch.float32, scale=True), list(IMAGENET.mean), list(IMAGENET.std))


def simplejpeg_torch_uint8(work: Pictures) -> Iterator[Tensor]:
    """simplejpeg and torch's uint8 channels-last antialiased resize."""
    for path, boxes in work.files():
        image = torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes())).permute(2, 0, 1)[None]
        small = [
            F.interpolate(image[..., t : t + h, left : left + w], (SIDE, SIDE), mode="bilinear", antialias=True)
            for t, left, h, w in boxes
        ]
        yield normalised(torch.cat(small))


def simplejpeg_simd_uint8(work: Pictures) -> Iterator[Tensor]:
    """simplejpeg and fast_image_resize (AVX2, fixed point), the fastest pair; stops at uint8 [m, s, s, 3]."""
    import cykooz_resizer as rust

    resizer = rust.Resizer()
    algorithm = rust.ResizeAlg.convolution(rust.FilterType.bilinear)
    for path, boxes in work.files():
        pixels = simplejpeg.decode_jpeg(path.read_bytes())
        height, width = pixels.shape[:2]
        crops = []
        source = rust.ImageData(width, height, rust.PixelType.U8x3, pixels.tobytes())
        for top, left, box_height, box_width in boxes:
            target = rust.ImageData(SIDE, SIDE, rust.PixelType.U8x3)
            crop = rust.CropBox(left, top, box_width, box_height)
            resizer.resize(source, target, rust.ResizeOptions(resize_alg=algorithm, crop_box=crop, use_alpha=False))
            crops.append(np.frombuffer(target.get_buffer(), np.uint8).reshape(SIDE, SIDE, 3))
        yield torch.from_numpy(np.stack(crops))


def simplejpeg_simd(work: Pictures) -> Iterator[Tensor]:
    """The same, and on to the normalised float32 batch the observer needs."""
    for crops in simplejpeg_simd_uint8(work):
        yield normalised(crops.permute(0, 3, 1, 2).contiguous())


def normalised(crops: Tensor) -> Tensor:
    """uint8 [m, 3, s, s] to float32."""
    return crops.float().sub_(MEAN).div_(STD)


def ddfast_stream(work: Pictures, name: str = "threads") -> Iterator[Tensor]:
    """The stream of ddfast in the calling thread: float-exact and normalised."""
    source = open_source(work.train)
    stream = open_stream(name, workers=0)
    request = CropRequest((SIDE, SIDE), work.config.num_crop, IMAGENET)
    groups = []
    boxes_of: dict[tuple[int, int], Any] = {}
    for label, draw in enumerate(work.draws):
        positions = pair.draw_positions(work.config, label, source.count(label))[: len(draw.paths)]
        boxes_of.update({(label, int(p)): box for p, box in zip(positions, draw.boxes, strict=True)})
        groups.append((label, positions))

    def given(label: int, positions: np.ndarray, _sizes: np.ndarray) -> np.ndarray:
        return np.array([boxes_of[label, int(p)] for p in positions], np.int32).reshape(len(positions), -1, 4)

    for batch in stream.crops(source, groups, request, given, batch_images=32):
        yield from batch.crops.split(work.config.num_crop)
    stream.close()


def dali_cpu(work: Pictures) -> Iterator[Tensor]:
    """A DALI CPU pipeline of one thread: decode, slice the given boxes, antialiased resize, normalise."""
    from benchmarks.data.dali_path import crops

    return crops(work, SIDE, IMAGENET)


PATHS: dict[str, tuple[Callable[[Pictures], Iterator[Tensor]], str, str]] = {
    "rded-transform": (rded_transform, "pillow", "torchvision"),
    "torchvision-v2": (torchvision_v2, "torchvision", "torchvision"),
    "simplejpeg+torch-uint8": (simplejpeg_torch_uint8, "simplejpeg", "torch"),
    "simplejpeg+simd-stops-at-uint8": (simplejpeg_simd_uint8, "simplejpeg", "cykooz-resizer"),
    "simplejpeg+simd": (simplejpeg_simd, "simplejpeg", "cykooz-resizer"),
    "dali-cpu": (dali_cpu, "nvidia-dali-cuda130", "nvidia-dali-cuda130"),
}
"""Name -> (generator, distribution packages that do the work)."""
