"""``ddfast evaluate`` and ``ddfast continual``: students are trained on sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddfast._cli import runs
from ddfast._cli.answer import Answer
from ddfast._cli.parser import Parser, add_fields, add_where, command, field_names, given_fields


def add_evaluate(commands: Any) -> None:
    """``ddfast evaluate``."""
    from ddfast.evaluation.protocols import PROTOCOLS, EvaluationConfig

    one = command(
        commands, "evaluate", _evaluate, help="train students on a distilled set and on controls; report",
        examples=(
            "ddfast evaluate smoke --preset smoke",
            "ddfast evaluate smoke --preset smoke --students conv3,resnet10_modified_instance,resnet18_modified",
            "ddfast evaluate rded_in1k --data imagenet:val --train imagenet:train --teacher resnet18",
            "ddfast evaluate dm10 mtt10 --data cifar-10-batches-bin:test --train cifar-10-batches-bin --json",
        ),
    )  # fmt: skip
    one.add_argument("sets", nargs="+", type=Path, metavar="DIR", help="distilled sets of the same classes")
    given = one.add_argument_group("what goes in and out")
    given.add_argument("--data", help="test pictures (default: those of the set's built-in source)")
    given.add_argument("--train", help="the real set, for controls (default: the set's built-in source)")
    given.add_argument("--labels", help="stored soft labels of the set, from ddfast relabel")
    given.add_argument("--out", type=Path, help="output folder (default: DIR_evaluation)")
    who = one.add_argument_group("who is trained, and by which recipe")
    who.add_argument(
        "--students", help="names with commas between, such as conv3,conv3-in,resnet10-in,resnet18-bn "
        "(-in: instance norm, -bn: batch norm), resnetap18, vgg11-in, alexnet-modified, vit (for pictures of 28 to 64 "
        "pixels), or a torchvision name; a table across them is made (default: conv3; for matching "
        "methods' recipes with instance norm)",
    )  # fmt: skip
    who.add_argument(
        "--preset", choices=sorted(PROTOCOLS), help="recipe (default: the one that the sets' manifests name, else rded)"
    )
    who.add_argument(
        "--teacher", default="auto",
        help="auto (the set's observer), none, a network's name, or a D3 set's teacher.safetensors",
    )  # fmt: skip
    who.add_argument("--teacher-weights", help="file with the teacher's weights")
    who.add_argument(
        "--no-check-classes", dest="check_classes", action="store_false",
        help="take a named teacher without a look at real pictures for the order of its classes",
    )  # fmt: skip
    where = _add_judging(one, EvaluationConfig)
    runs.add_launch(where)
    where.add_argument(
        "--data-parallel", action="store_true", help="the ranks of this torchrun launch train each student together, "
        "every one a part of each batch: for large students and teachers (default: each rank trains other students, "
        "which is faster where there are enough)",
    )  # fmt: skip


def add_continual(commands: Any) -> None:
    """``ddfast continual``."""
    from ddfast.evaluation.incremental.config import ContinualConfig
    from ddfast.evaluation.protocols import PROTOCOLS

    text = "class-incremental learning with distilled sets as the memory: classes come in steps; table and figure"
    one = command(
        commands, "continual", _continual, help=text,
        examples=(
            "ddfast continual dm_set random_set --data cifar-100-binary:test --steps 5 --orders 5",
            "ddfast continual dm_set --data cifar-100-binary:test --students conv3_instance,resnet18_modified_instance",
            "ddfast continual dm_set --data cifar-100-binary:test --resume --json > continual.json",
        ),
    )  # fmt: skip
    one.add_argument("sets", nargs="+", type=Path, metavar="DIR", help="distilled sets of the same classes, to compare")
    given = one.add_argument_group("what goes in and out")
    given.add_argument("--data", help="test pictures (default: those of the set's built-in source)")
    given.add_argument("--train", help="the real set, for whitened sets (default: the set's built-in source)")
    given.add_argument("--out", type=Path, help="output folder (default: DIR_continual)")
    who = one.add_argument_group("who is trained, and by which recipe")
    who.add_argument("--students", default="conv3_instance", help="names with commas between (default: %(default)s)")
    who.add_argument("--preset", choices=sorted(PROTOCOLS), default="dsa", help="recipe (default: %(default)s)")
    _add_judging(one, ContinualConfig)


def evaluation_folder(arguments: argparse.Namespace, what: str = "evaluation") -> Path:
    """Where the report goes if nobody says."""
    first: Path = arguments.sets[0].resolve()
    return first.with_name(f"{first.name}_{what}")


def _add_judging(one: Parser, config_class: type) -> Any:
    """What both share: how the run is done, and their settings."""
    add_fields(one.add_argument_group("what is trained and tested"), config_class)
    where = one.add_argument_group("where it is run")
    add_where(where)
    text = "students trained side by side (default: one a core; 1 where several workers share the output folder)"
    where.add_argument("--processes", type=int, help=text)
    one.set_defaults(fields=field_names(config_class))
    return where


def _evaluate(arguments: argparse.Namespace) -> Answer | None:
    from ddfast.evaluation import evaluate
    from ddfast.runs import identify_worker

    out = arguments.out or evaluation_folder(arguments)
    passed = "train students preset teacher teacher_weights labels check_classes device processes data_parallel "
    passed += "resume overwrite"
    result = evaluate(
        arguments.sets, arguments.data, out=out, worker=identify_worker(arguments.shard), quiet=arguments.quiet,
        **{name: getattr(arguments, name) for name in passed.split()}, **given_fields(arguments),
    )  # fmt: skip
    if arguments.data_parallel and identify_worker().index > 0:  # the first rank says it
        return None
    return Answer(f"{result.text()}\n\n{out / 'report.html'}", result.report)


def _continual(arguments: argparse.Namespace) -> Answer:
    from ddfast.evaluation import continual
    from ddfast.runs import identify_worker

    out = arguments.out or evaluation_folder(arguments, "continual")
    passed = "train students preset device processes resume overwrite quiet"
    result = continual(
        arguments.sets, arguments.data, out=out, worker=identify_worker(arguments.shard),
        **{name: getattr(arguments, name) for name in passed.split()}, **given_fields(arguments),
    )  # fmt: skip
    return Answer(f"{result.text()}\n{out / 'report.html'}", result.report)
