"""A distilled set as a torch data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

KINDS = ("pil", "tensor")


class DistilledDataset(Dataset[tuple[Any, int]]):
    """(image, label) pairs with the attributes that torchvision's data sets have.

    Args:
        images: uint8 [N, H, W, 3] RGB.
        labels: int64 [N].
        classes: class names; the index is the label.
        transform: applied to each image.
        kind: images before the transform: "pil" (``PIL.Image``) or "tensor" (uint8 [3, H, W]).

    Attributes:
        targets: labels as a list of int.
        classes: class names.
        class_to_idx: class name to label; of equal names the first counts.

    Raises:
        ValueError: another ``kind``.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        transform: Callable[[Any], Any] | None = None,
        kind: str = "pil",
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, expected 'pil' or 'tensor'")
        self.images = images
        self.transform = transform
        self.kind = kind
        self.targets: list[int] = labels.tolist()
        self.classes = list(classes)
        self.class_to_idx = {name: index for index, name in reversed(list(enumerate(self.classes)))}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = self.targets[index]
        image: Any = self.images[index]
        image = image.permute(2, 0, 1) if self.kind == "tensor" else Image.fromarray(image.cpu().numpy())
        return (image if self.transform is None else self.transform(image)), label
