"""D3's claims at a small size (Qin et al., arXiv 2403.00999, figure 5): ``d3-small`` and ``d3-small-cifar10``.

Rates and iterations were chosen on a seed of its own (9) of the dual objective alone; whatever it is compared with has
the same ones. One block is said to be matched by two that were distilled apart if these come within `MARGIN` points of
it; the blocks' decoders are narrower, so that both take the same bytes.
"""

from __future__ import annotations

from typing import Any

from ddfast.studies.engine import Judged, Made, Study
from ddfast.studies.tables import MINUS, Table

MARGIN = 3.0
"""Points of top-1 that two blocks may lose against one; set before the study was run."""

_D3: dict[str, Any] = {
    "lpc": 5, "kernels": 48, "z": 32, "scale": 2.0, "storage": "fp16", "width": 32, "iterations": 40, "syn_steps": 8,
    "batch_syn": 25, "expert_epochs": 1, "max_start_epoch": 2, "experts": 2, "expert_train_epochs": 3,
    "expert_batch": 64, "expert_lr": 0.02, "lr_latent": 5.0, "lr_decoder": 5e-3, "lr_teacher": 0.03, "lr_lr": 1e-6,
    "mmd_samples": 15, "bandwidths": "median", "label_epoch": 3, "test": "none",
}  # fmt: skip
_PHOTOS: dict[str, Any] = {
    "iterations": 60, "lr_latent": 30.0, "lr_decoder": 1e-2, "dsa": "color_crop_cutout_flip_scale_rotate",
}  # fmt: skip
_DIGITS: dict[str, Any] = {"dsa": ""}
_BLOCKS: dict[str, Any] = {"blocks": 2, "kernels": 32}
_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtt": ("trajectories alone (MTT)", {"mmd_weight": 0.0}),
    "mmd": ("features alone (MMD)", {"mtt_weight": 0.0}),
    "mean-only": ("means alone, no samples", {"sampling": False}),
}
_DM: dict[str, Any] = {"ipc": 2, "iterations": 100, "batch_real": 32, "lr_img": 10.0, "width": 32, "test": "none"}
_STUDENTS: dict[str, Any] = {
    "preset": "d3", "students": "conv3_instance", "width": 32, "epochs": 120, "seeds": 1, "curve_points": 1,
}  # fmt: skip
_BOTH = ("", " soft")  # labels, as results are named


def _study(name: str, about: str, data: str | None, options: dict[str, Any]) -> Study:
    """All of it on one set of pictures.

    Args:
        name, about, data: of the study.
        options: of D3, for these pictures.
    """
    whole = {**_D3, **options}
    sets = {
        "dual": Made("d3", whole),
        "blocks": Made("d3", {**whole, **_BLOCKS}),
        "dm": Made("dm", {**_DM, "dsa": whole["dsa"]}),
        **{key: Made("d3", {**whole, **switches}) for key, (_, switches) in _PARTS.items()},
    }
    judged = {"report": Judged(("dual", "blocks", "dm"), _STUDENTS)}
    judged |= {key: Judged((key,), {**_STUDENTS, "controls": False}) for key in _PARTS}
    return Study(name, about, data, sets, judged, (_accuracies(), _differences()), (400, 100))


def _accuracies() -> Table:
    rows = [("both terms, one block", "report/dual distilled"), ("both terms, two blocks", "report/blocks distilled")]
    rows += [(title, f"{key}/distilled") for key, (title, _) in _PARTS.items()]
    rows += [
        ("random pictures, same bytes", "report/dual random-bytes"),
        ("random pictures, one for each prior", "report/dual random-images"),
    ]
    cells = [(title, *(f"{entry}{labels}" for labels in _BOTH)) for title, entry in rows]
    cells += [("DM, 2 images per class", "report/dm distilled", "")]
    return Table("D3, its parts and its controls", ("set", "hard labels", "soft labels"), tuple(cells))


def _differences() -> Table:
    rows = [
        (f"both terms{MINUS}{title}", "report/dual distilled", f"{key}/distilled") for key, (title, _) in _PARTS.items()
    ]
    rows += [
        (f"two blocks{MINUS}one block", "report/blocks distilled", "report/dual distilled"),
        (f"one block{MINUS}random pictures, same bytes", "report/dual distilled", "report/dual random-bytes"),
        (f"two blocks{MINUS}random pictures, same bytes", "report/blocks distilled", "report/blocks random-bytes"),
    ]  # fmt: skip
    cells = [(title, *(f"{a}{labels}{MINUS}{b}{labels}" for labels in _BOTH)) for title, a, b in rows]
    return Table("Differences, seed by seed", ("points", "hard labels", "soft labels"), tuple(cells))


D3_SMALL = _study(
    "d3-small", "D3's claims on 4,000 digits, and one page of accuracy, bytes and cost", "mnist5k", _DIGITS
)  # fmt: skip
D3_CIFAR10 = _study(
    "d3-small-cifar10", "D3's claims on 4,000 CIFAR-10 pictures, ConvNet-3 of width 32", None, _PHOTOS
)  # fmt: skip
