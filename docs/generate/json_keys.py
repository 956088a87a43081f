"""What ``--json`` prints: the public keys of each command's document, which tests compare with what is printed."""

from __future__ import annotations

import inspect
import textwrap

from ddfast.evaluation import schema
from docs.generate.settings import table

_REPORT = {
    "format": "", "schema_version": "of the report", "config": "the evaluation's settings", "protocol": "the recipe",
    "class_names": "in label order", "validation": "the test pictures", "sets": "what was compared", "students": "",
    "results": "a row for each set, labels and student", "notes": "sentences", "versions": "", "machine": "",
}  # fmt: skip
# command -> key -> what it is; keys are never removed but through the deprecation policy, others may come
KEYS: dict[str, dict[str, str]] = {
    "distill": {
        "out": "the folder", "finished": "false for `--only-blocks` of `d3`, which has no further keys",
        "images": "how many", "manifest": "the content of `manifest.json`",
    },
    "distill --launcher": {"out": "the folder", "logs": "of the workers", "jobs": "their ids"},
    "evaluate": {
        **_REPORT, "tradeoff": "accuracy, bytes and cost together", "scores": "DD-Ranking's, or null",
        "cross_architecture": "a table, or null",
    },
    "continual": {**_REPORT, "seen": "classes after each step", "orders": "of the classes"},
    "relabel": {
        "out": "the folder", "layout": "epochs, samples, classes, kind", "epochs_done": "", "bytes": "",
        "fingerprint": "what the labels belong to", "fkd": "the folder in FKD's layout, or null",
    },
    "export": {"out": "the folder", "to": "the layout", "files": "relative paths"},
    "explain": {
        "kind": "", "folder": "", "words": "topic: sentences", "command": "that judges it", "code": "that trains on it",
        "missing": "what is not known", "warnings": "", "...": "facts, by kind",
    },
    "status": {
        "run": "the folder", "finished": "",
        "ledgers": "`name`, `method`, `total`, number of tasks by state, `rate` (tasks a second), `eta` (seconds), and "
        "`tasks`: `task`, `state`, `owner`, `seconds`, `told` (how far it is), `failure` ...",
        "workers": "`owner`, `done`, `seconds`, `held`, `silent`",
    },
    "retry": {"freed": "names of tasks"},
    "clean": {"temporaries": "unfinished files removed", "state_files": "of finished tasks removed"},
    "reproduce": {"name": "", "about": "", "versions": "", "...": "by the kind of table"},
    "bench": {
        "schema_version": "of the document", "created": "UTC", "finished": "", "quick": "", "machine": "",
        "versions": "",
        "ceilings": "what the machine reached", "cases": "a record for each",
    },
    "demo": {"observer_top1": "percent", "students": "`images`, `labels`, `top1` in percent"},
    "info": {
        "ddfast": "version", "python": "version", "packages": "versions", "native": "modules, or why one is missing",
        "machine": "", "gpus": "", "malloc_tuned": "", "ops": "op -> device -> back ends, the default first",
    },
}  # fmt: skip


def json_keys() -> str:
    """A row for each command, and the keys of reports one by one."""
    rows = [
        [f"`{command}`", "; ".join(f"`{key}`{f': {what}' if what else ''}" for key, what in keys.items())]
        for command, keys in KEYS.items()
    ]
    report = inspect.cleandoc(schema.__doc__ or "").split("\n\n", 1)[1]
    return f"{table(['command', 'keys'], rows)}\n\n### The report\n\n```text\n{textwrap.dedent(report)}\n```"
