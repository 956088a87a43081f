"""Commands on a distilled set: explain, relabel, export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddfast._cli.answer import Answer
from ddfast._cli.parser import add_where, command

_PASSED = (
    "per_image factor fkd check_classes device shard epochs batch_size seed kind k tail_temperature precision order "
    "resume overwrite"
)


def add_explain(commands: Any) -> None:
    """``ddfast explain``."""
    one = command(
        commands, "explain", _explain, help="what a distilled set is, how it was made and how to train on it",
        examples=("ddfast explain smoke", "ddfast explain smoke_labels", "ddfast explain smoke --json"),
    )  # fmt: skip
    one.add_argument("folder", type=Path, metavar="DIR", help="a distilled set, one exported, or stored soft labels")


def add_relabel(commands: Any) -> None:
    """``ddfast relabel``."""
    one = command(
        commands, "relabel", _relabel, help="store teachers' soft labels for every view of a training",
        examples=(
            "ddfast relabel smoke --preset smoke --epochs 100 --teacher train:conv3 --data mnist5k --out smoke_labels",
            "ddfast relabel rded_in1k --teacher resnet18 --kind topk --k 10 --out rded_labels",
            "ddfast relabel rded_in1k --teacher resnet18=resnet18.pth --teacher timm:resnet50 --out averaged --resume",
        ),
    )  # fmt: skip
    one.add_argument("set", type=Path, metavar="DIR", help="the distilled set")
    given = one.add_argument_group("what goes in and out")
    given.add_argument(
        "--teacher", required=True, action="append", dest="teachers", metavar="NAME", help="a network's name, "
        "NAME=WEIGHTS, a checkpoint SET_NAME.pth, or train:conv3; several are averaged",
    )  # fmt: skip
    given.add_argument("--out", required=True, type=Path, help="output folder")
    given.add_argument("--data", help="the real set, for train:NAME; other teachers are shown some of its pictures")
    text = "write the FKD layout as well, with random_sampler's order; views must shuffle no strips (--factor 1)"
    given.add_argument("--fkd", type=Path, metavar="FOLDER", help=text)
    given.add_argument(
        "--no-check-classes", dest="check_classes", action="store_false",
        help="take teachers without a look at pictures of --data for the order of their classes",
    )  # fmt: skip
    what = one.add_argument_group("which labels")
    what.add_argument("--preset", choices=("rded", "smoke"), default="rded", help="settings (default: %(default)s)")
    text = "how long students can train on them (default: the preset's: 300; smoke: 3)"
    what.add_argument("--epochs", type=int, help=text)
    what.add_argument("--batch-size", type=int, help="of the training (default: the preset's)")
    what.add_argument("--seed", type=int, default=0, help="of views and order (default: %(default)s)")
    what.add_argument("--kind", choices=("fp16", "topk"), help="all logits (default), or the k largest")
    what.add_argument("--k", type=int, help="logits that topk keeps of each label (default: the preset's)")
    what.add_argument("--tail-temperature", type=float, help="the students' temperature (default: the preset's)")
    what.add_argument("--per-image", action="store_true", help="one label an image, of the plain image")
    what.add_argument("--precision", choices=("fp32", "bf16"), help="the teachers' (default: fp32)")
    what.add_argument("--factor", type=int, help="strips a side that views shuffle (default: the set's; 1: none)")
    text = "of samples (default: counter; with --fkd random_sampler)"
    what.add_argument("--order", choices=("counter", "random_sampler"), help=text)
    add_where(one.add_argument_group("where it is run"))


def add_export(commands: Any) -> None:
    """``ddfast export``."""
    from ddfast.store.export import EXPORTERS

    one = command(
        commands, "export", _export, help="write a distilled set as other programs read it",
        examples=(
            "ddfast export smoke --to imagefolder --out smoke_pictures",
            "ddfast export smoke --to huggingface --out smoke_hf",
            "ddfast export dm10 --to ddranking --dataset CIFAR10 --out dm10_ddranking",
            "ddfast export d3_smoke --to imagefolder --samples 10 --out d3_pictures",
        ),
    )  # fmt: skip
    one.add_argument("set", type=Path, metavar="DIR", help="the distilled set")
    given = one.add_argument_group("what goes out")
    given.add_argument("--to", required=True, choices=sorted(EXPORTERS), help="who is to read it")
    given.add_argument("--out", required=True, type=Path, help="output folder")
    given.add_argument("--dataset", help="ddranking: its data set, such as CIFAR10 (default: the source)")
    given.add_argument("--labels", choices=("hard", "soft"), help="mtt: classes, or the set's logits (default: hard)")
    given.add_argument("--jpeg", action="store_true", help="imagefolder: JPEG of quality 95 instead of PNG")
    given.add_argument(
        "--samples", type=int, metavar="K", help="of a set of d3: K pictures of each Gaussian, its mean and seeded "
        "draws (default: the means)",
    )  # fmt: skip


def _explain(arguments: argparse.Namespace) -> Answer:
    from ddfast.evaluation.explain import explain

    found = explain(arguments.folder)
    return Answer(found.text(), found.document)


def _relabel(arguments: argparse.Namespace) -> Answer:
    from ddfast.train.relabel import relabel_folder

    store = relabel_folder(
        arguments.set, arguments.teachers, arguments.out, preset_name=arguments.preset, data=arguments.data,
        progress="quiet" if arguments.quiet else "auto",
        **{name: getattr(arguments, name) for name in _PASSED.split()},
    )  # fmt: skip
    lines: list[str] = []
    if arguments.fkd is not None:
        lines.append(f"{arguments.fkd}: FKD's layout")
    if not arguments.quiet:
        lines.append(store.describe())
    document = {
        "out": str(store.path), "layout": store.layout.as_json(), "epochs_done": int(store.complete().sum()),
        "bytes": store.layout.total_bytes, "fingerprint": store.fingerprint,
        "fkd": None if arguments.fkd is None else str(arguments.fkd),
    }  # fmt: skip
    return Answer("\n".join(lines), document)


def _export(arguments: argparse.Namespace) -> Answer:
    from ddfast.store import load
    from ddfast.store.export import export
    from ddfast.train.latent import materialised

    distilled = arguments.set if arguments.samples is None else materialised(load(arguments.set), arguments.samples)
    options = {"dataset": arguments.dataset, "labels": arguments.labels, "jpeg": arguments.jpeg or None}
    out = export(distilled, arguments.to, arguments.out, **{k: v for k, v in options.items() if v is not None})
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return Answer(str(out), {"out": str(out), "to": arguments.to, "files": files})
