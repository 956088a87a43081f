"""Which recipe a set's students are trained by, and how it is shortened for tries: a manifest may name one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ddfast.train import StudentConfig
from ddfast.train.presets import Case, dsa_preset, preset, without_flip

D3 = "d3"
TRAINED = ("dsa", "dc")  # recipes whose students train on the images as a matching method left them
OWN = (*TRAINED, "idc", D3)  # recipes that a manifest may name
VIEWS = 12_000  # pictures of a training with the smoke recipe itself, at most
_EPOCHS, _VIEWS = 200, 4000  # of a set's own recipe, shortened, at most
# of D3's students by decoder, from its commands for 1, 2 and 10 images per class; its ResNet-18 has some of its own
_D3_RATES = {"small": 5e-2, "medium": 2e-2, "large": 5e-3}
_D3_RESNET_RATES = {"medium": 1.4e-3}
_D3_MORE = 1e-4  # which its program adds to each


def recipe_name(chosen: str, manifest: Mapping[str, Any]) -> str:
    """The recipe of a set's students: the ``chosen`` preset; with ``smoke`` the one that the manifest names, shortened.

    Args:
        chosen: the evaluation's preset.
        manifest: the set's; sets of matching methods say there how their students are trained.
    """
    named = own_recipe(manifest)
    return named if chosen == "smoke" and named is not None else chosen


def own_recipe(manifest: Mapping[str, Any]) -> str | None:
    """The recipe that a set's manifest names; None where it names none.

    Sets of DC say ``dsa`` with no augmentation at all: they are judged as DC's paper judges them.
    """
    made = manifest.get("recipe") or {}
    named = made.get("protocol")
    if named == "dsa" and manifest.get("method") == "dc" and not made.get("dsa"):
        return "dc"
    return str(named) if named in OWN else None


def named_recipe(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The recipe that sets are judged by if nobody says: the one that their manifests name, else ``rded``.

    Args:
        manifests: of the sets; some may name none, as those of real pictures.

    Raises:
        ValueError: they name several.
    """
    named = {own_recipe(manifest) for manifest in manifests} - {None}
    if len(named) > 1:
        raise ValueError(
            f"preset: the sets' manifests name different recipes, {', '.join(sorted(map(str, named)))}; say which to "
            "compare them by (--preset)"
        )
    return str(named.pop()) if named else "rded"


def is_drawn(chosen: str, manifest: Mapping[str, Any]) -> bool:
    """Whether a set's students train on what its distribution gives (D3), rather than on stored pictures."""
    return recipe_name(chosen, manifest) == D3 and manifest.get("distribution") is not None


def d3_recipe(case: Case, manifest: Mapping[str, Any]) -> StudentConfig:
    """D3's (Qin et al., arXiv 2403.00999): SGD, 2000 epochs, batches of 256, rate / 10 halfway, DSA.

    The rate is that of the paper's budget with the set's decoder: 0.05 for small, 0.02 for medium, 0.005 for large (for
    ResNet-18 0.0014 with medium; half the epochs with large), each plus 1e-4.

    Args:
        case: what is trained.
        manifest: the set's; a set of pictures is trained on as one with the small decoder.
    """
    blocks = (manifest.get("distribution") or {}).get("blocks") or [{}]
    decoder = str((blocks[0].get("decoder") or {}).get("kind", "small"))
    resnet = case.student.startswith(("resnet18", "resnetap18"))
    rate = (_D3_RESNET_RATES if resnet else {}).get(decoder, _D3_RATES[decoder])
    config = dsa_preset(case, epochs=1000 if resnet and decoder == "large" else 2000, lr=rate + _D3_MORE)
    made = manifest.get("recipe") or {}
    if made.get("protocol") != D3:
        return config
    strategy = str(made.get("dsa", config.dsa))
    return replace(
        config, dsa=without_flip(strategy) if case.digits else strategy,
        weight_decay=float(made.get("weight_decay", config.weight_decay)),
    )  # fmt: skip


def short_recipe(case: Case, manifest: Mapping[str, Any]) -> StudentConfig:
    """A set's own recipe with at most 200 epochs and 4,000 views.

    Args:
        case: what is trained.
        manifest: the set's. Its ``recipe`` has ``protocol``, and the augmentation, weight decay and CutMix that its
            method trained students with; digits are neither mirrored nor mixed whatever it says.
    """
    epochs = max(2, min(_EPOCHS, _VIEWS // case.count))
    name = str(own_recipe(manifest))
    return shortened(
        d3_recipe(case, manifest) if name == D3 else _own_recipe(name, case, manifest["recipe"]), epochs
    )  # fmt: skip


def _own_recipe(name: str, case: Case, made: Mapping[str, Any]) -> StudentConfig:
    config = preset(name, case)
    given: dict[str, Any] = {"weight_decay": float(made.get("weight_decay", config.weight_decay))}
    if name == "idc":
        given |= {"lr": float(made.get("lr", config.lr)), "idc": str(made.get("augment", config.idc))}
        given["cutmix_share"] = float(made.get("cutmix", config.cutmix_share))
    else:
        given["dsa"] = str(made.get("dsa", config.dsa))
    if case.digits:
        given |= {name: without_flip(given[name]) for name in OWN if name in given}
        given["cutmix_share"] = 0.0
    return replace(config, **given)


def short_stage(case: Case, sizes: Sequence[int], manifest: Mapping[str, Any]) -> StudentConfig:
    """`short_recipe` of one stage of several: as many views of all stages together as of the set in one go.

    Args:
        case, manifest: as there, of the whole set.
        sizes: pictures of an epoch of each stage.
    """
    whole = short_recipe(case, manifest)
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
