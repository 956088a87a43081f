"""A few lines of PyTorch that train on a set, in the space and with the augmentation that it was made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddfast.evaluation.explain.explanation import as_mapping
from ddfast.evaluation.recipes import D3, d3_recipe, default_student, named_recipe, own_recipe
from ddfast.store.loader import shows_digits
from ddfast.train.presets import Case, preset, without_flip

_RATE, _DECAY = 0.01, 5e-4
_MODULES = {"dsa": "from ddfast.train.dsa import apply_dsa, draw_dsa",
            "idc": "from ddfast.train.idc_augment import apply_idc, draw_idc"}  # fmt: skip
Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What the lines say: ``augment`` is dsa, idc or "", with its ``strategy``; ``images`` what the loader gives."""

    rate: float
    decay: float
    epochs: int
    batch: int
    augment: str
    strategy: str
    images: str


def code(folder: Path, manifest: Manifest, tensors: Mapping[str, list[int]]) -> str:
    """Python that trains a student on the set; steps at the recipe's rate, without its schedule.

    Args:
        folder: of the set, whose pictures are square.
        manifest: its manifest.
        tensors: names of those beside its images.
    """
    side, classes = int(manifest["resolution"][0]), len(manifest["class_names"])
    name = named_recipe([manifest])
    student = default_student(name, [manifest])
    drawn = manifest.get("distribution") is not None and any(each.startswith("latents.") for each in tensors)
    count = len(manifest["images"]) * (2 if drawn else 1) * (manifest.get("formation") or {}).get("factor", 1) ** 2
    plan = _plan(manifest, tensors, name, Case(student, classes, max(int(manifest["ipc"]), 1), side, images=count))
    own = own_recipe(manifest) is not None
    lines = ["import ddfast, torch", "from ddfast.evaluation.students import build_student"]
    lines += [_MODULES[plan.augment]] if plan.augment else []
    lines += ["from ddfast.train.latent import Distribution"] if drawn else []
    lines += [
        f"# the recipe {name} without its schedule{' and CutMix' * (name == 'idc')}; ddfast evaluate runs all of it"
        if own
        else "# the plainest loop, not the recipe above; ddfast evaluate runs that",
        f"data = ddfast.load({str(folder)!r})",
        f"student = build_student({student!r}, {classes}, {side}, seed=0)",
        f"optimiser = torch.optim.SGD(student.parameters(), lr={plan.rate:.6g}, momentum=0.9, "
        f"weight_decay={plan.decay:.6g})",
    ]
    lines += _of_distribution(plan, manifest, tensors, side) if drawn else _of_images(plan, manifest, tensors, side)
    return "\n".join([*lines, *_test_lines(manifest, tensors, side)])


def _plan(manifest: Manifest, tensors: Mapping[str, list[int]], name: str, case: Case) -> _Plan:
    made = as_mapping(manifest.get("recipe"))
    trained = "trained_images" in tensors and manifest.get("space") is not None
    whitened = manifest.get("space") == "zca"
    images = f"trained_images, {'whitened' if whitened else 'normalised'}" if trained else "normalised pixels"
    rate = made.get("lr") or manifest.get("lr") or _RATE
    if whitened and not trained:  # the rate belongs to the images that are not here
        rate, images = _RATE, "the visible pixels; the images that were trained, whitened, are not here"
    if own_recipe(manifest) is None:
        return _Plan(rate, made.get("weight_decay") or _DECAY, 1000, 50, "", "", images)
    config = d3_recipe(case, manifest) if name == D3 else preset(name, replace(case, digits=shows_digits(manifest)))
    augment = "idc" if name == "idc" else "dsa"
    strategy = str(made.get("augment" if augment == "idc" else "dsa", getattr(config, augment)) or "")
    strategy = without_flip(strategy) if shows_digits(manifest) else strategy
    rate = config.lr if name == D3 else rate
    return _Plan(
        rate, made.get("weight_decay") or config.weight_decay, config.epochs // 100 * 100, config.batch_size,
        augment if strategy else "", strategy, images,
    )  # fmt: skip


def _of_images(plan: _Plan, manifest: Manifest, tensors: Mapping[str, list[int]], side: int) -> list[str]:
    options = f"batch_size={plan.batch}" + (", augment=False" if own_recipe(manifest) is not None else "")
    note = f"  # {plan.images}"
    if "soft_logits" in tensors:
        note += '; targets are classes, data.extras["soft_logits"] has soft labels'
    if not manifest.get("stage_lrs"):
        loader = f"loader = data.dataloader({options}){note}"
        return [loader, f"for epoch in range({plan.epochs}):", *_epoch(plan, side, "    ", "0")]
    return [
        'for stage, rate in enumerate(data.manifest["stage_lrs"], start=1):',
        '    optimiser.param_groups[0]["lr"] = rate',
        f"    loader = data.dataloader({options}, stage=stage){note}",
        f"    for epoch in range({max(plan.epochs // 2, 1)}):",
        *_epoch(plan, side, "        ", "stage"),
    ]


def _epoch(plan: _Plan, side: int, indent: str, seed: str) -> list[str]:
    loop = "for step, (images, targets) in enumerate(loader):" if plan.augment else "for images, targets in loader:"
    inner = [*_augmented(plan, side, seed), *_step("student(images), targets")]
    return [indent + loop, *(f"{indent}    {line}" for line in inner)]


def _of_distribution(plan: _Plan, manifest: Manifest, tensors: Mapping[str, list[int]], side: int) -> list[str]:
    sampled = as_mapping(manifest.get("config")).get("sampling", True)
    pictures = (
        "[distribution.means(), distribution.samples(seed=0, epoch=epoch)]" if sampled else "[distribution.means()]"
    )
    soft = 'data.extras["soft_logits"].float().softmax(1)' if "soft_logits" in tensors else "data.labels"
    inner = [
        "images = pictures[rows]",
        *_augmented(plan, side, "0"),
        *_step("student(images), labels[rows % len(data)]"),
    ]
    return [
        f"distribution, labels = Distribution.of(data), {soft}",
        f"for epoch in range({plan.epochs}):",
        f"    pictures = torch.cat({pictures})  # decoded, normalised",
        f"    for step, rows in enumerate(torch.randperm(len(pictures)).split({plan.batch})):",
        *(f"        {line}" for line in inner),
    ]


def _augmented(plan: _Plan, side: int, seed: str) -> list[str]:
    if not plan.augment:
        return []
    draws = f"{plan.strategy!r}, len(images), ({side}, {side}), seed={seed}, epoch=epoch, step=step"
    return [f"draw = draw_{plan.augment}({draws})", f"images = apply_{plan.augment}(images, draw)"]


def _step(given: str) -> Sequence[str]:
    return ["optimiser.zero_grad()", f"torch.nn.functional.cross_entropy({given}).backward()", "optimiser.step()"]


def _test_lines(manifest: Manifest, tensors: Mapping[str, list[int]], side: int) -> list[str]:
    """Of a whitened set, how test pictures are whitened."""
    if manifest.get("space") != "zca" or "trained_images" not in tensors:
        return []
    if manifest.get("whitening") is not None:
        return [
            f"def predicted(pictures):  # test pictures, uint8 [n, {side}, {side}, 3], whitened as the images were",
            "    return student.eval()(data.whitening.apply(pictures)).argmax(1)",
        ]
    return [
        f"def predicted(pictures, real):  # uint8 [n, {side}, {side}, 3]; real: all that the set was made from",
        "    from ddfast.data.whitening import ZCA  # the set does not hold its whitening: it is fitted again",
        "    return student.eval()(ZCA.fit(real).apply(pictures)).argmax(1)",
    ]
