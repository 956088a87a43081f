"""Each method in a line and in a sentence, and where it was published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """``line`` is for lists; ``sentence`` says what the images are; ``paper`` where the method is from, "" for none."""

    line: str
    sentence: str
    paper: str


ABOUT = {
    "coreset": About(
        "real pictures: random, herding, k-center or the most forgotten",
        "Each image is a real picture of the source; nothing was trained.",
        "",
    ),
    "d3": About(
        "a few Gaussians per class and a decoder, class blocks apart (Qin et al., 2024)",
        "The set is a distribution: a few Gaussians per class in a latent space and decoders that make pictures of "
        "their samples; the stored images are the decoded means.",
        "Qin et al., Distributional Dataset Distillation with Subtask Decomposition, 2024, arXiv 2403.00999",
    ),
    "dc": About(
        "gradient matching (Zhao et al., ICLR 2021)",
        "The images were trained until a network's gradients on them matched those on real pictures.",
        "Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021, arXiv 2006.05929",
    ),
    "dm": About(
        "distribution matching (Zhao and Bilen, WACV 2023)",
        "The images were trained until the mean features that random networks have of them matched those of real "
        "pictures.",
        "Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181",
    ),
    "dsa": About(
        "gradient matching with siamese augmentation (Zhao and Bilen, ICML 2021)",
        "The images were trained until a network's gradients on them matched those on real pictures, both augmented "
        "alike.",
        "Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021, arXiv 2102.08259",
    ),
    "idc": About(
        "gradient matching of several small images in one (Kim et al., ICML 2022)",
        "Each image holds several small ones, trained until a network's gradients on them matched those on real "
        "pictures.",
        "Kim et al., Dataset Condensation via Efficient Synthetic-Data Parameterization, ICML 2022, arXiv 2205.14959",
    ),
    "mtt": About(
        "trajectory matching (Cazenavette et al., CVPR 2022)",
        "The images were trained until a student's few steps on them ended where an expert's epochs on real pictures "
        "did.",
        "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022, arXiv 2203.11932",
    ),
    "pdd": About(
        "progressive stages of mtt, idc, dc, dsa or dm (Chen et al., ICLR 2024)",
        "The set was made in stages, each for students that were trained on the stages before it.",
        "Chen et al., Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality, ICLR 2024, "
        "arXiv 2310.06982",
    ),
    "rded": About(
        "mosaics of real patches (Sun et al., CVPR 2024)",
        "Each image is a mosaic of real patches that a pretrained network, the observer, finds easy; nothing was "
        "trained.",
        "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526",
    ),
}
