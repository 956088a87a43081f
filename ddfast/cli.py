"""The command line: parsing only; everything it does is a function of the package."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddfast import _run_commands
from ddfast.runs.preemption import Preempted, preemptible

_EXAMPLES = """examples:
  ddfast demo --out demo
  ddfast distill rded --preset smoke --data mnist5k --out smoke
  ddfast distill rded --data imagenet/train --observer resnet18 --weights resnet18.pth --ipc 10 --out rded_in1k
  ddfast bench --out bench_out
  ddfast relabel smoke --preset smoke --teacher train:conv3 --data mnist5k --out smoke_labels
  ddfast evaluate smoke --preset smoke
  ddfast evaluate rded_in1k --data imagenet:val --train imagenet:train --teacher resnet18 --students resnet18
  ddfast evaluate smoke --preset smoke --students conv3,resnet10_modified-in,resnet18_modified-bn
  ddfast continual dm_set random_set --data cifar-100-binary:test --steps 5 --orders 5
  ddfast reproduce rded-cifar10-conv3 --data cifar-10-batches-bin --out reproduced
  ddfast reproduce pdd-small --data cifar-10-batches-bin --out pdd_small
  ddfast export smoke --to huggingface --out smoke_hf
  ddfast status rded_in1k --watch
  ddfast info
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended by SIGTERM).

    SIGUSR1 and SIGUSR2, with which launchers warn of the end, count as SIGTERM does (exit codes 138 and 140).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(every=words[:1] not in ([name] for name in _run_commands.NAMES)).parse_args(words)
    try:
        with preemptible():
            if getattr(arguments, "launcher", None):
                return _run_commands.launch(arguments, words, arguments.out or _evaluation_folder(arguments))
            return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(arguments)}", file=sys.stderr)
        return 130
    except Preempted as stop:
        print(f"\nstopped by {stop}{_how_to_go_on(arguments)}", file=sys.stderr)
        return stop.exit_code
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, ImportError) as error:
        if arguments.traceback:
            raise
        print(f"ddfast: error: {error}", file=sys.stderr)
        return 1


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    """The end of the line that says the command was stopped."""
    given = set(vars(arguments))
    if "table" in given:
        return "; what is finished is kept, give the same command to go on"
    return "; what is finished is kept, go on with --resume" if {"method", "sets", "teachers"} & given else ""


