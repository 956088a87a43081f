"""Each method in one sentence, and where it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """``sentence`` says what the images are; ``paper`` where the method is from, "" for none."""

    sentence: str
    paper: str


ABOUT = {
    "coreset": About("Each image is a real picture of the source; nothing was trained.", ""),
    "d3": About(
        "The set is a distribution: a few Gaussians per class in a latent space and decoders that make pictures of "
        "their samples; the stored images are the decoded means.",
        "Qin et al., Distributional Dataset Distillation with Subtask Decomposition, 2024, arXiv 2403.00999",
    ),
    "dc": About(
        "The images were trained until a network's gradients on them matched those on real pictures.",
        "Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021, arXiv 2006.05929",
    ),
    "dm": About(
        "The images were trained until the mean features that random networks have of them matched those of real "
        "pictures.",
        "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181",
    ),
    "dsa": About(
        "The images were trained until a network's gradients on them matched those on real pictures, both augmented "
        "alike.",
        "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021, arXiv 2102.08259",
    ),
    "idc": About(
        "Each image holds several small ones, trained until a network's gradients on them matched those on real "
        "pictures.",
        "Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, arXiv 2205.14959",
    ),
    "mtt": About(
        "The images were trained until a student's few steps on them ended where an expert's epochs on real pictures "
        "did.",
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022, arXiv 2203.11932",
    ),
    "pdd": About(
        "The set was made in stages, each for students that were trained on the stages before it.",
        "Chen et al., Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality, ICLR 2024, "
        "arXiv 2310.06982",
    ),
    "rded": About(
        "Each image is a mosaic of real patches that a pretrained network, the observer, finds easy; nothing was "
        "trained.",
        "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526",
    ),
}
_SELECTIONS = {
    "random": "They were drawn at random.",
    "herding": "They were taken so that their mean feature stays near that of their class (herding).",
    "k-center": "They were taken to cover their class in the observer's features (k-center).",
    "forgetting": "They are those that networks forgot most often while they were trained.",
}


def method_words(manifest: Mapping[str, Any]) -> list[str]:
    """Sentences on a set's method, with what its settings change."""
    name = str(manifest.get("method") or "")
    config: Mapping[str, Any] = manifest.get("config") or {}
    about = ABOUT.get(name)
    found = [about.sentence] if about else [f"It was made by the method {name!r}."] if name else []
    if name == "coreset":
        found.append(_SELECTIONS.get(str(config.get("selection")), ""))
    if name == "pdd" and config.get("base"):
        base = ABOUT.get(str(config["base"]))
        found.append(
            f"Within a stage ({config['base']}): {base.sentence[0].lower()}{base.sentence[1:]}" if base else ""
        )
    if name == "rded" and config.get("factor") and config.get("mipc"):
        side = config["factor"]
        found.append(
            f"A mosaic has {side} x {side} patches, chosen from {config.get('num_crop')} crops of each of "
            f"{config.get('mipc')} pictures per class."
        )  # fmt: skip
    return [*found, f"Paper: {about.paper}." if about and about.paper else ""]
