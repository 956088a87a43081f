"""How many bytes a set takes, and what real pictures would take."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast.data import Source, open_stream
from ddfast.data.squares import centre_squares
from ddfast.runs import seeds
from ddfast.store import DistilledSet, ImageFormat

SOFT = "soft_logits"
_SAMPLE = 200


@dataclass(frozen=True)
class Storage:
    """Bytes of a set. ``labels`` counts stored soft labels; hard labels that folders say cost nothing.

    Of a distributional set (D3) ``images`` is 0: its students' pictures are decoded from the priors and decoders among
    the extras, and those stored beside them are for viewing.

    ``real_image``: mean bytes of a real picture of the same resolution in the same file format; ``original``: mean
    bytes of the real files as they are. None without the real set.
    """

    images: int
    labels: int
    extras: int
    per_class: tuple[int, ...]
    real_image: float | None = None
    original: float | None = None

    @property
    def total(self) -> int:
        """Images, labels and extras."""
        return self.images + self.labels + self.extras

    @property
    def budget(self) -> tuple[float, ...]:
        """Bytes of each class; labels and extras are shared out evenly."""
        shared = (self.labels + self.extras) / max(len(self.per_class), 1)
        return tuple(size + shared for size in self.per_class)

    def as_json(self) -> dict[str, Any]:
        """For the report: with IPC-equivalents (real pictures per class for these bytes) and bits per class."""
        classes = max(len(self.per_class), 1)
        return {
            "bytes": {"images": self.images, "labels": self.labels, "extras": self.extras, "total": self.total},
            "bits_per_class": round(8 * self.total / classes, 1),
            "real_image_bytes": _rounded(self.real_image),
            "original_image_bytes": _rounded(self.original),
            "ipc_equivalent": None if not self.real_image else round(self.total / classes / self.real_image, 3),
        }


def measure(
    distilled: DistilledSet, train: Source | None, targets: tuple[int, ...] = (), *, label_bytes: int = 0
) -> Storage:
    """Storage of a set, from its manifest where there is one, else as its images would be saved.

    Args:
        distilled: the set.
        train: the real pictures, or None.
        targets: label in ``train`` of each class of the set.
        label_bytes: of a soft-label store that belongs to the set.
    """
    per_class, labels, extras = _known(distilled) or _encoded(distilled)
    soft = soft_label_bytes(distilled)
    labels, extras = labels + soft, extras - soft
    if is_distribution(distilled):
        per_class = (0,) * len(per_class)
    real = original = None
    if train is not None:
        real, original = _real_bytes(train, targets, image_format_of(distilled), distilled.images.shape[1])
    return Storage(sum(per_class), labels + label_bytes, extras, per_class, real, original)


def is_distribution(distilled: DistilledSet) -> bool:
    """Whether students' pictures are decoded from latent priors (D3)."""
    return distilled.manifest.get("distribution") is not None


def soft_label_bytes(distilled: DistilledSet) -> int:
    """Bytes of the soft labels among a set's extras."""
    found = distilled.extras.get(SOFT)
    return 0 if found is None else found.numel() * found.element_size()


def image_format_of(distilled: DistilledSet) -> ImageFormat | None:
    """How the set's images are written: a file format, or None for raw pixels (safetensors)."""
    storage = distilled.manifest.get("storage")
    if storage is None:
        return ImageFormat()
    return None if storage["image_format"] is None else ImageFormat.from_json(storage["image_format"])


def stored_bytes(image: NDArray[np.uint8], image_format: ImageFormat | None) -> int:
    """Bytes of one image uint8 [H, W, 3] in a format; None is raw pixels."""
    return image.nbytes if image_format is None else len(image_format.encode(image))


def fingerprint(distilled: DistilledSet) -> str:
    """SHA-256 (hex) over shape, pixels, labels and class names."""
    digest = hashlib.sha256(repr((tuple(distilled.images.shape), distilled.class_names)).encode())
    digest.update(distilled.images.cpu().contiguous().numpy().data)
    digest.update(distilled.labels.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _known(distilled: DistilledSet) -> tuple[tuple[int, ...], int, int] | None:
    sizes = distilled.manifest.get("bytes")
    if sizes is None:
        return None
    return tuple(int(size) for size in sizes["per_class"]), int(sizes["labels"]), int(sizes["extras"])


def _encoded(distilled: DistilledSet) -> tuple[tuple[int, ...], int, int]:
    per_class = [0] * len(distilled.class_names)
    options = image_format_of(distilled)
    for image, label in zip(distilled.images.cpu().numpy(), distilled.labels.tolist(), strict=True):
        per_class[label] += stored_bytes(image, options)
    extras = sum(extra.numel() * extra.element_size() for extra in distilled.extras.values())
    return tuple(per_class), 0, extras


def _real_bytes(
    train: Source, targets: tuple[int, ...], image_format: ImageFormat | None, size: int
) -> tuple[float | None, float | None]:
    """Mean bytes over a fixed random sample: as squares of ``size`` in the set's format, and of the files."""
    each = max(1, _SAMPLE // max(len(targets), 1))
    stream = open_stream("threads", workers=0)
    chosen = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), _SAMPLE)).round().astype(np.int64))
    squares, originals = [], []
    for label in (targets[place] for place in chosen.tolist()):
        for position in seeds.permutation(0, "storage sample", label, train.count(label))[:each].tolist():
            data = train.load(label, position)
            originals.append(data.nbytes if isinstance(data, np.ndarray) else len(data))
            picture = centre_squares(train, stream, label, np.array([position]), size)
            squares += [stored_bytes(image, image_format) for image in picture.numpy()]
    stream.close()
    return (float(np.mean(squares)) if squares else None, float(np.mean(originals)) if originals else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