def _parser(*, every: bool = True) -> argparse.ArgumentParser:
    """Of all commands; without ``every`` only of those on runs, which need none of the slow imports."""
    parser = argparse.ArgumentParser(
        prog="ddfast", description="Dataset distillation: fast, exact, resumable.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"ddfast {version('ddfast')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run_commands.add_runs(commands, _command)
    if not every:
        return parser
    _add_distill(commands)
    _add_relabel(commands)
    _add_evaluate(commands)
    _add_continual(commands)
    _add_export(commands)
    info = _command(commands, "info", _info, help="what is installed and which backends would run")
    info.add_argument("--json", action="store_true", help="machine-readable")
    demo = _command(commands, "demo", _demo, help="distil real digits and train on the result, in under three minutes")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="output folder (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo in the output folder")
    _add_reproduce(commands)
    bench = _command(
        commands, "bench", _bench, help="what ddfast reaches on this machine, and how far that is from its limit"
    )
    bench.add_argument("--out", type=Path, default=Path("bench_out"), help="output folder (default: %(default)s)")
    bench.add_argument("--quick", action="store_true", help="half a minute instead of two; for a look, not to quote")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: all there are")
    bench.add_argument("--json", action="store_true", help="print bench.json instead of the table")
    return parser


def _command(parsers: Any, name: str, run: Any, **kwargs: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(
        name, description=kwargs["help"], allow_abbrev=False, **kwargs
    )  # abbreviations would take --ipc for pdd's --ipc-per-stage
    parser.add_argument("--traceback", action="store_true", help="show the full traceback of an error")
    parser.set_defaults(run=run)
    return parser


_ABOUT = {
    "coreset": "real pictures: random, herding, k-center or the most forgotten",
    "d3": "a few Gaussians per class and a decoder, class blocks apart (Qin et al., 2024)",
    "dc": "gradient matching (Zhao et al., ICLR 2021)",
    "dm": "distribution matching (Zhao and Bilen, WACV 2023)",
    "dsa": "gradient matching with siamese augmentation (Zhao and Bilen, ICML 2021)",
    "idc": "gradient matching of several small images in one (Kim et al., ICML 2022)",
    "mtt": "trajectory matching (Cazenavette et al., CVPR 2022)",
    "pdd": "progressive stages of mtt, idc, dc, dsa or dm (Chen et al., ICLR 2024)",
    "rded": "mosaics of real patches (Sun et al., CVPR 2024)",
}


def _add_distill(commands: Any) -> None:
    from ddfast.methods import RunOptions, get_method, method_names

    distill = commands.add_parser("distill", help="distil a data set")
    methods = distill.add_subparsers(metavar="METHOD", required=True)
    for name in method_names():
        method = get_method(name)
        one = _command(methods, name, _distill, help=_ABOUT.get(name, f"the {name} method"))
        one.add_argument(
            "--data", required=True, help="folder of class folders, CIFAR or Tiny folder, .npz, or mnist5k"
        )
        one.add_argument("--out", required=True, type=Path, help="output folder")
        one.add_argument(
            "--preset", choices=sorted(method.presets), help="named settings; single options override them"
        )
        one.add_argument("--json", action="store_true", help="print the summary as JSON")
        _run_commands.add_launch(one.add_argument_group("where it is run"))
        _add_fields(one.add_argument_group("what is distilled"), method.config_class)
        _add_fields(one.add_argument_group("how it is run"), RunOptions, method=name)
        one.set_defaults(method=name, fields=(*_names(method.config_class), *_names(RunOptions)))


def _add_relabel(commands: Any) -> None:
    one = _command(commands, "relabel", _relabel, help="store teachers' soft labels for every view of a training")
    one.add_argument("set", type=Path, metavar="DIR", help="the distilled set")
    one.add_argument(
        "--teacher", required=True, action="append", dest="teachers", metavar="NAME", help="a network's name, "
        "NAME=WEIGHTS, a checkpoint SET_NAME.pth, or train:conv3; several are averaged",
    )  # fmt: skip
    one.add_argument("--out", required=True, type=Path, help="output folder")
    one.add_argument("--data", help="the real set, for train:NAME")
    one.add_argument("--preset", choices=("rded", "smoke"), default="rded", help="settings (default: %(default)s)")
    one.add_argument("--epochs", type=int, help="how long students will train (default: the preset's)")
    one.add_argument("--batch-size", type=int, help="of the training (default: the preset's)")
    one.add_argument("--seed", type=int, default=0, help="of views and order (default: %(default)s)")
    one.add_argument("--kind", choices=("fp16", "topk"), help="all logits (default), or the k largest")
    one.add_argument("--k", type=int, help="logits that topk keeps of each label (default: the preset's)")
    one.add_argument("--tail-temperature", type=float, help="the students' temperature (default: the preset's)")
    one.add_argument("--per-image", action="store_true", help="one label an image, of the plain image")
    one.add_argument("--precision", choices=("fp32", "bf16"), help="the teachers' (default: fp32)")
    one.add_argument("--order", choices=("counter", "random_sampler"), help="of samples; random_sampler for --fkd")
    one.add_argument("--fkd", type=Path, metavar="FOLDER", help="write the FKD layout as well")
    _add_shared(one)
    one.add_argument("--quiet", action="store_true", help="no progress")


def _add_shared(one: argparse.ArgumentParser) -> None:
    """Where the run is done, and whether it was begun before, by this or another worker."""
    one.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    one.add_argument(
        "--shard", metavar="I/N", help="this is worker I of N, counted from 0, that share the output folder (default: "
        "as torchrun's or SLURM's variables say)",
    )  # fmt: skip
    one.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    one.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")


def _add_evaluate(commands: Any) -> None:
    from ddfast.evaluation.protocols import PROTOCOLS, EvaluationConfig

    one = _command(commands, "evaluate", _evaluate, help="train students on a distilled set and on controls; report")
    one.add_argument("sets", nargs="+", type=Path, metavar="DIR", help="distilled sets of the same classes")
    one.add_argument("--data", help="test pictures (default: those of the set's built-in source)")
    one.add_argument("--train", help="the real set, for controls (default: the set's built-in source)")
    one.add_argument(
        "--students", help="names with commas between, such as conv3,conv3-in,resnet10-in,resnet18-bn "
        "(-in: instance norm, -bn: batch norm), resnetap18, vgg11-in, alexnet-modified, vit (for pictures of 28 to 64 "
        "pixels), or a torchvision name; a table across them is made (default: conv3; for matching "
        "methods' recipes with instance norm)",
    )  # fmt: skip
    one.add_argument("--preset", choices=sorted(PROTOCOLS), default="rded", help="recipe (default: %(default)s)")
    one.add_argument(
        "--teacher",
        default="auto",
        help="auto (the set's observer), none, a network's name, or a D3 set's teacher.safetensors",
    )
    one.add_argument("--teacher-weights", help="file with the teacher's weights")
    one.add_argument("--labels", help="stored soft labels of the set, from ddfast relabel")
    one.add_argument("--out", type=Path, help="output folder (default: DIR_evaluation)")
    launch = one.add_argument_group("where it is run")
    _run_commands.add_launch(launch)
    launch.add_argument(
        "--data-parallel", action="store_true", help="the ranks of this torchrun launch train each student together, "
        "every one a part of each batch: for large students and teachers (default: each rank trains other students, "
        "which is faster where there are enough)",
    )  # fmt: skip
    _add_judging(one, EvaluationConfig)


def _add_judging(one: argparse.ArgumentParser, config_class: type) -> None:
    """What evaluate and continual share: how the run is done, and their settings."""
    _add_shared(one)
    text = "students trained side by side (default: one a core; 1 where several workers share the output folder)"
    one.add_argument("--processes", type=int, help=text)
    one.add_argument("--quiet", action="store_true", help="no progress")
    one.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_fields(one.add_argument_group("what is trained and tested"), config_class)
    one.set_defaults(fields=_names(config_class))


def _add_continual(commands: Any) -> None:
    from ddfast.evaluation.incremental.config import ContinualConfig
    from ddfast.evaluation.protocols import PROTOCOLS

    text = "class-incremental learning with distilled sets as the memory: classes come in steps; table and figure"
    one = _command(commands, "continual", _continual, help=text)
    one.add_argument("sets", nargs="+", type=Path, metavar="DIR", help="distilled sets of the same classes, to compare")
    one.add_argument("--data", help="test pictures (default: those of the set's built-in source)")
    one.add_argument("--train", help="the real set, for whitened sets (default: the set's built-in source)")
    one.add_argument("--students", default="conv3_instance", help="names with commas between (default: %(default)s)")
    one.add_argument("--preset", choices=sorted(PROTOCOLS), default="dsa", help="recipe (default: %(default)s)")
    one.add_argument("--out", type=Path, help="output folder (default: DIR_continual)")
    _add_judging(one, ContinualConfig)


def _add_reproduce(commands: Any) -> None:
    one = _command(commands, "reproduce", _reproduce, help="make a paper's or study's tables; start it again to go on")
    one.add_argument(
        "table", metavar="NAME", help="rded-cifar10-conv3, pdd-small, pdd-digits, d3-small or d3-small-cifar10"
    )
    one.add_argument("--data", help="the data set, such as a CIFAR-10 folder (default: a study's own, else downloaded)")
    one.add_argument("--out", type=Path, help="output folder, which an earlier call may have begun (default: NAME)")
    one.add_argument(
        "--seeds", type=int, default=3, help="students of each kind; of a study, seeds of everything "
        "(default: %(default)s)",
    )  # fmt: skip
    one.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto")
    one.add_argument("--processes", type=int, help="students trained side by side (default: one a core)")
    one.add_argument("--quiet", action="store_true", help="no progress")


def _add_export(commands: Any) -> None:
    from ddfast.store.export import EXPORTERS

    one = _command(commands, "export", _export, help="write a distilled set as other programs read it")
    one.add_argument("set", type=Path, metavar="DIR", help="the distilled set")
    one.add_argument("--to", required=True, choices=sorted(EXPORTERS))
    one.add_argument("--out", required=True, type=Path, help="output folder")
    one.add_argument("--dataset", help="ddranking: its data set, such as CIFAR10 (default: the source)")
    one.add_argument("--labels", choices=("hard", "soft"), help="mtt: classes, or the set's logits (default: hard)")
    one.add_argument("--jpeg", action="store_true", help="imagefolder: JPEG of quality 95 instead of PNG")


def _fields(config_class: type) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(config_class) if f.metadata.get("cli", True)]


def _names(config_class: type) -> list[str]:
    return [f.name for f in _fields(config_class)]


def _add_fields(group: Any, config_class: type, method: str | None = None) -> None:
    """One flag per dataclass field; a flag that is not given leaves the preset's (or default) value alone.

    A field for some methods only is taken from others too, as scripts give the same options to all, but their help does
    not list it.
    """
    hints = typing.get_type_hints(config_class)
    for f in _fields(config_class):
        flag = "--" + f.name.replace("_", "-")
        kind = hints[f.name]
        text = f.metadata["help"].replace("%", "%%")
        if f.default is not None and "(default: " not in text:
            text += f" (default: {f.default!s})".replace("%", "%%")
        listed = method is None or method in f.metadata.get("methods", (method,))
        common = {"dest": f.name, "default": argparse.SUPPRESS, "help": text if listed else argparse.SUPPRESS}
        if bool in (kind, *typing.get_args(kind)):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif any(typing.get_origin(each) is Mapping for each in (kind, *typing.get_args(kind))):
            group.add_argument(flag, action="append", type=_run_commands.pair, metavar="KEY=VALUE", **common)
        elif typing.get_origin(kind) is tuple:
            group.add_argument(flag, type=float, nargs=len(typing.get_args(kind)), **common)
        else:
            plain = next(t for t in (typing.get_args(kind) or (kind,)) if t is not type(None))
            group.add_argument(flag, type=plain, metavar=plain.__name__.upper(), **common)


def _distill(arguments: argparse.Namespace) -> int:
    from ddfast.methods import distill_to
    from ddfast.store import read_manifest

    given = {n: getattr(arguments, n) for n in arguments.fields if hasattr(arguments, n)}
    if isinstance(given.get("scale"), list):  # of crops
        given["scale"] = tuple(given["scale"])
    given = {n: dict(value) if isinstance(value, list) else value for n, value in given.items()}  # of KEY=VALUE
    distill_to(arguments.method, arguments.data, arguments.out, preset=arguments.preset, **given)
    if not (arguments.out / "manifest.json").exists():  # a part of the run, by choice
        return 0
    manifest = read_manifest(arguments.out / "manifest.json")
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "images": len(manifest["images"]), "manifest": manifest}))
    elif not given.get("quiet"):
        print(f"{len(manifest['images'])} images in {arguments.out}; next: {_evaluation_of(arguments, manifest)}")
    return 0


