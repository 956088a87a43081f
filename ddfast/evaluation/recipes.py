"""Which recipe a set's students are trained by, and how it is shortened for tries: a manifest may name one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ddfast.train import StudentConfig
from ddfast.train.presets import Case, preset, without_flip

OWN = ("dsa", "idc")  # recipes that a manifest may name
VIEWS = 12_000  # pictures of a training with the smoke recipe, at most
_EPOCHS = 200


def recipe_name(chosen: str, manifest: Mapping[str, Any]) -> str:
    """The recipe of a set's students: the ``chosen`` preset; with ``smoke`` the one that the manifest names, shortened.

    Args:
        chosen: the evaluation's preset.
        manifest: the set's; sets of matching methods say there how their students are trained.
    """
    named = (manifest.get("recipe") or {}).get("protocol")
    return str(named) if chosen == "smoke" and named in OWN else chosen


def short_recipe(case: Case, made: Mapping[str, Any]) -> StudentConfig:
    """A set's own recipe with at most 200 epochs and 12,000 views.

    Args:
        case: what is trained.
        made: ``recipe`` of the set's manifest: ``protocol``, and the augmentation, weight decay and CutMix that its
            method trained students with; digits are not mirrored whatever it says.
    """
    config = preset(str(made["protocol"]), case)
    given: dict[str, Any] = {"weight_decay": float(made.get("weight_decay", config.weight_decay))}
    if made["protocol"] == "idc":
        given |= {"lr": float(made.get("lr", config.lr)), "idc": str(made.get("augment", config.idc))}
        given["cutmix_share"] = float(made.get("cutmix", config.cutmix_share))
    else:
        given["dsa"] = str(made.get("dsa", config.dsa))
    if case.digits:
        given |= {name: without_flip(given[name]) for name in OWN if name in given}
    return shortened(replace(config, **given), max(2, min(_EPOCHS, VIEWS // case.count)))


def short_stage(case: Case, sizes: Sequence[int], made: Mapping[str, Any]) -> StudentConfig:
    """`short_recipe` of one stage of several: as many views of all stages together as of the set in one go.

    Args:
        case, made: as there, of the whole set.
        sizes: pictures of an epoch of each stage.
    """
    whole = short_recipe(case, made)
    return shortened(whole, max(2, whole.epochs * case.count // sum(sizes)))


def shortened(recipe: StudentConfig, epochs: int) -> StudentConfig:
    """The recipe with another number of epochs, its milestones in proportion."""
    milestones = tuple(max(1, round(epoch * epochs / recipe.epochs)) for epoch in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=milestones)


def default_student(chosen: str, manifests: Sequence[Mapping[str, Any]]) -> str:
    """The student where none is named: a ConvNet with the depth and norm that the first set with a matching method's
    recipe was distilled for (3 blocks, instance norm where it does not say), else ``conv3``.

    Args:
        chosen: the evaluation's preset.
        manifests: of the sets.
    """
    for manifest in manifests:
        if recipe_name(chosen, manifest) in OWN:
            config = manifest.get("config") or {}
            config = {**config, **(config.get("base_option") or {})}
            return f"conv{config.get('depth') or 3}_{config.get('norm') or 'instance'}"
    return "conv3"
