"""Trainings that one process or several do: ``FOLDER [COMMAND ...]`` for a rank, which its environment names."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ddfast import cli
from ddfast._types import IMAGENET
from ddfast.evaluation.validation import Validation, confusion
from ddfast.runs import RunError
from ddfast.train import Lesson, LoopOptions, NonFiniteLossError, StudentConfig, TrainProgress, loop, train_in_stages
from ddfast.train.data_parallel import Group, joined
from ddfast.train.loop import Objective, TrainConfig, run
from ddfast.train.student import train_student

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))
from eval_case import source

KILLED = 4  # epochs of a command after which its last rank is killed
COUNT, BATCH, EPOCHS, STOPPED = 22, 10, 4, 3  # the last batch has two pictures, fewer than three ranks
SOFT = StudentConfig(epochs=EPOCHS, batch_size=BATCH, lr=0.01, factor=2, ema=0.9, seed=5)
HARD = StudentConfig(epochs=2, batch_size=BATCH, lr=0.05, optimizer="sgd", cutmix_alpha=0.0, idc="color_flip_scale",
                     cutmix_share=0.7, bn_twice=False)  # fmt: skip


class Stopped(Exception):
    """As if the run was ended here."""


class Net(nn.Module):
    """Batch norm, instance norm and one without momentum, in float64."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        last = nn.BatchNorm1d(9, momentum=None)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2),
            nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Flatten(), nn.Linear(36, 9), last, nn.Linear(9, 3),
        ).double()  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.double())


def a_set() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (COUNT, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(COUNT) % 3


def state(model: nn.Module) -> Tensor:
    """All weights and statistics."""
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def soft(group: Group | None, checkpoint: Path | None = None, stop: bool = False) -> tuple[Net, list[float]]:
    """Soft labels by a teacher, CutMix, strips, moving average; ``stop`` ends it within the epoch STOPPED + 1."""
    student, teacher = Net(1), Net(2).eval()

    def watch(at: TrainProgress) -> None:
        if stop and (at.epoch, at.step) == (STOPPED + 1, 2):
            raise Stopped

    options = LoopOptions(checkpoint=checkpoint, checkpoint_seconds=0.0, group=group)
    report = train_student(*a_set(), student, teacher, SOFT, options=options, on_progress=watch)
    return student, report.losses


def hard(group: Group | None) -> Net:
    """Hard labels, IDC's augmentation and CutMix; in two stages, so that one model is spread twice."""
    student = Net(3)
    lessons = [Lesson(torch.arange(15), HARD), Lesson(torch.arange(COUNT), HARD)]
    train_in_stages(*a_set(), student, None, lessons, options=LoopOptions(group=group))
    return student


def diverging(group: Group | None) -> str:
    """The loss of one sample in the last batch becomes NaN: what is said."""
    rows = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
    rows[COUNT - 1] = float("nan")
    model = nn.Linear(4, 1)
    objective = Objective(
        lambda batch: (rows[batch.index],), lambda x: model(x).square().mean(), lambda epoch: torch.arange(COUNT)
    )
    try:
        run(model, COUNT, TrainConfig(epochs=2, batch_size=BATCH), objective, options=LoopOptions(group=group))
    except NonFiniteLossError as error:
        return str(error)
    return ""


def tested(group: Group | None) -> Tensor:
    """Predictions of a fixed network for test pictures in several batches, counted."""
    validation = Validation(source(211, 4), (0, 1, 2), 16, cropped=False)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return confusion(model, validation, IMAGENET, 3, group=group)


def everything(group: Group | None, folder: Path) -> dict[str, object]:
    """All of it; ``folder`` has a checkpoint of one process, and gets one of these ranks."""
    trained, losses = soft(group)
    with_one = soft(group, folder / "one.pt")[0]
    with contextlib.suppress(Stopped):
        soft(group, folder / "many.pt", stop=True)
    return {
        "soft": state(trained), "losses": losses, "with_one": state(with_one), "hard": state(hard(group)),
        "nan": diverging(group), "tested": tested(group),
    }  # fmt: skip


def watched(note: Path, kill: int | None) -> None:
    """Notes every epoch that is trained from here on; after ``kill`` of them this process is killed."""
    save = loop._Loop._save

    def saved(self: loop._Loop, epoch: int) -> None:
        save(self, epoch)
        with note.open("a") as file:
            file.write(f"{epoch}\n")
        if kill is not None and len(note.read_text().split()) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    loop._Loop._save = saved  # type: ignore[method-assign]


def main(folder: Path, words: list[str]) -> int:
    """With ``words`` a command after everything; a launcher that starts it again has it do the command alone."""
    torch.set_num_threads(1)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        with joined("cpu") as group:
            last = group.rank == group.count - 1
            if not again:
                told = group.tell({"from": group.rank})
                found = {**everything(group, folder), "told": told, "rows": [group.rows(10).start, group.rows(10).stop]}
                torch.save(found, folder / f"rank{group.rank}.pt")
            if words:
                watched(folder / f"epochs{again}-{group.rank}", KILLED if last and not again else None)
                return cli.main(words)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)  # the others must not wait for it
            hard(group)
    except RunError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
