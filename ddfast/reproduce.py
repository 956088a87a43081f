"""Published tables made again, each by one command that can be stopped and started at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.data import Source
from ddfast.data.cifar import download_cifar
from ddfast.data.squares import whole_images
from ddfast.evaluation import Evaluation, evaluate
from ddfast.evaluation.inputs import opened
from ddfast.evaluation.results import find_row
from ddfast.evaluation.students import build_student
from ddfast.methods import RunOptions, distill_to
from ddfast.nets.checkpoints import fingerprint, read_state_dict, state_bytes
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs import Progress, RunError, atomic_write_bytes, identify_worker
from ddfast.studies import STUDIES, run_study
from ddfast.studies import markdown as study_markdown
from ddfast.train import TrainConfig, TrainProgress, accuracy, fit
from ddfast.train.loop import LoopOptions


@dataclass(frozen=True)
class Published:
    """Top-1 in percent as printed: mean and standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True)
class Reproduction:
    """A table of a paper: what it is made from, and what was printed.

    Attributes:
        name: of the command.
        about: one line for people.
        dataset: torchvision's class to download when no data are given.
        pictures, test_pictures: classes, and pictures of each.
        network: observer and student.
        size: side of the pictures in pixels.
        preset: of the method.
        observer: how the observer is trained (its recipe was not published; chosen to come near its accuracy).
        observer_top1: the published observer's accuracy in percent.
        published: by images per class.
        source: where the figures are printed.
        settings: of the evaluation, instead of the recipe's.
    """

    name: str
    about: str
    dataset: str
    pictures: tuple[int, int]
    test_pictures: tuple[int, int]
    network: str
    size: int
    preset: str
    observer: TrainConfig
    observer_top1: float
    published: Mapping[int, Published]
    source: str
    settings: Mapping[str, Any] = field(default_factory=lambda: {"curve_points": 6})


REPRODUCTIONS = {
    each.name: each
    for each in (
        Reproduction(
            name="rded-cifar10-conv3",
            about="RDED on CIFAR-10, ConvNet-3 as observer and student, 1, 10 and 50 images per class",
            dataset="CIFAR10",
            pictures=(10, 5000),
            test_pictures=(10, 1000),
            network="conv3",
            size=32,
            preset="cifar10",
            observer=TrainConfig(epochs=8, batch_size=128, lr=0.05, flip=True),
            observer_top1=82.24,
            published={1: Published(23.5, 0.3), 10: Published(50.2, 0.3), 50: Published(68.4, 0.1)},
            source="RDED (Sun et al., CVPR 2024), Table 2; observer: its README",
        ),
    )
}


