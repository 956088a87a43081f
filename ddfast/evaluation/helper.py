"""A helper process of an evaluation: reads the plan from standard input and takes tasks from its ledger."""

from __future__ import annotations

import pickle
import signal
import sys

from ddfast._printable import printable
from ddfast.evaluation.plan import Plan
from ddfast.evaluation.runner import OUTPUTS, work
from ddfast.runs import Preempted, open_ledger, preemptible
from ddfast.runs.parent import end_with_parent


def main() -> int:
    """Works until nothing is left; the parent reports what goes wrong in a task when it takes the task itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    end_with_parent(parent=int(sys.argv[1]))
    # a pipe that only the process that started this one writes to: the plan was an object there a moment ago
    plan, out = pickle.load(sys.stdin.buffer)
    if not isinstance(plan, Plan):
        raise TypeError(f"got {type(plan).__name__} on standard input, expected a plan")
    tasks = [spec.id for spec in plan.specs()]
    try:
        with preemptible(), open_ledger(out, tasks, plan.identity(), resume=True, outputs=OUTPUTS) as ledger:
            work(plan, ledger)
    except Preempted as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ArithmeticError, ValueError, OSError, RuntimeError) as error:
        print(f"ddfast: helper: {printable(error)}", file=sys.stderr)
        raise SystemExit(1) from None
