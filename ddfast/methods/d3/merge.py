"""Blocks put together: one distributional set, soft labels over all classes, scores of each block, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.methods._problem import Problem, is_written
from ddfast.methods.d3 import report
from ddfast.methods.d3.config import D3Config
from ddfast.methods.d3.cost import run_cost
from ddfast.methods.d3.labels import STREAM, TEACHER_FILE, soft_logits
from ddfast.methods.d3.split import Blocks
from ddfast.methods.d3.stored_block import StoredBlock
from ddfast.runs import atomic_write_bytes
from ddfast.store import DistilledSet
from ddfast.store.provenance import normalization_to_json
from ddfast.train import NonFiniteLossError
from ddfast.train.flat_student import fresh_theta
from ddfast.train.latent.distribution import Distribution

_BATCH = 500  # held-out pictures of a forward


def merge(
    problem: Problem, config: D3Config, out: Path, blocks: Blocks, parts: Sequence[StoredBlock],
    teacher: nn.Module | None,
) -> None:  # fmt: skip
    """Writes the set into ``out``: images are the decoded means, labels classes of the whole set, block after block;
    extras are ``latents.<i>`` and ``decoder.<i>.*`` at ``config.storage``, and ``soft_logits`` of the means decoded
    from what is stored (float16 unless ``storage`` is fp32).

    Doing it again changes nothing.

    Args:
        problem: of all classes.
        config: of the run.
        out: its folder.
        blocks: classes of each block.
        parts: the blocks.
        teacher: gives soft labels; None for hard ones.

    Raises:
        ValueError: a number is not finite, or too large for float16.
    """
    if is_written(out):
        return
    made = assembled(problem, config, parts)
    distribution = Distribution.of(made)
    assert distribution is not None
    distribution = distribution.to(problem.device)
    means = distribution.means()
    made.images = problem.space.invert(means)
    if teacher is not None:
        logits = soft_logits(teacher, means)
        made.extras["soft_logits"] = logits if config.storage == "fp32" else logits.half()
    made.manifest |= _manifest(problem, config, blocks, parts, teacher is not None)
    made.manifest["scores"] = _scores(problem, config, blocks, parts, distribution, made.extras.get("soft_logits"))
    pictures = {
        report.MEANS_FILE: report.means_png(made.images, made.labels, len(made.class_names)),
        report.SAMPLES_FILE: report.samples_png(distribution, made.images, problem.space, made.class_names),
        report.BETWEEN_FILE: report.between_png(distribution, problem.space, made.class_names),
        "contact_sheet.png": report.sheet_png(made),
    }
    for name, content in pictures.items():
        atomic_write_bytes(out / name, content)
    made.save(out, format="safetensors")


def assembled(problem: Problem, config: D3Config, parts: Sequence[StoredBlock]) -> DistilledSet:
    """The blocks as they are stored, with blank images."""
    distribution = Distribution([part.latents for part in parts])
    side, labels = config.size, distribution.labels
    return DistilledSet(
        torch.zeros(len(labels), side, side, 3, dtype=torch.uint8), labels, problem.class_names,
        {"distribution": distribution.as_json(config.storage)}, distribution.tensors(config.storage),
    )  # fmt: skip


def _manifest(
    problem: Problem, config: D3Config, blocks: Blocks, parts: Sequence[StoredBlock], soft: bool
) -> dict[str, Any]:
    records = [part.record for part in parts]
    recipe = {"protocol": "d3", "momentum": 0.9, "weight_decay": 5e-4, "dsa": config.dsa}
    return {
        "method": "d3",
        "preset": config.preset,
        "config": config.identity(),
        "source": {"name": problem.source.name, "fingerprint": problem.source.fingerprint()},
        "seed": config.seed,
        "normalization": normalization_to_json(problem.space.normalization),
        "space": "normalized",
        "recipe": recipe,
        "blocks": [list(block) for block in blocks],
        "block_lrs": [record["lr"] for record in records],
        "block_tests": [record["tests"] for record in records],
        "block_notes": [record["notes"] for record in records],
        "losses": [record["losses"] for record in records],
        "soft_labels": {"teacher": TEACHER_FILE, "experts": config.label_experts, "epoch": config.label_epoch}
        if soft
        else None,
        "cost": run_cost(problem, config, blocks),
    }


def _scores(
    problem: Problem, config: D3Config, blocks: Blocks, parts: Sequence[StoredBlock], distribution: Distribution,
    logits: Tensor | None,
) -> dict[str, Any] | None:  # fmt: skip
    """Top-1 on held-out training pictures: ``blocks``, of each the last of its own tests (``own``: among its classes)
    and of its pictures among all classes (``whole``); ``whole``, of all. Null where there were no tests, and where the
    student of all diverged.

    ``whole`` is of one student trained on means and as many samples of all blocks, with the set's labels.
    """
    if not len(problem.test):
        return None
    predicted = _predictions(problem, config, distribution, logits)
    right = None if predicted is None else predicted == problem.test_labels
    scores = []
    for classes, part in zip(blocks, parts, strict=True):
        mine = torch.isin(problem.test_labels, torch.tensor(classes, device=problem.test_labels.device))
        tests = part.record["tests"]
        own = tests[-1].get("top1") if tests else None
        scores.append({"own": own, "whole": None if right is None else float(right[mine].double().mean())})
    return {"blocks": scores, "whole": None if right is None else float(right.double().mean())}


def _predictions(
    problem: Problem, config: D3Config, distribution: Distribution, logits: Tensor | None
) -> Tensor | None:
    """int64 [n] for the held-out pictures; None where the student diverges."""
    net, labels = problem.net, distribution.labels.to(problem.device)
    targets = labels if logits is None else logits.float().softmax(1).to(problem.device)
    images = [distribution.means()]
    if config.sampling:
        images.append(distribution.samples(seed=config.seed, epoch=0))
    stream = f"{STREAM}/whole student"
    theta = fresh_theta(net, config.seed, stream).to(problem.device)
    try:
        theta = config.matching_config().train_student(
            net, theta, torch.cat(images), torch.cat([targets] * len(images)), lr=None, epochs=config.eval_epochs,
            stream=stream,
        )  # fmt: skip
    except NonFiniteLossError:
        return None
    with torch.no_grad():
        return torch.cat([net.logits(theta, part).argmax(1) for part in problem.test.split(_BATCH)])
