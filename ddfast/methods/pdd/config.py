"""PDD's settings: those of the stages, and through them the base method's."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option
from ddfast.methods._registry import Method, get_method, method_names

# what the stages decide of a base
_OWN = {"ipc": "ipc_per_stage", "seed": "seed", "preset": "base_preset"}
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
    seed: int = option(0, "of every draw")
    base_preset: str | None = option(None, "preset of the base method")
    base_option: Mapping[str, Any] | None = option(
        None, "an option of the base method over its preset; may be repeated"
    )
    preset: str | None = option(None, "the preset's name", cli=False)

    def __post_init__(self) -> None:
        for name in ("stages", "ipc_per_stage", "transition_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
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
            preset = f" (preset {self.preset!r} brings those of its own base)" if self.preset else ""
            raise TypeError(f"base_option: {error}{preset}") from None
        # configure() takes None for "not given"; here it is a value
        empty: dict[str, Any] = {name: None for name, value in values.items() if value is None}
        return dataclasses.replace(config, **empty) if empty else config

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
        return {
            **{name: getattr(self, name) for name in names},
            "networks": self.networks,
            "base_config": self.base_config.identity(),
        }


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
