"""Methods by name: each registers its config class, presets and run function."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddfast.methods._options import check_types

# One file or package a method; imported on first use so that `import ddfast.methods` stays cheap.
_BUILT_IN = ("coreset", "d3", "dc", "dm", "dsa", "idc", "mtt", "pdd", "rded")


@dataclass(frozen=True)
class Method:
    """A distillation method: ``run(source, out, config, options, observer=None) -> None``, writing to ``out``.

    ``make_matcher`` of a matching method is a `ddfast.methods._driver.MakeMatcher`; progressive distillation builds
    its stages with it, after `ddfast.methods._driver.Share`, where there is one.
    """

    name: str
    config_class: type
    presets: Mapping[str, Mapping[str, Any]]
    run: Callable[..., None]
    make_matcher: Callable[..., Any] | None = None
    share: Callable[..., None] | None = None

    def configure(self, preset: str | None, **values: Any) -> Any:
        """The config of a preset with single values replaced (None keeps the preset's; mappings are merged).

        Raises:
            ValueError: unknown preset; or a value that the config class refuses.
            TypeError: unknown option.
        """
        if preset is not None and preset not in self.presets:
            raise ValueError(f"preset: got {preset!r}, expected one of {', '.join(sorted(self.presets))}")
        known = {f.name for f in dataclasses.fields(self.config_class)}
        if unknown := sorted(set(values) - known):
            near = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; options: {', '.join(sorted(known))}"
            raise TypeError(f"{self.name} has no option {unknown[0]!r}{hint}")
        check_types(self.config_class, values)
        chosen = dict(self.presets[preset]) if preset else {}
        if preset and "preset" in known:
            chosen["preset"] = preset
        for name, value in values.items():
            if isinstance(value, Mapping) and isinstance(chosen.get(name), Mapping):
                chosen[name] = {**chosen[name], **value}
            elif value is not None:
                chosen[name] = value
        return self.config_class(**chosen)


_METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    config_class: type,
    presets: Mapping[str, Mapping[str, Any]],
    make_matcher: Callable[..., Any] | None = None,
    share: Callable[..., None] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator that registers ``run(source, out, config, options, observer=None)`` as method ``name``."""

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        _METHODS[name] = Method(name, config_class, presets, run, make_matcher, share)
        return run

    return decorate


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: unknown name.
    """
    if name not in _METHODS and name in _BUILT_IN:
        importlib.import_module(f"ddfast.methods.{name}")
    if name not in _METHODS:
        raise ValueError(f"method: got {name!r}, expected one of {', '.join(method_names())}")
    return _METHODS[name]


def method_names() -> list[str]:
    """Names of all methods."""
    return sorted({*_BUILT_IN, *_METHODS})
