"""Recipes of student training as the papers' programs run them.

``rded``        Sun et al., CVPR 2024, arXiv 2312.03526: AdamW, half a cosine, patch shuffle, crops, CutMix, teacher at
                T = 20. `ddfast.train.parity` runs the original's steps with its own random draws.
``fkd``         SRe2L and its successors (Yin et al., NeurIPS 2023, arXiv 2306.13092): stored soft labels of crops of 8
                to 100 % of the area, flip, CutMix; AdamW, cosine.
``hard_label``  SGD with momentum, cosine, flips and shifts, cross-entropy: for sets that are judged without a teacher.
``idc``         IDC (Kim et al., ICML 2022, arXiv 2205.14959): SGD 0.01, rate times 0.2 after 2/3 and 5/6 of the epochs,
                its augmentation, CutMix of half of the batches, cross-entropy.
``dsa``         DSA, DM and MTT (Zhao et al. 2021, arXiv 2102.08259; Cazenavette et al. 2022, arXiv 2203.11932): SGD
                0.01, rate divided by ten after half of the epochs, DSA augmentation, cross-entropy.
``dc``          DC (Zhao et al. 2021, arXiv 2006.05929): as ``dsa``, but 300 epochs without augmentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ddfast.train.dsa import DIGITS, STRATEGY
from ddfast.train.idc_augment import STUDENT
from ddfast.train.student import StudentConfig

# AdamW's rate by architecture, from RDED's program; the ConvNets and ResNets that it does not know take the ConvNets'
RATES = {
    "vgg11": 5e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "alexnet": 1e-4, "vit_b_16": 1e-4,
    "swin_v2_t": 1e-4, "resnet50": 1e-3, "resnet101": 1e-3, "resnet101_modified": 1e-3,
}  # fmt: skip
_FAMILY = re.compile(r"(conv[1-9]|resnet(10|18)(_modified)?)(_(batch|instance|group|none))?")
_BATCHES = {"few": (10, 50, 100), "many": (20, 100, 200), "tiny": (100, 100, 100), "cifar100_conv3": (25, 25, 25)}
_FEW = 20  # classes, up to which a set counts as one of RDED's ten-class sets


@dataclass(frozen=True)
class Case:
    """What a recipe depends on.

    Attributes:
        student: architecture, such as ``conv3``, ``conv3_instance``, ``resnet18``, ``resnet18_modified``, ``vgg11``.
        classes: of the set.
        ipc: images a class.
        size: side of the pictures in pixels.
        factor: of the mosaic, per side.
        images: in the set; None for classes * ipc.
        digits: whether they show digits, which are never mirrored: DSA then leaves flips out, IDC's students flips and
            CutMix, as both papers' programs do for MNIST.
    """

    student: str
    classes: int
    ipc: int
    size: int = 32
    factor: int = 1
    images: int | None = None
    digits: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "ipc", "size", "factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")

    @property
    def count(self) -> int:
        """Images in the set."""
        return self.images or self.classes * self.ipc


def preset(name: str, case: Case, **changes: Any) -> StudentConfig:
    """The recipe ``name`` for ``case``, with single values replaced by ``changes``; a batch is never above the set.

    Raises:
        ValueError: an unknown recipe, or a student without a learning rate in RDED's program (give ``lr``).
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(sorted(PRESETS))}")
    if name in ("rded", "fkd") and "lr" not in changes:
        changes["lr"] = rded_rate(case)
    config = replace(PRESETS[name](case), **changes)
    return replace(config, batch_size=min(config.batch_size, case.count))


def rded_rate(case: Case) -> float:
    """AdamW's learning rate of RDED's program; 0.002 for ConvNet-3 on CIFAR-100 (100 classes of 32 pixels).

    Raises:
        ValueError: it has none for this architecture (its rate is then 0, and nothing is learnt).
    """
    if _cifar100_conv3(case):
        return 2e-3
    if _FAMILY.fullmatch(case.student):
        return 1e-3
    if case.student not in RATES:
        known = ", ".join(sorted(RATES))
        raise ValueError(f"student: got {case.student!r}, expected conv3 ..., resnet18 ... or {known}; or give lr")
    return RATES[case.student]


def rded_batch(case: Case) -> int:
    """Batch size of RDED's program, by classes and images per class (1, 10, 50; others take the next smaller entry)."""
    row = "few" if case.classes <= _FEW else "tiny" if case.size == 64 and case.classes == 200 else "many"
    if _cifar100_conv3(case):
        row = "cifar100_conv3"
    return _BATCHES[row][0 if case.ipc < 10 else 1 if case.ipc < 50 else 2]


def _cifar100_conv3(case: Case) -> bool:
    return case.classes == 100 and case.size == 32 and case.student.split("_")[0] == "conv3"


def _rded(case: Case) -> StudentConfig:
    return StudentConfig(batch_size=rded_batch(case), factor=case.factor, flip=not case.digits)


def _fkd(case: Case) -> StudentConfig:
    return StudentConfig(
        batch_size=1024, schedule="cosine", crop=(0.08, 1.0), factor=1, bn_twice=False, flip=not case.digits
    )


def _hard_label(case: Case) -> StudentConfig:
    return StudentConfig(
        batch_size=min(256, max(10, case.count // 4)), optimizer="sgd", lr=0.05, weight_decay=5e-4, schedule="cosine",
        flip=not case.digits, shift=max(1, case.size // 8), factor=1, cutmix_alpha=0.0, temperature=1.0, bn_twice=False,
    )  # fmt: skip


def _dsa(case: Case, epochs: int = 1000) -> StudentConfig:
    # The programs train epochs 0 .. E, drop the rate after epoch E // 2 + 1, and make a new optimiser there. They decay
    # every parameter.
    return StudentConfig(
        epochs=epochs + 1, batch_size=256, optimizer="sgd", lr=0.01, momentum=0.9, nesterov=False, weight_decay=5e-4,
        decay_all=True, schedule="milestones", milestones=(epochs // 2 + 2,), reset_momentum=True, flip=False, factor=1,
        cutmix_alpha=0.0, temperature=1.0, bn_twice=False,
        dsa=DIGITS if case.digits else STRATEGY,
    )  # fmt: skip


def dsa_preset(case: Case, *, epochs: int = 1000, lr: float = 0.01) -> StudentConfig:
    """``preset("dsa")`` for another number of epochs, or with the rate that MTT learned along with the images."""
    config = replace(_dsa(case, epochs), lr=lr)
    return replace(config, batch_size=min(config.batch_size, case.count))


def _dc(case: Case) -> StudentConfig:
    return replace(_dsa(case, epochs=300), dsa="")


def _idc(case: Case) -> StudentConfig:
    return StudentConfig(
        epochs=1000, batch_size=64, optimizer="sgd", lr=0.01, momentum=0.9, nesterov=False, weight_decay=5e-4,
        decay_all=True, schedule="milestones", milestones=(2000 // 3, 5000 // 6), drop=0.2, flip=False, factor=1,
        cutmix_alpha=0.0, temperature=1.0, bn_twice=False, idc=without_flip(STUDENT) if case.digits else STUDENT,
        cutmix_share=0.0 if case.digits else 0.5,
    )  # fmt: skip


def without_flip(strategy: str) -> str:
    """The operations of a DSA or IDC strategy but flips."""
    return "_".join(name for name in strategy.split("_") if name != "flip")


PRESETS: dict[str, Callable[[Case], StudentConfig]] = {
    "rded": _rded, "fkd": _fkd, "hard_label": _hard_label, "dsa": _dsa, "dc": _dc, "idc": _idc,
}  # fmt: skip
