"""PDD's claims at a small size (Chen et al., ICLR 2024, section 5): the studies ``pdd-small`` and ``pdd-digits``.

Rates were chosen on one seed of the bases alone, on held-out CIFAR-10 pictures, at all images and at those of a stage;
a set in stages has the iterations of its base in all, and the base's other options unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddfast.studies.engine import Judged, Made, Study
from ddfast.studies.tables import MINUS, Table

IPC, STAGES = 6, 3
_OTHER_EPOCHS = 64  # of ResNets, which learn a small set sooner
_STUDENT, _WIDTH, _POOL = "conv3_instance", 16, 4
_COMMON: dict[str, Any] = {"width": _WIDTH, "test": "none"}
_GRADIENT: dict[str, Any] = {"iterations": 30, "batch_real": 32, "outer": 3, "inner": 5, "lr_img": 3.0}
_MTT: dict[str, Any] = {
    "iterations": 90, "zca": False, "experts": _POOL, "expert_train_epochs": 3, "expert_batch": 64, "expert_lr": 0.02,
    "syn_steps": 10, "expert_epochs": 1, "max_start_epoch": 2, "batch_syn": 20, "lr_lr": 1e-6, "lr_teacher": 0.03,
}  # fmt: skip
_DM: dict[str, Any] = {"iterations": 150, "batch_real": 32, "lr_img": 10.0}
_IDC: dict[str, Any] = {"iterations": 60, "inner_loop": 10, "n_data": 300, "batch_real": 32, "lr_img": 0.5}
_ABLATIONS: Mapping[str, dict[str, Any]] = {
    "without conditioning": {"conditioning": False}, "without transition": {"transition": False},
}  # fmt: skip
_CORESETS: Mapping[str, dict[str, Any]] = {
    "random": {}, "herding": {"observer": "train:conv3"}, "k-center": {"observer": "train:conv3"},
    "forgetting": {"forgetting_epochs": 10, "forgetting_width": _WIDTH},
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A base method's options here, and how long its students are trained, in epochs."""

    options: Mapping[str, Any]
    epochs: int = 160
    preset: str = "dsa"

    def single(self, name: str, times: int = 1) -> Made:
        """All images at once; so many ``times`` the iterations."""
        return Made(name, {**_COMMON, **self.options, "ipc": IPC, "iterations": times * self.options["iterations"]})

    def staged(self, name: str, stages: int = STAGES, *, times: int = 1, **switches: Any) -> Made:
        """The same number of images and of iterations in stages, with transitions as long as students train."""
        options = {**_COMMON, **self.options, "iterations": times * self.options["iterations"] // stages}
        own = {"stages": stages, "ipc_per_stage": IPC // stages, "transition_epochs": self.epochs // 2, "pool": _POOL}
        return Made("pdd", {"base": name, **own, **switches, "base_option": options})

    def judged(self, made: str, *, half: bool = False, **more: Any) -> Judged:
        """By the base's recipe; ``half`` as long in each of several stages, as in PDD's program."""
        settings = {
            "preset": self.preset, "students": _STUDENT, "width": _WIDTH, "epochs": self.epochs // (1 + half),
            "seeds": 2, "curve_points": 1, "teacher": "none", "controls": False, "byte_control": False, **more,
        }  # fmt: skip
        return Judged((made,), settings)


class Plan:
    """A study as it grows, table by table.

    Args:
        bases: those of PDD.
    """

    def __init__(self, bases: Mapping[str, Base]) -> None:
        self.bases = bases
        self.sets: dict[str, Made] = {}
        self.judged: dict[str, Judged] = {}
        self.tables: list[Table] = []

    def claims(self) -> None:
        """PDD over each base beside the base, and how a set in stages is trained on."""
        for name, one in self.bases.items():
            pdd = f"pdd-{name}"
            self.sets |= {name: one.single(name), pdd: one.staged(name)}
            controls = name in ("dsa", "idc")  # one for each recipe: random pictures have no learned rate
            self.judged[name] = one.judged(name, controls=controls)
            self.judged[pdd] = one.judged(pdd, half=True, controls=controls)
            self.judged[f"{pdd}-union"] = one.judged(pdd, staged="union")
            self.judged[f"{pdd}-sequential"] = one.judged(pdd, half=True, staged="sequential")
        whole, many = f"1 x {IPC}", f"{STAGES} x {IPC // STAGES}"
        claims, modes = [], []
        for name in self.bases:
            base, pdd, union = f"{name}/distilled", f"pdd-{name}/distilled", f"pdd-{name}-union/distilled"
            like = "idc" if name == "idc" else "dsa"
            random = (f"{like}/random-images", f"pdd-{like}/random-images")
            claims.append((name, *random, base, pdd, f"{pdd}{MINUS}{base}"))
            modes.append((name, pdd, union, f"pdd-{name}-sequential/distilled", f"{pdd}{MINUS}{union}"))
        columns = ("base", f"random, {whole}", f"random, {many}", f"base, {whole}", f"PDD, {many}", "PDD - base")
        self.tables.append(Table(f"PDD and its bases, {IPC} images per class", columns, tuple(claims)))
        titles = ("base", "progressive", "union", "sequential", "progressive - union")
        self.tables.append(Table(f"Training on PDD's sets, {many}", titles, tuple(modes)))

    def ablations(self, names: tuple[str, ...]) -> None:
        """Without conditioning, without transition."""
        for name in names:
            for what, switches in _ABLATIONS.items():
                key = f"pdd-{name}-{what.replace(' ', '-')}"
                self.sets[key] = self.bases[name].staged(name, **switches)
                self.judged[key] = self.bases[name].judged(key, half=True)
        rows = tuple(
            (name, f"pdd-{name}/distilled", *(f"pdd-{name}-{what.replace(' ', '-')}/distilled" for what in _ABLATIONS))
            for name in names
        )
        self.tables.append(Table("PDD and its parts", ("base", "PDD", *_ABLATIONS), rows))

    def stages(self, names: tuple[str, ...]) -> None:
        """Stages against images per stage."""
        counts = [stages for stages in range(1, IPC + 1) if IPC % stages == 0]
        keys = {
            (name, count): {1: name, STAGES: f"pdd-{name}"}.get(count, f"pdd-{name}-{count}")
            for name in names for count in counts
        }  # fmt: skip
        for (name, count), key in keys.items():
            if key not in self.sets:
                self.sets[key] = self.bases[name].staged(name, count)
                self.judged[key] = self.bases[name].judged(key, half=True)
        columns = ("base", *(f"{count} x {IPC // count}" for count in counts))
        rows = tuple((name, *(f"{keys[name, count]}/distilled" for count in counts)) for name in names)
        self.tables.append(Table(f"Stages x images per stage, {IPC} images per class", columns, rows))

    def longer(self, names: tuple[str, ...]) -> None:
        """The base's iterations in every stage, as in the paper, and the base with as many in all."""
        for name in names:
            one, base, pdd = self.bases[name], f"{name}-longer", f"pdd-{name}-longer"
            self.sets |= {base: one.single(name, STAGES), pdd: one.staged(name, times=STAGES)}
            self.judged |= {base: one.judged(base), pdd: one.judged(pdd, half=True)}
            self.judged[f"{pdd}-union"] = one.judged(pdd, staged="union")
        keys = ("{}", "{}-longer", "pdd-{}", "pdd-{}-longer", "pdd-{}-longer-union")
        rows = tuple((name, *(f"{key.format(name)}/distilled" for key in keys)) for name in names)
        long = f"{STAGES} times the iterations"
        columns = ("base", "base", f"base, {long}", "PDD", f"PDD, {long}", f"PDD, {long}, union")
        self.tables.append(Table("More iterations", columns, rows))

    def architectures(self, name: str, students: tuple[str, ...]) -> None:
        """A base and PDD over it under networks that they were not distilled with."""
        base = self.bases[name]
        named: dict[str, Any] = {"students": ",".join(students), "seeds": 1}
        self.judged["other-base"] = base.judged(name, **named, controls=True, epochs=_OTHER_EPOCHS)
        self.judged["other-pdd"] = base.judged(f"pdd-{name}", **named, epochs=_OTHER_EPOCHS // 2)
        rows = [("random pictures", f"{name}/random-images", "other-base/random-images")]
        rows += [(name, f"{name}/distilled", "other-base/distilled")]
        rows += [(f"PDD over {name}", f"pdd-{name}/distilled", "other-pdd/distilled")]
        cells = tuple((label, own, *(f"{entry} {student}" for student in students)) for label, own, entry in rows)
        self.tables.append(Table("Other networks", ("images", _STUDENT, *students), cells))

    def memory(self, distilled: tuple[str, ...], steps: int, classes: int) -> None:
        """Class-incremental learning on coresets and distilled sets."""
        self.sets |= {
            name: Made("coreset", {"selection": name, "ipc": IPC, **options}) for name, options in _CORESETS.items()
        }
        names = (*_CORESETS, *distilled)
        settings = {
            "students": _STUDENT, "width": _WIDTH, "epochs": 60, "steps": steps, "orders": 2, "seeds": 1,
        }  # fmt: skip
        self.judged["memory"] = Judged(names, settings, "continual")
        seen = [str(classes * step // steps) for step in range(1, steps + 1)]
        rows = tuple((name, *(f"memory/{name} {step}" for step in (*seen, "average"))) for name in names)
        columns = ("memory", *(f"{count} classes" for count in seen), "average")
        self.tables.append(Table(f"Class-incremental learning, {IPC} images per class", columns, rows))

    def study(self, name: str, about: str, data: str | None, pictures: tuple[int, int]) -> Study:
        """All of it."""
        return Study(name, about, data, self.sets, self.judged, tuple(self.tables), pictures)


def _small() -> Study:
    plan = Plan({
        "mtt": Base({**_MTT, "lr_img": 3000.0}), "dc": Base({**_GRADIENT, "init": "real"}),
        "dsa": Base(_GRADIENT), "dm": Base(_DM),
        "idc": Base(_IDC, epochs=60, preset="idc"),
    })  # fmt: skip
    plan.claims()
    plan.ablations(("mtt", "dsa"))
    plan.stages(("dsa",))
    plan.longer(("dsa",))
    plan.memory(("dm", "dsa"), 5, 10)
    plan.architectures("dsa", ("resnet10", "resnet18"))
    return plan.study("pdd-small", "PDD's claims on 5,000 CIFAR-10 pictures, ConvNet-3 of width 16", None, (500, 100))


def _digits() -> Study:
    digits = {"dsa": "color_crop_cutout_scale_rotate"}
    plan = Plan({"dsa": Base({**_GRADIENT, **digits}), "dm": Base({**_DM, **digits})})
    plan.claims()
    return plan.study("pdd-digits", "PDD's claims on 4,000 digits, ConvNet-3 of width 16", "mnist5k", (400, 100))


PDD_SMALL, PDD_DIGITS = _small(), _digits()