def reproduce(
    name: str,
    out: Path,
    *,
    data: str | Path | None = None,
    seeds: int = 3,
    device: str = "auto",
    processes: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains the observer, distils, trains students on the result and on random pictures, writes the table.

    Or does what a study consists of (see `ddfast.studies`). Whatever an earlier call with the same folder finished is
    kept: interrupt it as you like and call it again.

    Args:
        name: a key of ``REPRODUCTIONS`` or of ``STUDIES``.
        out: folder for everything, ``table.md`` and ``table.json`` above all.
        data: the data set (see `ddfast.data.open_source`), with a split ``test``; None downloads it with torchvision,
            or is a study's built-in one.
        seeds: students of each kind; of a study, seeds of everything.
        device, processes, quiet: as in `ddfast.evaluate`.

    Returns:
        What ``table.json`` holds.

    Raises:
        ValueError: unknown name, no seeds, or other data than the table's.
        RunError: ``out`` holds something else, or the disk is full.
    """
    if seeds < 1:
        raise ValueError(f"seeds: got {seeds}, expected 1 or more")
    if name in STUDIES:
        return run_study(
            STUDIES[name], out, data=data, seeds=seeds, device=device, processes=processes, quiet=quiet
        )  # fmt: skip
    if name not in REPRODUCTIONS:
        known = ", ".join((*sorted(REPRODUCTIONS), *sorted(STUDIES)))
        raise ValueError(f"name: got {name!r}, expected one of {known}")
    wanted = REPRODUCTIONS[name]
    out.mkdir(parents=True, exist_ok=True)
    train, test = _open(wanted, data, out)
    observer, top1 = _observer(wanted, train, test, out / "observer", device, quiet)
    for ipc in wanted.published:
        distill_to(
            "rded", train, out / f"ipc{ipc:02d}", observer=observer, preset=wanted.preset, ipc=ipc, size=wanted.size,
            device=device, quiet=quiet, resume=True,
        )  # fmt: skip
    judged = evaluate(
        [out / f"ipc{ipc:02d}" for ipc in wanted.published], test, train=train, students=wanted.network, preset="rded",
        teacher=observer, seeds=seeds, best=True, hard=False, byte_control=False, out=out / "evaluation", device=device,
        processes=processes, worker=identify_worker(), quiet=quiet, resume=True, full_accuracy=top1,
        **wanted.settings,
    )  # fmt: skip
    table = make_table(wanted, judged, top1)
    atomic_write_bytes(out / "table.json", json.dumps(table, indent=2).encode())
    atomic_write_bytes(out / "table.md", markdown(table).encode())
    return table


def make_table(wanted: Reproduction, judged: Evaluation, observer_top1: float) -> dict[str, Any]:
    """The table as JSON values; accuracies in percent, mean and sample standard deviation over the students."""
    rows = []
    for number, (ipc, published) in enumerate(wanted.published.items(), start=1):
        row: dict[str, Any] = {"ipc": ipc, "published": {"mean": published.mean, "std": published.std}}
        for images in ("distilled", "random-images"):
            found = find_row(judged.report["results"], f"set{number}", images, "soft", wanted.network)
            if found is None:
                raise KeyError(f"evaluation: has no students of {images} pictures with soft labels at IPC {ipc}")
            row[images] = {"last": _percent(found["top1"]), "best": _percent(found["best_of_test"])}
        rows.append(row)
    return {
        "name": wanted.name,
        "about": wanted.about,
        "source": wanted.source,
        "observer": {"top1": round(100 * observer_top1, 2), "published": wanted.observer_top1},
        "students": judged.report["config"]["seeds"],
        "test_pictures": judged.report["validation"]["images"],
        "rows": rows,
        "versions": judged.report["versions"],
    }


def markdown(table: Mapping[str, Any]) -> str:
    """The table of `make_table`, or those of a study, for a README."""
    if table["name"] in STUDIES:
        return "\n".join(study_markdown(each, table) for each in STUDIES[table["name"]].tables)
    lines = [
        "| IPC | published | RDED, best test | RDED, last epoch | random, best test | random, last epoch |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table["rows"]:
        cells = [_cell(row[images][which]) for images in ("distilled", "random-images") for which in ("best", "last")]
        lines.append(f"| {row['ipc']} | {_cell(row['published'], 1)} | {' | '.join(cells)} |")
    known = table["observer"]
    return "\n".join(
        [
            *lines,
            "",
            f"Top-1 % on {table['test_pictures']:,} test pictures, mean ± standard deviation of {table['students']} "
            "students trained with the observer's soft labels. The observer reaches "
            f"{known['top1']:.1f} % (published: {known['published']:.1f} %). Published "
            f"figures: {table['source']}; they are the best of several tests on the test set.",
            "",
        ]
    )


def _open(wanted: Reproduction, data: str | Path | None, out: Path) -> tuple[Source, Source]:
    data = download_cifar(wanted.dataset, out / "data") if data is None else data
    train, test = opened("data", data), opened("data", f"{data}:test")
    for source, (classes, each) in ((train, wanted.pictures), (test, wanted.test_pictures)):
        counts = [source.count(label) for label in range(len(source.class_names))]
        if counts != [each] * classes:
            raise ValueError(
                f"data: {source.name} has {len(counts)} classes of {min(counts)} to {max(counts)} pictures, expected "
                f"{classes} of {each} for {wanted.name}"
            )
    return train, test


def _observer(
    wanted: Reproduction, train: Source, test: Source, folder: Path, device: str, quiet: bool
) -> tuple[Observer, float]:
    """The observer, trained here or by an earlier call, and its accuracy on the test pictures."""
    place, known = folder / "observer.safetensors", folder / "observer.json"
    classes, recipe = len(train.class_names), wanted.observer
    net = build_student(wanted.network, classes, wanted.size, seed=recipe.seed)
    who = {"pictures": train.fingerprint(), "test": test.fingerprint(), "recipe": repr(recipe)}
    if known.exists():
        net.load_state_dict(read_state_dict(place))
        record = json.loads(known.read_text())
        if {key: record.get(key) for key in who} != who:
            raise RunError(f"{known}: the observer there was trained on other data or otherwise; choose another folder")
        top1 = float(record["top1"])
    else:
        net = net.to(RunOptions(device=device).torch_device())
        images, labels = _all(train, wanted.size)
        steps = recipe.epochs * -(-len(images) // recipe.batch_size)
        mode = "quiet" if quiet else "auto"
        with Progress(steps, unit="steps", title=f"training {wanted.network} on {train.name}", mode=mode) as shown:

            def show(state: TrainProgress) -> None:
                shown.update((state.epoch - 1) * state.steps + state.step - shown.done, f"loss {state.loss:.3f}")

            fit(net, images, labels, recipe, on_progress=show, options=LoopOptions(checkpoint=folder / "training"))
        top1 = accuracy(net.eval(), *_all(test, wanted.size))
        atomic_write_bytes(place, state_bytes(net))
        atomic_write_bytes(known, json.dumps({"top1": top1, "sha256": fingerprint(net), **who}).encode())
        (folder / "training").unlink(missing_ok=True)
    observer = load_observer(net.cpu(), num_classes=classes, input_size=wanted.size, class_names=train.class_names)
    observer.name = wanted.network
    return observer, top1


def _all(source: Source, size: int) -> tuple[Tensor, Tensor]:
    images, labels = whole_images(source, size, max(source.count(c) for c in range(len(source.class_names))))
    return images, torch.as_tensor(labels)


def _percent(summary: Mapping[str, Any]) -> dict[str, Any]:
    spread = summary["std"]
    return {"mean": round(100 * summary["mean"], 2), "std": None if spread is None else round(100 * spread, 2)}


def _cell(value: Mapping[str, Any], digits: int = 2) -> str:
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"
