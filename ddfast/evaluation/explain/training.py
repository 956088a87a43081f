"""How to train on a set: the command that judges it, and a few lines of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from ddfast.evaluation.inputs import BUILT_IN
from ddfast.evaluation.protocols import PROTOCOLS
from ddfast.evaluation.recipes import default_student, named_recipe, own_recipe

_RATE, _DECAY = 0.01, 5e-4


def recipe_words(manifest: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The recipe that the set is for, and sentences on it."""
    name = named_recipe([manifest])
    made: Mapping[str, Any] = manifest.get("recipe") or {}
    about = f"Students are trained by the recipe {name}: {PROTOCOLS[name].about}."
    if manifest.get("preset") == "smoke":
        about += " The recipe smoke is a shorter one, for tries."
    if own_recipe(manifest) is None:
        return name, [about, "The set names no recipe of its own; this is the default."]
    values = [f"{key} {made[key]}" for key in ("lr", "momentum", "weight_decay", "cutmix") if made.get(key) is not None]
    augment = made.get("dsa") or made.get("augment")
    values += [f"augmentation {augment}"] if augment else []
    return name, [about, f"Its own values: {', '.join(values)}." if values else ""]


def command(folder: Path, manifest: Mapping[str, Any], recipe: str) -> str:
    """The command line that trains students on the set and tests them."""
    known = (manifest.get("source") or {}).get("name") in BUILT_IN
    data = "" if known else " --data TEST_PICTURES --train REAL_PICTURES"
    preset = "smoke" if manifest.get("preset") == "smoke" else recipe  # which shortens the set's recipe
    return f"ddfast evaluate {quote(str(folder))} --preset {preset}{data}"


def code(folder: Path, manifest: Mapping[str, Any], classes: Sequence[str], side: int) -> str:
    """Python that trains a student on the set; plain steps at the recipe's rate, without its schedule."""
    made: Mapping[str, Any] = manifest.get("recipe") or {}
    rate, decay = made.get("lr") or manifest.get("lr") or _RATE, made.get("weight_decay") or _DECAY
    student = default_student(named_recipe([manifest]), [manifest])
    if manifest.get("stage_lrs"):
        loop = [
            'for stage, rate in enumerate(data.manifest["stage_lrs"], start=1):',
            '    optimiser.param_groups[0]["lr"] = rate',
            "    for epoch in range(500):",
            "        for images, targets in data.dataloader(stage=stage):",
        ]
    else:
        loop = ["for epoch in range(1000):", "    for images, targets in data.dataloader(batch_size=50):"]
    inner = " " * (len(loop[-1]) - len(loop[-1].lstrip()) + 4)
    return "\n".join(
        [
            "import ddfast, torch",
            "from ddfast.evaluation.students import build_student",
            "# the plainest loop, not the recipe above; ddfast evaluate runs that",
            f"data = ddfast.load({str(folder)!r})",
            f"student = build_student({student!r}, {len(classes)}, {side}, seed=0)",
            f"optimiser = torch.optim.SGD(student.parameters(), lr={rate}, momentum=0.9, weight_decay={decay})",
            *loop,
            f"{inner}optimiser.zero_grad()",
            f"{inner}torch.nn.functional.cross_entropy(student(images), targets).backward()",
            f"{inner}optimiser.step()",
        ]
    )
