"""The cases of ``ddfast bench``: what is run, its rival, how either is checked, and what the job costs at least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.bench.floor import Work
from ddfast.bench.measured import Check

if TYPE_CHECKING:
    from ddfast.bench.results import Result


@dataclass(frozen=True)
class Setting:
    """``seconds``: of timed rounds a case may take; ``folder``: an empty one for made-up pictures."""

    quick: bool
    seconds: float
    folder: Path
    device: str = "cpu"

    def count(self, quick: int, cpu: int, cuda: int) -> int:
        """How many items to take."""
        return quick if self.quick else cuda if self.device == "cuda" else cpu


@dataclass(frozen=True)
class Case:
    """Two ways to do one job. The checks are called on what they return, and decide whether they are timed."""

    shape: str
    work: Work
    ours: Callable[[], Any]
    rival: Callable[[], Any]
    rival_name: str
    check: Callable[[Any], Check]
    check_rival: Callable[[Any], Check]
    note: str = ""


@dataclass(frozen=True)
class Spec:
    """A case by name, built when its turn comes; ``whole`` ones are measured by their own function."""

    name: str
    device: str
    build: Callable[[Setting], Case] | None = None
    whole: Callable[[Setting, dict[str, Any]], Result] | None = None


def specs(device: str) -> list[Spec]:
    """The cases for ``cpu`` or ``cuda``, in the order they run."""
    from ddfast.bench import end_to_end, forward_case, input_case, op_cases

    precisions = ("bf16", "fp16") if device == "cuda" else ("fp32", "bf16")
    found = [
        Spec("multi_crop", device, op_cases.multi_crop),
        Spec("crop_score", device, op_cases.crop_score),
        *(Spec(f"forward {each}", device, partial(forward_case.forward, precision=each)) for each in precisions),
        Spec("RDED", device, whole=end_to_end.rded),
    ]
    if device == "cpu":
        found[2:2] = [Spec("mosaic", device, op_cases.mosaic), Spec("input path", device, input_case.input_path)]
    return found
