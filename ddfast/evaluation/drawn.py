"""Students of distributional sets (D3, arXiv 2403.00999), and their controls: pictures, soft labels, bytes.

Students of the set train on the priors' means and fresh samples, those of random real pictures on these, each as often
in an epoch as a prior. A soft label is one row of logits for a stored prior or picture, taken at temperature 1; it is
stored, and counts as bytes on both sides.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddfast._types import Normalization
from ddfast.evaluation.controls import Subset
from ddfast.evaluation.cost import decoding_flops
from ddfast.evaluation.protocols import EvaluationConfig
from ddfast.evaluation.storage import SOFT, Storage, soft_label_bytes
from ddfast.evaluation.teacher import Teacher
from ddfast.store import DistilledSet
from ddfast.train import LoopOptions, StudentConfig, TrainReport
from ddfast.train.augment import normalize
from ddfast.train.drawn import FixedPictures, SampledPictures, decodings, train_on_drawn
from ddfast.train.latent import Distribution
from ddfast.train.loop import OnProgress

if TYPE_CHECKING:
    from ddfast.evaluation.plan import Plan, Spec, Subject

_PART = 256  # pictures of a teacher's forward
_LABEL = torch.float16  # of soft labels of a set that has none of its own


@dataclass(frozen=True)
class Price:
    """Bytes: ``total`` of the set as one kind of students uses it, ``budget`` of each class for random pictures, and
    what each picture's soft ``label`` takes of it."""

    total: int
    budget: tuple[float, ...]
    label: int = 0


def fresh_of(config: EvaluationConfig, manifest: Any) -> str:
    """What an epoch holds: as asked, else the means alone where the set was distilled on them, else samples too."""
    sampled = (manifest.get("config") or {}).get("sampling", True)
    return config.fresh or ("epoch" if sampled else "none")


def pictures_of_epoch(config: EvaluationConfig, distilled: DistilledSet) -> int:
    """How many pictures students of a distribution see in an epoch."""
    return len(distilled) * (1 if fresh_of(config, distilled.manifest) == "none" else 2)


def check_distribution(name: str, distilled: DistilledSet) -> None:
    """Refuses a damaged distribution before any student is trained.

    Raises:
        ValueError: names the set and what is missing, does not fit or is not finite.
    """
    try:
        Distribution.of(distilled)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def price(subject: Subject, labels: str, *, drawn: bool) -> Price:
    """What students with "hard" or "soft" labels need.

    Args:
        subject: the set; what its storage counts as labels are its soft labels and, in safetensors, the classes.
        labels: "hard" or "soft".
        drawn: whether its students train on a distribution; others need all that is stored.
    """
    storage = subject.storage
    if not drawn:
        return Price(storage.total, storage.budget)
    soft = soft_label_bytes(subject.distilled)
    if labels == "hard":
        storage = replace(storage, labels=storage.labels - soft)
        return Price(storage.total, storage.budget)
    each = _label_bytes(subject.distilled)
    storage = storage if soft else replace(storage, labels=storage.labels + each * len(subject.distilled))
    return Price(storage.total, storage.budget, each)


def train_drawn(
    plan: Plan, spec: Spec, subject: Subject, student: nn.Module, pictures: Subset, recipe: StudentConfig,
    watch: OnProgress | None, options: LoopOptions,
) -> tuple[TrainReport, SampledPictures | None]:  # fmt: skip
    """Trains the student of a task on the distribution, or on a control's pictures.

    Returns:
        The report and, of the distribution, what it decoded.
    """
    fresh = fresh_of(plan.config, subject.distilled.manifest)
    options = replace(options, identity={**options.identity, "fresh": fresh})
    given: Any = {"on_progress": watch, "options": options}
    if spec.images != "distilled":
        images = _normalized(pictures.images, subject.normalization, plan.device)
        targets = pictures.labels if spec.labels == "hard" else _probabilities(_logits(subject, pictures.images, plan))
        fixed = FixedPictures(images, 1 if fresh == "none" else 2)
        return train_on_drawn(fixed, targets, student, recipe, **given), None
    distribution = Distribution.of(subject.distilled)
    if distribution is None:
        raise ValueError(f"{subject.name}: got a set without a distribution")
    distribution = distribution.to(plan.device)
    sampled = SampledPictures(distribution, seed=recipe.seed, fresh=fresh)
    if spec.labels == "hard":
        targets = subject.distilled.labels
    else:
        stored = subject.distilled.extras.get(SOFT)
        targets = _probabilities(_logits_of_means(subject, distribution, plan) if stored is None else stored)
    return train_on_drawn(sampled, targets, student, recipe, **given), sampled