def _evaluation_of(arguments: argparse.Namespace, manifest: Mapping[str, Any]) -> str:
    """The command that judges a set just made, by the recipe of its method."""
    from ddfast.evaluation.inputs import BUILT_IN

    recipe = "smoke" if arguments.preset == "smoke" else (manifest.get("recipe") or {}).get("protocol")
    known = (manifest.get("source") or {}).get("name") in BUILT_IN
    preset = f" --preset {recipe}" if recipe else ""
    return f"ddfast evaluate {arguments.out}{preset}" + f" --data TEST_PICTURES --train {arguments.data}" * (not known)


def _evaluate(arguments: argparse.Namespace) -> int:
    from ddfast.evaluation import evaluate
    from ddfast.runs import identify_worker

    out = arguments.out or _evaluation_folder(arguments)
    given = {n: getattr(arguments, n) for n in arguments.fields if hasattr(arguments, n)}
    passed = "train students preset teacher teacher_weights labels device processes data_parallel resume overwrite"
    result = evaluate(
        arguments.sets, arguments.data, out=out, worker=identify_worker(arguments.shard), quiet=arguments.quiet,
        **{name: getattr(arguments, name) for name in passed.split()}, **given,
    )  # fmt: skip
    if arguments.data_parallel and identify_worker().index > 0:  # the first rank says it
        return 0
    print(json.dumps(result.report) if arguments.json else f"{result.text()}\n\n{out / 'report.html'}")
    return 0


