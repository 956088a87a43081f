"""Studies by name, each one command: ``ddfast reproduce NAME``."""

from __future__ import annotations

from ddfast.studies.d3 import D3_CIFAR10, D3_SMALL
from ddfast.studies.engine import Judged, Made, Study, run_study
from ddfast.studies.pdd import PDD_DIGITS, PDD_SMALL
from ddfast.studies.tables import Table, markdown

__all__ = ["STUDIES", "Judged", "Made", "Study", "Table", "markdown", "run_study"]

STUDIES = {study.name: study for study in (PDD_SMALL, PDD_DIGITS, D3_SMALL, D3_CIFAR10)}