def decoding_cost(plan: Plan, subject: Subject, spec: Spec, recipe: StudentConfig) -> int:
    """FLOPs of decoding a training's pictures."""
    if spec.images != "distilled":
        return 0
    manifest = subject.distilled.manifest
    steps = -(-pictures_of_epoch(plan.config, subject.distilled) // recipe.batch_size)
    return decoding_flops(manifest, decodings(fresh_of(plan.config, manifest), recipe.epochs, steps))


def decoding_record(sampled: SampledPictures | None, seconds: float) -> dict[str, Any]:
    """What sampling and decoding took of a training's ``seconds`` (tests left out), for its record."""
    if sampled is None:
        return {}
    share = min(1.0, sampled.seconds / max(seconds, 1e-9))
    return {
        "decoding": {"share": round(share, 4), "seconds": round(sampled.seconds, 3), "pictures": sampled.decoded}
    }  # fmt: skip


def distribution_digest(distilled: DistilledSet) -> str:
    """SHA-256 (hex) over what students train on: latents, decoders, soft labels, and how the manifest has them read."""
    described = {key: distilled.manifest.get(key) for key in ("distribution", "recipe")}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(distilled.extras):
        digest.update(name.encode())
        digest.update(distilled.extras[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def as_pictures(distilled: DistilledSet) -> DistilledSet:
    """A distributional set as one of its decoded means, 8-bit pictures; others as they are."""
    if distilled.manifest.get("distribution") is None:
        return distilled
    manifest = {k: v for k, v in distilled.manifest.items() if k not in ("distribution", "recipe", "bytes")}
    return DistilledSet(distilled.images, distilled.labels, distilled.class_names, manifest)


def soft_note(name: str, distilled: DistilledSet, teacher: Teacher | None, storage: Storage) -> list[str]:
    """What a reader should know of the soft labels of a distributional set."""
    stored, each = soft_label_bytes(distilled), _label_bytes(distilled)
    if not stored and teacher is None:
        return []
    own = f"one a prior, {stored:,} bytes of the set's {storage.total:,}" if stored else f"{each:,} bytes a prior"
    text = f"{name}: soft labels are stored ({own}; students with hard labels do without)"
    if teacher is None:
        return [f"{text}."]
    return [f"{text}; those of random pictures are the teacher's, stored too: {each:,} bytes of each picture's."]


def _label_bytes(distilled: DistilledSet) -> int:
    stored = distilled.extras.get(SOFT)
    kind = _LABEL if stored is None else stored.dtype
    return len(distilled.class_names) * torch.empty(0, dtype=kind).element_size()


def _probabilities(logits: Tensor) -> Tensor:
    return logits.float().softmax(1)


def _normalized(images: Tensor, normalization: Normalization, device: str) -> Tensor:
    """float32 [n, 3, S, S] of pictures uint8 [n, S, S, 3]."""
    return normalize(images.to(device), normalization).contiguous()


def _logits(subject: Subject, images: Tensor, plan: Plan) -> Tensor:
    """The teacher's soft labels of pictures uint8 [n, S, S, 3], as they would be stored."""
    teacher = _teacher(subject, plan)
    return _as_stored(subject, teacher, _normalized(images, teacher.normalization, plan.device))


def _logits_of_means(subject: Subject, distribution: Distribution, plan: Plan) -> Tensor:
    """The teacher's soft labels of the means."""
    teacher, own = _teacher(subject, plan), subject.normalization
    x = distribution.means()
    if teacher.normalization != own:
        there = teacher.normalization
        constants = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (own.std, own.mean, there.mean, there.std))
        std, mean, other_mean, other_std = constants
        x = (x * std + mean - other_mean) / other_std
    return _as_stored(subject, teacher, x)


def _teacher(subject: Subject, plan: Plan) -> Teacher:
    if subject.teacher is None:
        raise ValueError("teacher: got none, expected one for soft labels; name it with --teacher")
    return subject.teacher.on(plan.device)


@torch.no_grad()
def _as_stored(subject: Subject, teacher: Teacher, x: Tensor) -> Tensor:
    logits = torch.cat([teacher(part).float() for part in x.split(_PART)]).cpu()
    stored = subject.distilled.extras.get(SOFT)
    return logits.to(_LABEL if stored is None else stored.dtype)