def _evaluation_folder(arguments: argparse.Namespace) -> Path:
    first: Path = arguments.sets[0].resolve()
    return first.with_name(first.name + "_evaluation")


def _continual(arguments: argparse.Namespace) -> int:
    from ddfast.evaluation import continual
    from ddfast.runs import identify_worker

    out = arguments.out or arguments.sets[0].resolve().with_name(arguments.sets[0].resolve().name + "_continual")
    given = {n: getattr(arguments, n) for n in arguments.fields if hasattr(arguments, n)}
    passed = "train students preset device processes resume overwrite quiet"
    result = continual(
        arguments.sets, arguments.data, out=out, worker=identify_worker(arguments.shard),
        **{name: getattr(arguments, name) for name in passed.split()}, **given,
    )  # fmt: skip
    print(json.dumps(result.report) if arguments.json else f"{result.text()}\n{out / 'report.html'}")
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from ddfast.reproduce import markdown, reproduce

    table = reproduce(
        arguments.table, arguments.out or Path(arguments.table), data=arguments.data, seeds=arguments.seeds,
        device=arguments.device, processes=arguments.processes, quiet=arguments.quiet,
    )  # fmt: skip
    print(markdown(table))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from ddfast.store.export import export

    options = {"dataset": arguments.dataset, "labels": arguments.labels, "jpeg": arguments.jpeg or None}
    print(export(arguments.set, arguments.to, arguments.out, **{k: v for k, v in options.items() if v is not None}))
    return 0


