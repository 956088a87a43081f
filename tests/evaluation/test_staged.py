"""Sets with stages: the training against a plain loop, modes, controls, restarts, reports and loaders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast.data.space import Space
from ddfast.evaluation import EvaluationConfig, evaluate
from ddfast.evaluation.plan import DISTILLED, Plan, Spec, Subject, subject_staging
from ddfast.evaluation.protocols import stage_config, student_config
from ddfast.evaluation.staging import lessons_of, stages_alike, staging_of
from ddfast.evaluation.storage import measure
from ddfast.store import DistilledSet, load
from ddfast.store.formation import Formation
from ddfast.train import Lesson, LoopOptions, StudentConfig, TrainProgress, stage_parts, train_in_stages, train_student
from ddfast.train import loop as training_loop
from ddfast.train.dsa import apply_dsa, draw_dsa
from ddfast.train.presets import Case
from ddfast.train.staged import stage_seed
from ddfast.train.views import epoch_order
from tests.evaluation import eval_case

STAGES = torch.tensor([0, 1, 2, 1] * 3)
MANIFEST: dict[str, Any] = {
    "stages": STAGES.tolist(), "stage_lrs": [0.05, 0.04, 0.03], "stage_momentum": "carried", "method": "pdd",
}  # fmt: skip
CONFIG = StudentConfig(
    epochs=4, batch_size=5, optimizer="sgd", nesterov=False, weight_decay=5e-3, decay_all=True, schedule="milestones",
    milestones=(2,), flip=False, cutmix_alpha=0.0, bn_twice=False, dsa="color_crop_flip", seed=3,
)  # fmt: skip
RATES = (0.05, 0.02, 0.04)


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(4)
    images = torch.randn(12, 3, 8, 8, generator=generator)
    images[torch.arange(12), labels] += 1
    return images, labels


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
            nn.Linear(32, 3),
        )  # fmt: skip


def lessons(mode: str, **changes: Any) -> list[Lesson]:
    parts = stage_parts(STAGES, mode)
    return [
        Lesson(rows, replace(CONFIG, lr=lr, **changes)) for rows, lr in zip(parts, RATES[-len(parts) :], strict=True)
    ]


def plain(mode: str, carried: bool) -> list[Tensor]:
    """Weights after a plain loop over stages in float64."""
    images, labels = pictures()
    model = network().double()
    momentum: dict[str, Tensor] = {}
    for stage, rate in enumerate(RATES):
        rows = [n for n in range(12) if (STAGES[n] <= stage if mode == "progressive" else STAGES[n] == stage)]
        x, y = images[rows].double(), labels[rows]
        seed = stage_seed(3, stage)
        for epoch in range(4):
            lr = rate if epoch < 2 else rate / 10
            for step, index in enumerate(epoch_order(seed, epoch, len(rows)).split(5)):
                draw = draw_dsa("color_crop_flip", len(index), (8, 8), seed=seed, epoch=epoch, step=step)
                model.zero_grad()
                F.cross_entropy(model(apply_dsa(x[index], draw)), y[index]).backward()
                with torch.no_grad():
                    for name, value in model.named_parameters():
                        assert value.grad is not None
                        slope = value.grad + 5e-3 * value
                        momentum[name] = slope + 0.9 * momentum[name] if name in momentum else slope
                        value -= lr * momentum[name]
        if not carried:
            momentum.clear()
    return [value.detach() for value in model.parameters()]


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("mode", ["progressive", "sequential"])
def test_training_is_a_plain_loop_over_stages(mode: str, carried: bool) -> None:
    student = network()
    report = train_in_stages(*pictures(), student, None, lessons(mode), carried=carried)
    assert report.steps == 4 * ((1 + 2 + 3) if mode == "progressive" else (1 + 2 + 1))
    assert len(report.losses) == 12
    begun, wanted = list(network().parameters()), plain(mode, carried)
    moved = torch.cat([(w - b.double()).flatten() for w, b in zip(wanted, begun, strict=True)])
    error = torch.cat([(s.double() - w).flatten() for s, w in zip(student.parameters(), wanted, strict=True)])
    assert moved.norm() > 0.1
    assert error.norm() < 1e-4 * moved.norm()
    other = torch.cat([value.flatten() for value in plain(mode, not carried)])
    assert (torch.cat([w.flatten() for w in wanted]) - other).norm() > 1e-2 * moved.norm()


def test_the_time_left_is_that_of_all_lessons() -> None:
    seen: list[TrainProgress] = []
    made = lessons("progressive")
    train_in_stages(*pictures(), network(), None, made, on_progress=seen.append)
    views = [len(lesson.rows) for lesson in made for _ in range(lesson.config.epochs)]
    ends = [state for state in seen if state.step == state.steps]
    assert [(state.epoch, state.epochs) for state in ends] == [(epoch, 12) for epoch in range(1, 13)]
    left = [state.eta_seconds * state.images_per_second for state in ends]
    assert left == pytest.approx([sum(views[state.epoch :]) for state in ends])


def test_union_is_one_training_of_all_images() -> None:
    staged, whole = network(), network()
    only = lessons("union")
    train_in_stages(*pictures(), staged, None, only)
    train_student(*pictures(), whole, None, only[0].config)
    assert all(torch.equal(a, b) for a, b in zip(staged.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("stop", [2, 13, 14, 17])  # epochs of 1, 2, 3 steps, four each: stage 2 begins with step 5
def test_stopped_and_resumed_it_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    def train(student: nn.Module, folder: str, counted: bool = False) -> Any:
        steps = []
        step = training_loop.EagerStep.__call__

        def counting(self: Any, *given: Any) -> Any:
            steps.append(0)
            if counted and len(steps) == stop:
                raise KeyboardInterrupt
            return step(self, *given)

        (tmp_path / folder).mkdir(exist_ok=True)
        options = LoopOptions(
            checkpoint=tmp_path / folder / "a.pt", checkpoint_seconds=0, validate=lambda _: 0.5, test_epochs={1, 6, 12}
        )
        with monkeypatch.context() as patch:
            patch.setattr(training_loop.EagerStep, "__call__", counting)
            report = train_in_stages(*pictures(), student, None, lessons("progressive"), options=options)
        return report, len(steps)

    whole, cut = network(), network()
    first, steps = train(whole, "whole")
    assert steps == 24
    with pytest.raises(KeyboardInterrupt):
        train(network(), "cut", True)
    second, left = train(cut, "cut")
    assert left < 24 - stop + 4  # at most an epoch again
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    assert [test.epoch for test in second.tested] == [1, 6, 12]
    assert second.losses == first.losses


def test_stages_draw_apart() -> None:
    """Epochs begin at 0 in each stage, so that one seed would repeat augmentations."""
    assert stage_seed(3, 0) == 3
    assert len({stage_seed(seed, stage) for seed in (3, 4) for stage in range(5)}) == 10


def test_parts_of_each_mode() -> None:
    stages = torch.tensor([0, 2, 1, 0])
    assert [rows.tolist() for rows in stage_parts(stages, "progressive")] == [[0, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert [rows.tolist() for rows in stage_parts(stages, "sequential")] == [[0, 3], [2], [1]]
    assert [rows.tolist() for rows in stage_parts(stages, "union")] == [[0, 1, 2, 3]]
    # a control of few pictures may have none in some stage
    assert [rows.tolist() for rows in stage_parts(torch.tensor([0, 2]), "sequential", 4)] == [[0], [0], [1], [1]]
    with pytest.raises(ValueError, match="staged: got 'all', expected one of progressive, union, sequential"):
        stage_parts(stages, "all")


def test_controls_are_split_into_the_same_stages() -> None:
    stages, labels = torch.tensor([0, 0, 1, 0, 1, 2]), torch.tensor([0, 1, 1, 1, 0, 0])
    alike = stages_alike(stages, labels, torch.tensor([1, 1, 1, 0, 0, 0]))
    assert alike.tolist() == [0, 0, 1, 0, 1, 2]
    assert stages_alike(stages, labels, torch.tensor([0] * 6 + [1])).tolist() == [0, 0, 1, 1, 2, 2, 0]


def staged_set(**changes: Any) -> DistilledSet:
    return eval_case.small_set(4, **{**MANIFEST, **changes})


def learned_set() -> DistilledSet:
    made = staged_set(space="normalized", lr=0.03)
    made.extras = {"trained_images": Space.of("colours", made.images, zca=False).apply(made.images)}
    return made


@pytest.mark.parametrize("mode", [None, "sequential", "union"])
def test_evaluation_goes_through_the_stages(tmp_path: Path, mode: str | None) -> None:
    given: dict[str, Any] = {"train": eval_case.source(20, 1), "val": eval_case.source(5, 2), "byte_control": False}
    settings = {**eval_case.SETTINGS, "preset": "dsa", "seeds": 1, "epochs": 3, "hard": True}
    judged = evaluate(learned_set(), out=tmp_path / "out", **given, **settings, staged=mode)
    rows = {row["images"]: row for row in judged.report["results"]}
    if mode == "union":
        assert "staged" not in rows["distilled"]
        assert rows["distilled"]["recipe"]["lr"] == 0.03  # that of the last stage
        assert "Stage by stage" not in judged.html
        return
    images = [3, 9, 12] if mode is None else [3, 6, 3]
    for kind, rates in (("distilled", [0.05, 0.04, 0.03]), ("random-images", [0.01] * 3)):
        staged = rows[kind]["staged"]
        assert (staged["mode"], staged["momentum"]) == (mode or "progressive", "carried")
        assert [part["images"] for part in staged["stages"]] == images
        assert [part["lr"] for part in staged["stages"]] == rates
        assert [part["epochs"] for part in staged["stages"]] == [3, 3, 3]
        assert staged["stages"][-1]["top1"] == rows[kind]["top1"]
        assert rows[kind]["curve"]["epochs"][-1] == 9
        assert rows[kind]["cost"]["steps"] == 9
        assert rows[kind]["cost"]["flops"]["student"] == 3 * rows[kind]["cost"]["flops"]["forward"] * 3 * sum(images)
    assert "Stage by stage" in judged.html
    assert list((tmp_path / "out").glob("checkpoints/*")) == []
    again = evaluate(learned_set(), out=tmp_path / "out", resume=True, **given, **settings, staged=mode)
    assert eval_case.settled(again.report) == eval_case.settled(judged.report)
    other = {**MANIFEST, "stages": [0, 1, 1, 2] * 3}
    changed = learned_set()
    changed.manifest.update(other)
    with pytest.raises(RuntimeError, match="stages"):
        evaluate(changed, out=tmp_path / "out", resume=True, **given, **settings, staged=mode)


def test_a_rate_that_is_given_holds_in_all_stages() -> None:
    given: dict[str, Any] = {"val": eval_case.source(5, 2), **eval_case.SETTINGS, "preset": "dsa", "seeds": 1}
    judged = evaluate(learned_set(), **given, lr=0.02, controls=False)
    row = judged.report["results"][0]
    assert [part["lr"] for part in row["staged"]["stages"]] == [0.02] * 3


def lessons_for(made: DistilledSet, config: EvaluationConfig, images: str = DISTILLED) -> list[Lesson]:
    subject = Subject("a", "a", made, measure(made, None, ()), None, ())
    unused: Any = None
    plan = Plan(config, (subject,), ("conv3",), unused, None, "cpu", 1, 0)
    found = lessons_of(plan, Spec("a", images, "hard", True, "conv3", 0), subject, made.decoded().labels)
    assert found is not None
    return found


def test_stages_of_the_papers_recipes() -> None:
    case = Case("conv3", 10, 10)
    dsa = stage_config(EvaluationConfig(preset="dsa"), case, [20, 40, 60, 80, 100])
    assert (dsa.epochs, dsa.milestones) == (501, (252,))  # MTT's for 500, where it is trained for 1000 in one go
    assert student_config(EvaluationConfig(preset="dsa"), case).reset_momentum
    assert not dsa.reset_momentum  # where the rate drops; PDD's program keeps its optimiser
    idc = stage_config(EvaluationConfig(preset="idc"), case, [20, 40])
    assert (idc.epochs, idc.milestones, idc.lr) == (500, (333, 416), 0.01)
    made = eval_case.small_set(6, stages=[0, 1, 2, 3, 4, 5] * 3)
    rates = [lesson.config.lr for lesson in lessons_for(made, EvaluationConfig(preset="idc"))]
    assert rates == [0.01] * 5 + [0.005]  # halved from the sixth stage on
    assert stage_config(EvaluationConfig(preset="hard_label"), case, [20, 40]).epochs == 150


def test_smoke_sees_as_many_pictures_as_in_one_go() -> None:
    case = Case("conv3", 10, 10)
    sizes = [20, 40, 60, 80, 100]
    assert stage_config(EvaluationConfig(preset="smoke"), case, sizes).epochs * sum(sizes) <= 12_000


def test_decoded_images_keep_their_stage() -> None:
    made = staged_set(formation=Formation(2).as_json())
    found = lessons_for(made, EvaluationConfig(preset="smoke"))
    assert [len(lesson.rows) for lesson in found] == [12, 36, 48]
    decoded = made.decoded()
    assert decoded.stages is not None
    assert set(decoded.stages[found[1].rows].tolist()) == {0, 1}


def test_loaders_of_a_stage(tmp_path: Path) -> None:
    path = staged_set().save(tmp_path / "set", lossless=True)
    made = load(path)
    for stage, only, wanted in ((1, False, [0]), (2, False, [0, 1]), (2, True, [1]), (3, False, [0, 1, 2])):
        rows = torch.nonzero(torch.isin(STAGES, torch.tensor(wanted)))[:, 0]
        dataset = made.as_dataset(kind="tensor", stage=stage, only=only)
        assert torch.equal(torch.stack([image for image, _ in dataset]), made.images[rows].permute(0, 3, 1, 2))  # type: ignore[attr-defined]
        loader = made.dataloader(4, augment=False, shuffle=False, stage=stage, only=only)
        assert torch.equal(torch.cat([y for _, y in loader]), made.labels[rows])
    assert len(made.as_dataset()) == 12
    with pytest.raises(ValueError, match="stage: got 4, expected 1 to 3"):
        made.dataloader(stage=4)
    with pytest.raises(ValueError, match="only: got True without a stage"):
        made.as_dataset(only=True)
    with pytest.raises(ValueError, match="stage: got 1, but the set has no stages"):
        eval_case.small_set().dataloader(stage=1)


def test_sets_without_stages_are_as_they_were(tmp_path: Path) -> None:
    assert staging_of(eval_case.small_set(), "progressive") is None
    assert staging_of(eval_case.small_set(stages=[0] * 12), None) is None
    with pytest.raises(ValueError, match="staged: got 'union', but no set here has stages; leave it out"):
        evaluate(eval_case.small_set(), val=eval_case.source(5, 2), out=tmp_path / "out", staged="union")


def test_stored_labels_are_of_all_images_at_once() -> None:
    made = staged_set()
    stored: Any = object()
    subject = Subject("a", "a", made, measure(made, None, ()), None, (), stored)
    assert subject_staging(EvaluationConfig(), subject) is None
    assert subject_staging(EvaluationConfig(), replace(subject, labels=None)) is not None
    with pytest.raises(ValueError, match="staged: got 'sequential' with stored labels"):
        subject_staging(EvaluationConfig(staged="sequential"), subject)


def test_wrong_entries_are_named() -> None:
    with pytest.raises(ValueError, match=r"staged: got 'both', expected one of progressive, union, sequential"):
        EvaluationConfig(staged="both")
    with pytest.raises(ValueError, match=r"stages: got 12 entries with \[0, 2\] for 12 images"):
        staging_of(staged_set(stages=[0, 2] * 6), None)
    with pytest.raises(ValueError, match=r"stage_lrs: got \[0.1\], expected 3 positive rates"):
        staging_of(staged_set(stage_lrs=[0.1]), None)
