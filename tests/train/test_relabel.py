"""relabel: labels of the very views that training will see, by any number of workers, through kills and refusals."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast._types import IMAGENET, Normalization
from ddfast.evaluation.stored import fitted
from ddfast.nets.convnet import ConvNet
from ddfast.nets.observers import Observer
from ddfast.ops import augment_batch
from ddfast.runs import ProgressEvent, RunError
from ddfast.store import DistilledSet, LabelMismatchError, LabelStore, dense_labels
from ddfast.train import StudentConfig
from ddfast.train.fkd import FKDLabels
from ddfast.train.relabel import preset, relabel, relabel_folder, view_of
from ddfast.train.replay import Replay
from ddfast.train.teachers import Teachers, load_teacher
from ddfast.train.views import ViewConfig, draw_views, epoch_order
from tests.train.label_helpers import CLASSES, VIEW, teacher, tiny_set

OTHER = Normalization((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))


def run(out: Path, teachers: Any = None, **options: Any) -> LabelStore:
    given = {"view": VIEW, "seed": 5, "epochs": 3, "batch_size": 4, "kind": "fp16", "progress": "quiet", **options}
    return relabel(tiny_set(), teachers or [teacher()], out, **given)


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_labels_are_the_teachers_on_the_views_of_training(tmp_path: Path) -> None:
    teachers = [teacher(1), teacher(2, norm=OTHER)]
    store = run(tmp_path, teachers)
    data = tiny_set()
    for epoch in range(3):
        for step, index in enumerate(epoch_order(5, epoch, 10).split(4)):
            views = draw_views(VIEW, (12, 12), 5, epoch, step, index)
            logits = torch.zeros(len(index), 3)
            for observer, norm in zip(teachers, (IMAGENET, OTHER), strict=True):
                pixels = augment_batch(
                    data.images, *views.tensors(), views.share, size=(12, 12), mean=norm.mean, std=norm.std
                )
                logits += observer.module(pixels) / 2
            torch.testing.assert_close(store.dense(epoch, index), logits.half().float(), rtol=2e-3, atol=2e-3)
    epochs = [f"epoch_0000{epoch}.labels" for epoch in range(3)]
    assert sorted(contents(tmp_path)) == [*epochs, "labels.json", "records.json", "run.json"]


def test_forward_batch_and_threads_leave_the_labels_alone(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b", forward_batch=3)
    for epoch in range(3):
        torch.testing.assert_close(first.dense(epoch, range(10)), second.dense(epoch, range(10)), rtol=2e-3, atol=1e-3)


def test_top_k_of_the_same_logits(tmp_path: Path) -> None:
    dense, top = run(tmp_path / "a"), run(tmp_path / "b", kind="topk", k=2, tail_temperature=4.0)
    values, indices, _ = top.read(1, range(10))
    assert torch.equal(dense.dense(1, range(10)).gather(1, indices), values.float())
    # one class is beyond the k, so the tail is that class's own logit
    restored = dense_labels(top.read(1, range(10)), 3)
    torch.testing.assert_close(restored, dense.dense(1, range(10)), rtol=1e-3, atol=1e-3)


def test_plain_images_get_one_label_each(tmp_path: Path) -> None:
    store = run(tmp_path, view=None, epochs=1)
    assert store.per_image
    data = tiny_set()
    pixels = (data.images.permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET.mean).view(3, 1, 1)) / torch.tensor(
        IMAGENET.std
    ).view(3, 1, 1)
    torch.testing.assert_close(store.dense(7, range(10)), teacher().module(pixels), rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="epochs: got 2 without a view, expected 1"):
        run(tmp_path / "b", view=None, epochs=2)


def test_a_run_stopped_anywhere_ends_in_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    def stop(at: int) -> None:
        seen = 0

        def watch(_: ProgressEvent) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", resume=True, on_progress=watch)

    stop(1)
    stop(5)
    stop(2)
    assert LabelStore.open(tmp_path / "parts").complete().sum() == 1
    events: list[ProgressEvent] = []
    run(tmp_path / "parts", resume=True, on_progress=events.append)
    assert (events[0].done, events[-1].done, events[-1].total) == (14, 30, 30)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    run(tmp_path / "parts", resume=True)  # once more changes nothing
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, written = os.write, 0

    def write(handle: int, data: Any) -> int:
        nonlocal written
        written += len(data) == 60  # an epoch's file: ten samples of three float16
        if written > 1 and len(data) == 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(handle, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunError, match=r"disk full .* --resume"):
        run(tmp_path / "parts")
    monkeypatch.undo()
    assert LabelStore.open(tmp_path / "parts").complete().tolist() == [True, False, False]
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_damaged_epochs_are_labelled_again(tmp_path: Path, damage: str) -> None:
    store = run(tmp_path)
    before = contents(tmp_path)
    if damage == "truncate":
        os.truncate(store.file(1), 20)
        with pytest.raises(ValueError, match="has 20 bytes, expected 60"):
            LabelStore.open(tmp_path).read(1, [0])
    else:
        store.file(1).unlink()
    run(tmp_path, resume=True)
    assert contents(tmp_path) == before


def _killed(out: Path) -> None:
    def die(event: ProgressEvent) -> None:
        if event.done >= 18:
            os._exit(9)

    run(out, resume=True, on_progress=die)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_killed, args=(tmp_path / "parts",))
    process.start()
    process.join()
    assert process.exitcode == 9
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_several_workers_share_the_epochs(tmp_path: Path) -> None:
    options = {"epochs": 8, "resume": True}
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=run, args=(tmp_path / "many",), kwargs=options) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    run(tmp_path / "one", **options)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RunError, match=r"resume|overwrite"):
        run(tmp_path)
    for options in ({"seed": 6}, {"batch_size": 5}, {"teachers": [teacher(9)]}, {"view": replace(VIEW, shift=0)}):
        with pytest.raises(RunError):
            run(tmp_path, resume=True, **options)
    store = LabelStore.open(tmp_path)
    replay = Replay(VIEW, (12, 12), 10, 5, 4)
    store.check(replay.fingerprint(tiny_set().images, tiny_set().labels))
    with pytest.raises(LabelMismatchError, match="another set of images"):
        store.check(replay.fingerprint(tiny_set(seed=1).images, tiny_set().labels))
    with pytest.raises(
        LabelMismatchError, match=r"another view.*ddfast relabel --overwrite \(in Python overwrite=True\)"
    ):
        store.check(replace(replay, view=replace(VIEW, alpha=0.5)).fingerprint(tiny_set().images, tiny_set().labels))
    run(tmp_path, seed=6, overwrite=True)
    assert LabelStore.open(tmp_path).fingerprint["seed"] == 6


def test_logits_that_cannot_be_stored_stop_the_run(tmp_path: Path) -> None:
    broken = teacher()
    with torch.no_grad():
        broken.module.head.bias[1] = float("nan")  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="epoch 0, batch 0: logits: row 0 holds nan"):
        run(tmp_path, [broken])
    assert not LabelStore.open(tmp_path).complete().any()


def test_teachers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="teachers: got none"):
        Teachers([], CLASSES, (12, 12))
    with pytest.raises(ValueError, match=r"3 class folders .* for an observer of 5 outputs"):
        run(tmp_path, [teacher(classes=5)])
    with pytest.raises(ValueError, match="precision: got 'fp8'"):
        run(tmp_path, precision="fp8")
    fixed = Observer(ConvNet(3, 3, 32), "conv3", 32, IMAGENET, 3, None, "", True)
    with pytest.raises(ValueError, match="teacher: conv3 does not take views of 12 x 12"):
        run(tmp_path, [fixed])
    with pytest.raises(ValueError, match="teacher: 'train:conv3' is trained on the real set; name it with --data"):
        load_teacher("train:conv3", tiny_set())
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_heads_with_more_classes_are_put_into_the_sets_order(tmp_path: Path) -> None:
    wide = replace(teacher(classes=5), class_names=("x", "c", "a", "y", "b"))
    store = run(tmp_path, [wide])
    narrow = teacher(classes=5)
    group = Teachers([replace(narrow, class_names=("x", "c", "a", "y", "b"))], CLASSES, (12, 12))
    pixels = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(group(lambda _: pixels), narrow.module(pixels)[:, [2, 4, 1]])
    assert store.layout.classes == 3


def test_bfloat16_is_near(tmp_path: Path) -> None:
    full, low = run(tmp_path / "a"), run(tmp_path / "b", precision="bf16")
    torch.testing.assert_close(full.dense(0, range(10)), low.dense(0, range(10)), rtol=0.05, atol=0.05)
    assert full.fingerprint["precision"] != low.fingerprint["precision"]


def test_presets() -> None:
    data = tiny_set()
    assert view_of(data) == ViewConfig((12, 12), flip=True, mix="cutmix")
    data.manifest["config"] = {"factor": 2}
    settings = preset("rded", data)
    assert settings["view"] == ViewConfig((12, 12), factor=2, scale=(0.5, 1.0), flip=True, mix="cutmix")
    assert (settings["epochs"], settings["k"]) == (300, 2)  # three classes leave room for two
    with pytest.raises(ValueError, match="preset: got 'fkd'"):
        preset("fkd", data)


def test_digits_are_not_mirrored(tmp_path: Path) -> None:
    data = tiny_set()
    for name, digits in (
        ("mnist5k", True),
        ("MNIST:train", True),
        ("svhn", True),
        ("kmnist", True),
        ("fashion-mnist", False),
        ("cifar10", False),
    ):
        data.manifest["source"] = {"name": name}
        assert view_of(data).flip is not digits
        assert preset("smoke", data)["view"].flip is not digits
    # labels that were stored of mirrored digits are read and replayed as they were written
    data.manifest["source"] = {"name": "mnist5k"}
    store = relabel(data, [teacher()], tmp_path, view=replace(view_of(data), flip=True), batch_size=4, progress="quiet")
    recipe = fitted(StudentConfig(epochs=2, flip=False), LabelStore.open(tmp_path))
    assert recipe.flip
    assert Replay.from_fingerprint(store.fingerprint, 10).views(0, 0).flip.any()


def test_a_folder_and_a_named_teacher(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    data = tiny_set(count=6, side=32)
    data.save(tmp_path / "set", format="safetensors")
    save_file({k: v.contiguous() for k, v in ConvNet(3, 3, 32).state_dict().items()}, tmp_path / "net.safetensors")
    spec = f"conv3={tmp_path / 'net.safetensors'}"
    options: dict[str, Any] = {"preset_name": "smoke", "device": "cpu", "progress": "quiet"}
    store = relabel_folder(tmp_path / "set", [spec], tmp_path / "labels", **options)
    assert store.complete().tolist() == [True] * 3
    store.check({"set": LabelStore.open(tmp_path / "labels").fingerprint["set"], "batch_size": 25})
    with pytest.raises(RunError, match="--resume"):
        relabel_folder(tmp_path / "set", [spec], tmp_path / "labels", **options)
    one = relabel_folder(tmp_path / "set", [spec, spec], tmp_path / "one", per_image=True, kind="fp16", **options)
    assert one.per_image
    assert isinstance(DistilledSet.load(tmp_path / "set"), DistilledSet)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ddfast.cli import main

    tiny_set(count=6, side=32).save(tmp_path / "set", format="safetensors")
    weights = tmp_path / "tiny_conv3.pth"
    torch.save(ConvNet(3, 3, 32).state_dict(), weights)
    labels, fkd = tmp_path / "labels", tmp_path / "fkd"
    command = ["relabel", str(tmp_path / "set"), "--teacher", str(weights), "--out", str(labels), "--epochs", "2"]
    command += ["--batch-size", "4", "--seed", "3", "--kind", "topk", "--k", "2", "--device", "cpu"]
    assert main([*command, "--order", "counter", "--fkd", str(fkd)]) == 1
    assert "--order random_sampler" in capsys.readouterr().err
    assert not labels.exists()
    assert main([*command, "--fkd", str(fkd)]) == 0
    assert "top-2 logits of 6 images and 3 classes, 2 of 2 epochs" in capsys.readouterr().out
    store = LabelStore.open(labels, expect={"seed": 3, "batch_size": 4, "order": "random_sampler"})
    assert torch.equal(FKDLabels(fkd).batch(1, 1).logits, store.dense(1, Replay.from_fingerprint(
        store.fingerprint, 6).index(1, 1)).half())  # fmt: skip
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--order", "random_sampler", "--quiet"]) == 0
    assert main([*command, "--resume", "--fkd", str(fkd)]) == 0
    command[command.index("3")] = "4"
    assert main([*command, "--resume"]) == 1
    assert "another seed (seed: the labels have 3, here it is 4)" in capsys.readouterr().err


def test_what_fkds_layout_cannot_hold_is_refused_before_anything_is_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ddfast.cli import main

    data = tiny_set(count=6, side=32)
    data.manifest["config"] = {"factor": 2}  # RDED's default
    data.save(tmp_path / "set", format="safetensors")
    weights, labels, fkd = tmp_path / "tiny_conv3.pth", tmp_path / "labels", tmp_path / "fkd"
    torch.save(ConvNet(3, 3, 32).state_dict(), weights)
    command = ["relabel", str(tmp_path / "set"), "--teacher", str(weights), "--out", str(labels), "--epochs", "1"]
    command += ["--batch-size", "4", "--device", "cpu", "--fkd", str(fkd), "--quiet"]
    for more, message in (
        ([], "--factor 1"),
        (["--per-image"], "FKD files hold labels of views"),
        (["--per-image", "--factor", "1"], "factor: got 1 with one label an image"),
    ):
        assert main([*command, *more]) == 1
        assert message in capsys.readouterr().err
        assert not labels.exists()
    (fkd / "FKD_cutmix_fp16").mkdir(parents=True)
    assert main([*command, "--factor", "1"]) == 1
    assert "exists; choose another folder" in capsys.readouterr().err
    assert not labels.exists()
    (fkd / "FKD_cutmix_fp16").rmdir()
    assert main([*command, "--factor", "1"]) == 0
    store = LabelStore.open(labels, expect={"order": "random_sampler"})
    assert (store.fingerprint["view"]["factor"], store.fingerprint["view"]["scale"]) == (1, [0.5, 1.0])
    batch, index = FKDLabels(fkd).batch(0, 0), Replay.from_fingerprint(store.fingerprint, 6).index(0, 0)
    assert torch.equal(batch.logits, store.dense(0, index).half())