def _relabel(arguments: argparse.Namespace) -> int:
    from ddfast.runs import identify_worker
    from ddfast.train.fkd import write_fkd
    from ddfast.train.relabel import relabel_folder

    names = (
        "epochs",
        "batch_size",
        "seed",
        "kind",
        "k",
        "tail_temperature",
        "precision",
        "order",
        "resume",
        "overwrite",
    )
    store = relabel_folder(
        arguments.set, arguments.teachers, arguments.out, preset_name=arguments.preset, data=arguments.data,
        per_image=arguments.per_image, device=arguments.device, shard=arguments.shard,
        progress="quiet" if arguments.quiet else "auto",
        **{name: getattr(arguments, name) for name in names},
    )  # fmt: skip
    if arguments.fkd is not None and identify_worker(arguments.shard).index == 0:
        print(write_fkd(store, arguments.fkd))
    if not arguments.quiet:
        print(store.describe())
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from ddfast import build_info
    from ddfast._info import describe

    info = build_info()
    print(json.dumps(info, indent=2) if arguments.json else describe(info))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from ddfast.bench.run import run_bench

    return run_bench(arguments.out, quick=arguments.quick, device=arguments.device, as_json=arguments.json)


def _demo(arguments: argparse.Namespace) -> int:
    from ddfast.demo import run_demo

    run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
