"""The FKD layout: a round trip through our store, files as the original programs write them, damaged ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.store import LabelStore
from ddfast.train import fkd as fkd_module
from ddfast.train.augment import render
from ddfast.train.fkd import FKDLabels, check_fkd, write_fkd
from ddfast.train.relabel import relabel
from ddfast.train.replay import Replay
from ddfast.train.views import ViewConfig
from tests.train.label_helpers import VIEW, teacher, tiny_set

PLAIN = ViewConfig((12, 12), scale=(0.3, 1.0), flip=True, mix="cutmix")


def stored(
    path: Path, view: ViewConfig | None, epochs: int = 2, order: str = "random_sampler", seed: int = 42
) -> LabelStore:
    return relabel(
        tiny_set(), [teacher()], path, view=view, seed=seed, epochs=epochs, batch_size=4, kind="fp16", order=order,
        progress="quiet",
    )  # fmt: skip


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_round_trip(tmp_path: Path, mix: str) -> None:
    view = replace(PLAIN, mix=mix)
    store = stored(tmp_path / "labels", view)
    root = write_fkd(store, tmp_path)
    assert root.name == f"FKD_{mix}_fp16"
    fkd = FKDLabels(tmp_path)
    assert (fkd.mix, fkd.epochs, fkd.batches(1)) == (mix, 2, 3)
    replay, images = Replay.from_fingerprint(store.fingerprint, 10), tiny_set().images
    for epoch in range(2):
        for step in range(3):
            ours, batch = replay.views(epoch, step), fkd.batch(epoch, step)
            theirs = batch.views(ours.index, (12, 12))
            assert torch.equal(batch.logits, store.read(epoch, ours.index))  # type: ignore[arg-type]
            assert torch.equal(theirs.boxes, ours.boxes)
            assert torch.equal(theirs.flip, ours.flip)
            pixels = [render(images, views, view, IMAGENET) for views in (ours, theirs)]
            torch.testing.assert_close(*pixels)
            torch.testing.assert_close(batch.logits.float(), teacher().module(pixels[1]), rtol=2e-3, atol=2e-3)
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        write_fkd(store, tmp_path)


def test_files_of_the_original_programs(tmp_path: Path) -> None:
    folder = tmp_path / "FKD_cutmix_fp16" / "epoch_0"
    folder.mkdir(parents=True)
    columns = [torch.tensor([0.25, 0.5], dtype=torch.float64) for _ in range(4)]  # a loader collates tuples so
    box = [np.clip(np.int64(side), 0, 12) for side in (2, 3, 8, 12)]
    content = [columns, torch.tensor([True, False]), torch.tensor([1, 0]), np.random.default_rng(0).beta(1, 1), box,
               torch.zeros(2, 5).half()]  # fmt: skip
    torch.save(content, folder / "batch_0.tar")
    batch = FKDLabels(tmp_path).batch(0, 0)
    assert batch.coords.tolist() == [[0.25] * 4, [0.5] * 4]
    assert batch.mix_box == (2, 3, 8, 12)
    views = batch.views(torch.tensor([4, 7]), (12, 12))
    assert views.boxes.tolist() == [[3, 3, 3, 3], [6, 6, 6, 6]]
    assert views.mix_box.tolist() == [2, 3, 6, 9]  # rows 2 .. 7, columns 3 .. 11
    assert views.partner.tolist() == [1, 0]
    assert 0 < views.share < 1
    with pytest.raises(ValueError, match="index: got 3 samples for a batch of 2 labels; the batch sizes differ"):
        batch.views(torch.arange(3), (12, 12))


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_damaged_files_are_named_and_run_no_code(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no FKD labels"):
        FKDLabels(tmp_path)
    folder = tmp_path / "FKD_cutmix_fp16" / "epoch_0"
    folder.mkdir(parents=True)
    fkd = FKDLabels(folder.parent)
    torch.save([Trap(tmp_path / "trapped")] * 6, folder / "batch_0.tar")
    (folder / "batch_1.tar").write_bytes(b"no tar")
    torch.save([1, 2], folder / "batch_2.tar")
    torch.save([torch.zeros(2, 4), torch.zeros(3), None, None, None, torch.zeros(2, 5)], folder / "batch_3.tar")
    torch.save(["x"] * 6, folder / "batch_4.tar")
    messages = (
        "batch_0.tar: damaged",
        "batch_1.tar: damaged",
        "got list, expected a list of six",
        r"flips \(3,\) for logits \(2, 5\)",
        "not the FKD layout",
        "batch_5.tar: not there, the epoch has 5 batches",
    )
    for step, message in enumerate(messages):
        with pytest.raises(ValueError, match=message):
            fkd.batch(0, step)
    assert not (tmp_path / "trapped").exists()
    with pytest.raises(ValueError, match=r"epoch: got 1, .* holds 1 epochs"):
        fkd.batch(1, 0)


def test_labels_without_a_place_in_the_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="factor 2 and shift 1; FKD files hold only crop"):
        write_fkd(stored(tmp_path / "a", VIEW), tmp_path)
    with pytest.raises(ValueError, match="of the plain images"):
        write_fkd(stored(tmp_path / "b", None, epochs=1), tmp_path)
    with pytest.raises(ValueError, match="order: got 'counter'; programs that read FKD files"):
        write_fkd(stored(tmp_path / "d", PLAIN, epochs=1, order="counter"), tmp_path)
    store = stored(tmp_path / "c", PLAIN)
    store.file(1).unlink()
    with pytest.raises(ValueError, match="1 of 2 epochs are labelled; finish them first"):
        write_fkd(store, tmp_path)


def test_all_of_it_appears_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, out = stored(tmp_path / "labels", PLAIN), tmp_path / "fkd"
    plain, calls = fkd_module._content, [0]

    def interrupted(*given: object) -> list[object]:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(fkd_module, "_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_fkd(store, out)
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    root = write_fkd(store, out, resume=True)
    written = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert write_fkd(store, out, resume=True) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == written
    other = stored(tmp_path / "other", PLAIN, seed=1)
    with pytest.raises(FileExistsError, match="is of other labels"):
        write_fkd(other, out, resume=True)
    before = FKDLabels(out).batch(0, 0).coords
    assert write_fkd(other, out, overwrite=True) == root
    assert not torch.equal(FKDLabels(out).batch(0, 0).coords, before)
    (root / "ddfast.json").unlink()  # somebody else's
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        write_fkd(other, out, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file: is a file, expected a folder"):
        check_fkd(tmp_path / "file", PLAIN)
    assert [entry.name for entry in out.iterdir()] == [root.name]
