"""One evaluation of the tiny task in its own process, for the test that kills it: ``python eval_worker.py OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from ddfast.evaluation import evaluate
from tests.evaluation.eval_case import SETTINGS, small_set, source


def main(out: str) -> None:
    settings = {**SETTINGS, "epochs": 40, "full_data": False, "ars": False}
    evaluate(small_set(), source(12, 2, "test"), train=source(20, 1), out=Path(out), resume=True, **settings)


if __name__ == "__main__":
    main(sys.argv[1])
