"""PDD's settings: those of the stages, and through them the base method's."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option
from ddfast.methods._registry import Method, get_method, method_names

# what the stages decide of a base
_OWN = {"ipc": "ipc_per_stage", "seed": "seed", "preset": "base_preset"}
COUNT = "train"  # forgetting scores are counted by the run itself
SCOPES = ("all", "pool")
_TRUE, _FALSE, _NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "")


@dataclass(frozen=True)
class PDDConfig:
    """Settings that decide what is distilled (PDD: Chen et al., ICLR 2024, arXiv 2310.06982).

    Stage k distils a set of ``ipc_per_stage`` images per class with the base method. The sets before it take part in
    every matching step and stay as they are (``conditioning``); matching begins at networks that were trained on them
    (``transition``).
    """

    base: str = option("mtt", "the method of each stage: mtt, idc, dc, dsa or dm")
    stages: int = option(5, "sets, one after the other")
    ipc_per_stage: int = option(2, "distilled images per class of each set")
    conditioning: bool = option(True, "match with the sets of earlier stages in front")
    transition: bool = option(True, "begin at networks trained on the sets of earlier stages")
    transition_epochs: int = option(1000, "epochs of that training, after each stage on all sets so far")
    pool: int = option(
        20, "networks a stage begins at (mtt: one an expert); 0 trains a new one in every iteration, as the paper does"
    )
    forgetting: str | None = option(
        None, "discard easy examples: stage k sees real pictures that networks forgot more and more often while they "
        "were trained, by the scores in this folder or file, or train: counted first on all pictures (with "
        "difficulty_scope=pool while mtt's own experts are trained)"
    )  # fmt: skip
    difficulty_interval: float = option(
        10.0, "forgetting events that a stage spans: stage k sees scores in [(k - 1) d, k d), the last without end"
    )
    difficulty_scope: str = option(
        "all", "what is limited to a stage's own pictures: all (initial images, matching, experts) or pool (initial "
        "images alone, as PDD's program did over mtt)"
    )  # fmt: skip
    forgetting_networks: int | None = option(None, "networks that count, for forgetting=train (default: mtt's, 10)")
    forgetting_epochs: int | None = option(None, "epochs of their training (default: those of mtt's experts, 50)")
    lr_lr_later: float | None = option(
        None, "mtt's lr_lr from the second stage on; PDD's program takes 1e-5 on CIFAR-10 with ipc_per_stage=1"
    )
    seed: int = option(0, "of every draw")
    base_preset: str | None = option(None, "preset of the base method")
    base_option: Mapping[str, Any] | None = option(
        None, "an option of the base method over its preset; may be repeated"
    )
    preset: str | None = option(None, "the preset's name", cli=False)

    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"difficulty_scope": SCOPES}

    def __post_init__(self) -> None:
        for name in ("stages", "ipc_per_stage", "transition_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        for name in ("forgetting_networks", "forgetting_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        if not self.difficulty_interval > 0:
            raise ValueError(f"difficulty_interval: got {self.difficulty_interval!r}, expected a positive number")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.lr_lr_later is not None and not hasattr(self.base_config, "lr_lr"):
            raise ValueError(
                f"lr_lr_later: got {self.lr_lr_later!r}, but base {self.base} learns no rate; leave it out"
            )
        if self.forgetting and self.difficulty_scope == "all" and getattr(self.base_config, "buffers", None):
            raise ValueError(
                "forgetting: with difficulty_scope=all a stage's experts are trained on its own pictures, but "
                "base_option has buffers; leave one of them out, or give difficulty_scope=pool"
            )
        if self.pool < 0:
            raise ValueError(f"pool: got {self.pool!r}, expected 0 (a new network in every iteration) or more")
        if getattr(self.base_config, "soft_labels", False) and self.stages > 1:
            raise ValueError(
                "base_option: soft_labels does not go with stages; earlier sets are kept with their classes"
            )

    @property
    def method(self) -> Method:
        """The base method.

        Raises:
            ValueError: there is none of this name, or it cannot be conditioned on other sets.
        """
        if self.base in method_names() and get_method(self.base).make_matcher is not None:
            return get_method(self.base)
        able = [name for name in method_names() if name != "pdd" and get_method(name).make_matcher is not None]
        why = ", which cannot be conditioned on earlier sets" if self.base in method_names() else ""
        raise ValueError(f"base: got {self.base!r}{why}; expected one of {', '.join(able)}")

    @cached_property
    def base_config(self) -> MatchingConfig:
        """The base method's settings of each stage.

        Raises:
            ValueError, TypeError: an option that the base does not have, or a value that it refuses.
        """
        given = dict(self.base_option or {})
        for name, decider in _OWN.items():
            if name in given:
                raise ValueError(f"base_option: got {name}={given[name]!r}, which {decider} decides")
        method = self.method
        values = {name: _typed(method, name, value) for name, value in given.items()}
        own = {"ipc": self.ipc_per_stage, "seed": self.seed}
        try:
            config: MatchingConfig = method.configure(self.base_preset, **own, **values)
        except TypeError as error:
            preset = f" (preset {self.preset!r} is for its own base; leave it out for another)" if self.preset else ""
            raise TypeError(f"base_option: {error}{preset}") from None
        # configure() takes None for "not given"; here it is a value
        empty: dict[str, Any] = {name: None for name, value in values.items() if value is None}
        return dataclasses.replace(config, **empty) if empty else config

    def stage_config(self, stage: int) -> MatchingConfig:
        """The base method's settings of a stage (from 0)."""
        if stage == 0 or self.lr_lr_later is None:
            return self.base_config
        later: dict[str, Any] = {"lr_lr": self.lr_lr_later}
        return dataclasses.replace(self.base_config, **later)

    @property
    def ipc(self) -> int:
        """Distilled images per class in all."""
        return self.stages * self.ipc_per_stage

    @property
    def networks(self) -> int:
        """That each stage begins at: one an expert, or ``pool``; 0 for a new one in every iteration."""
        return int(getattr(self.base_config, "experts", self.pool))

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON values."""
        names = ("base", "stages", "ipc_per_stage", "conditioning", "transition", "transition_epochs")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.forgetting is not None:
            counted = self.forgetting == COUNT
            found["forgetting"] = COUNT if counted else Path(self.forgetting).name
            own = ("difficulty_interval", "difficulty_scope", *(("forgetting_networks", "forgetting_epochs") * counted))
            found |= {name: getattr(self, name) for name in own}
        if self.lr_lr_later is not None:
            found["lr_lr_later"] = self.lr_lr_later
        return {**found, "networks": self.networks, "base_config": self.base_config.identity()}


def _typed(method: Method, name: str, value: Any) -> Any:
    """``value`` as the base's option has it, where it is text from a command line."""
    hint = typing.get_type_hints(method.config_class).get(name)
    if hint is None or not isinstance(value, str):
        return value  # unknown names are refused by configure()
    kinds = typing.get_args(hint) or (hint,)
    if type(None) in kinds and value.lower() in _NONE:
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    try:
        return _READ.get(kind, kind)(value)
    except (ValueError, TypeError):
        raise ValueError(f"base_option: got {name}={value!r}, expected {_EXPECTED.get(kind, kind.__name__)}") from None


def _truth(value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(value)
    return value.lower() in _TRUE


_READ: dict[Any, Callable[[str], Any]] = {bool: _truth}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number"}
