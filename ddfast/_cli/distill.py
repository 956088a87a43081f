"""``ddfast distill METHOD``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfast._cli import runs
from ddfast._cli.answer import Answer
from ddfast._cli.parser import EXIT_CODES, add_fields, command, field_names, given_fields

_CIFAR = "cifar-10-batches-bin"
_MORE = {
    "coreset": f"--data {_CIFAR} --selection herding --ipc 10 --size 32 --out herding10",
    "d3": f"--data {_CIFAR} --out d3_set --resume",
    "dc": f"--data {_CIFAR} --ipc 1 --out dc1",
    "dm": f"--data {_CIFAR} --ipc 10 --device cuda --out dm10",
    "dsa": f"--data {_CIFAR} --ipc 10 --zca --out dsa10",
    "idc": f"--data {_CIFAR} --ipc 10 --formation 2 --out idc10",
    "mtt": f"--data {_CIFAR} --ipc 1 --soft-labels --out mtt1",
    "pdd": f"--data {_CIFAR} --base mtt --stages 5 --ipc-per-stage 2 --out pdd10",
    "rded": "--data imagenet:train --observer resnet18 --weights resnet18.pth --ipc 10 --out rded_in1k",
}


def add(commands: Any) -> None:
    """The command and one of its own for each method."""
    from ddfast.methods import method_names

    distill = commands.add_parser(
        "distill", help="distil a data set", description="distil a data set by one of these methods",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="examples:\n  ddfast distill rded --preset smoke --data mnist5k --out smoke\n"
        "  ddfast distill rded --help\n\n" + EXIT_CODES,
    )  # fmt: skip
    methods = distill.add_subparsers(metavar="METHOD", required=True)
    for name in method_names():
        _add_method(methods, name)


def _add_method(methods: Any, name: str) -> None:
    from ddfast.methods import RunOptions, get_method
    from ddfast.store.about import ABOUT

    method = get_method(name)
    presets = sorted(method.presets)
    smoke = [f"--preset {each} --data mnist5k --out smoke" for each in presets if each == "smoke"]
    lines = [*smoke, *([_MORE[name]] if name in _MORE else [])]
    resumed = f"{lines[-1]} --resume" if lines and "--resume" not in lines[-1] else ""
    one = command(
        methods, name, _distill, help=ABOUT[name].line if name in ABOUT else f"the {name} method", quiet=False,
        examples=[f"ddfast distill {name} {words}" for words in (*lines, resumed) if words],
    )  # fmt: skip
    needed = one.add_argument_group("what goes in and out")
    needed.add_argument(
        "--data", required=True, help="class folders, a folder of CIFAR, MNIST, SVHN ..., .npz, mnist5k"
    )
    needed.add_argument("--out", required=True, type=Path, help="output folder")
    needed.add_argument("--preset", choices=presets, help="named settings; single options override them")
    runs.add_launch(one.add_argument_group("where it is run"))
    add_fields(one.add_argument_group("what is distilled"), method.config_class)
    add_fields(one.add_argument_group("how it is run"), RunOptions, method=name)
    one.set_defaults(method=name, fields=(*field_names(method.config_class), *field_names(RunOptions)))


def _distill(arguments: argparse.Namespace) -> Answer:
    from ddfast.evaluation.explain import training
    from ddfast.methods import distill_to
    from ddfast.store import read_manifest

    given = given_fields(arguments)
    if isinstance(given.get("scale"), list):  # of crops
        given["scale"] = tuple(given["scale"])
    given = {n: dict(value) if isinstance(value, list) else value for n, value in given.items()}  # of KEY=VALUE
    distill_to(arguments.method, arguments.data, arguments.out, preset=arguments.preset, **given)
    if not (arguments.out / "manifest.json").exists():  # a part of the run, by choice
        return Answer("", {"out": str(arguments.out), "finished": False})
    manifest = read_manifest(arguments.out / "manifest.json")
    count = len(manifest["images"])
    text = f"{count} images in {arguments.out}; {_unread(arguments.out, manifest)}"
    text += f"next: {training.command(arguments.out, manifest, str(arguments.data))}"
    document = {"out": str(arguments.out), "finished": True, "images": count, "manifest": manifest}
    return Answer("" if given.get("quiet") else text, document)


def _unread(out: Path, manifest: Mapping[str, Any]) -> str:
    """That files of the source were skipped, which else only the manifest says."""
    failures = manifest["failures"]
    if not failures:
        return ""
    what, were = ("1 source file", "was") if len(failures) == 1 else (f"{len(failures)} source files", "were")
    such = failures[0]["sample"]
    return f"{what} could not be read and {were} skipped, such as {such} (ddfast explain {shlex.quote(str(out))}); "
