"""The label store: what is written is read back, sizes in closed form, interrupted and damaged stores, refusals."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfast.store.label_codec import LabelLayout, TopKLabels, dense_labels, encode_labels, kept_information, label_bytes
from ddfast.store.labels import LabelMismatchError, LabelStore, set_fingerprint

FINGERPRINT = {"set": "a" * 64, "seed": 3, "view": {"size": [8, 8]}, "batch_size": 4, "teachers": ["t"]}


def logits(samples: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed)) * 4


def store(path: Path, samples: int = 7, classes: int = 12, epochs: int = 3, **options: object) -> LabelStore:
    given = {"fingerprint": FINGERPRINT, **options}
    return LabelStore.create(path, samples=samples, classes=classes, epochs=epochs, **given)  # type: ignore[arg-type]


def test_dense_labels_come_back_as_float16(tmp_path: Path) -> None:
    labels = store(tmp_path / "labels")
    written = [logits(7, 12, epoch) for epoch in range(3)]
    for epoch in (2, 0, 1):
        labels.write(epoch, range(7), written[epoch])
    ids = torch.tensor([6, 0, 0, 3])
    for epoch in (0, 2, 1):
        read = LabelStore.open(tmp_path / "labels").read(epoch, ids)
        assert torch.equal(read, written[epoch][ids].half())  # type: ignore[arg-type]
    assert labels.read(0, []).shape == (0, 12)  # type: ignore[union-attr]


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_top_k_labels_keep_the_largest_and_their_probability(tmp_path: Path, temperature: float) -> None:
    labels = store(tmp_path, classes=50, epochs=1, kind="topk", k=4, tail_temperature=temperature)
    z = logits(7, 50)
    labels.write(0, np.arange(7), z)
    values, indices, tail = labels.read(0, np.arange(7))
    assert torch.equal(indices, z.sort(1, descending=True).indices[:, :4])
    assert torch.equal(values, z.gather(1, indices).half())
    exact = torch.softmax(z.double() / temperature, 1).gather(1, indices)
    kept = torch.softmax(labels.dense(0, np.arange(7)).double() / temperature, 1).gather(1, indices)
    torch.testing.assert_close(kept, exact, rtol=1e-2, atol=0)
    rest = z.double().scatter(1, indices, float("-inf")) / temperature
    truth = temperature * (torch.logsumexp(rest, 1) - np.log(46))
    torch.testing.assert_close(tail.double(), truth, rtol=1e-3, atol=1e-3)
    assert torch.equal(dense_labels(TopKLabels(values, indices, tail), 50), labels.dense(0, np.arange(7)))


def test_equal_logits_go_by_class() -> None:
    layout = LabelLayout(2, 6, kind="topk", k=3)
    rows = encode_labels(torch.tensor([[1.0, 5, 5, 0, 5, 5], [2.0] * 6]), layout)
    assert rows["indices"].tolist() == [[1, 2, 4], [0, 1, 2]]


def test_kept_information() -> None:
    z = logits(20, 50)
    kept = [kept_information(z, LabelLayout(20, 50, kind="topk", k=k, tail_temperature=20.0)) for k in (1, 5, 20, 49)]
    assert 0 < kept[0] < kept[1] < kept[2] < kept[3]
    assert kept[3] == pytest.approx(1.0, abs=1e-3)
    assert kept_information(z, LabelLayout(20, 50)) == pytest.approx(1.0, abs=1e-4)
    assert kept_information(torch.zeros(2, 5), LabelLayout(2, 5, kind="topk", k=1)) == 1.0
    cold = LabelLayout(20, 50, kind="topk", k=5, tail_temperature=0.5)
    assert kept_information(z, cold) > 0.95 > kept[1]


@pytest.mark.parametrize(("classes", "width"), [(65_536, 2), (65_537, 4)])
def test_indices_take_four_bytes_beyond_65536_classes(tmp_path: Path, classes: int, width: int) -> None:
    labels = store(tmp_path, samples=1, classes=classes, epochs=1, kind="topk", k=2)
    z = torch.zeros(1, classes)
    z[0, -1], z[0, -2] = 9.0, 8.0
    labels.write(0, [0], z)
    assert labels.read(0, [0])[1].tolist() == [[classes - 1, classes - 2]]
    assert labels.layout.row_bytes == 2 * (2 + width) + 2
    assert labels.file(0).stat().st_size == labels.layout.row_bytes


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    for kind, k in (("fp16", 0), ("topk", 5)):
        labels = store(tmp_path / kind, kind=kind, k=k)
        for epoch in range(3):
            labels.write(epoch, range(7), logits(7, 12))
        on_disk = sum(file.stat().st_size for file in (tmp_path / kind).glob("epoch_*"))
        assert on_disk == label_bytes(7, 12, 3, kind, k) == labels.layout.total_bytes
        assert json.loads((tmp_path / kind / "labels.json").read_bytes())["bytes"]["total"] == on_disk


def test_sizes_of_imagenet() -> None:
    assert label_bytes(10_000, 1000, 300) == 6_000_000_000
    assert label_bytes(10_000, 1000, 300, "topk", 10) == 126_000_000 <= 130e6
    published = {10: 5.67e9, 50: 28.33e9, 100: 56.66e9, 200: 113.33e9}  # these also hold the crops
    for ipc, size in published.items():
        assert label_bytes(1000 * ipc, 1000, 300) == pytest.approx(size, rel=0.08)
    assert label_bytes(104_500, 10_450, 300) == pytest.approx(643e9, rel=0.05)


def test_labels_of_plain_images_hold_for_every_epoch(tmp_path: Path) -> None:
    labels = store(tmp_path, epochs=1, fingerprint={**FINGERPRINT, "view": None, "seed": None})
    labels.write(0, range(7), logits(7, 12))
    assert labels.per_image
    assert torch.equal(labels.read(41, [2, 5]), logits(7, 12)[[2, 5]].half())  # type: ignore[arg-type]


def test_an_epoch_goes_on_where_it_was_left(tmp_path: Path) -> None:
    z = logits(7, 12)
    store(tmp_path).write(1, [5, 0, 6], z[[5, 0, 6]])
    labels = store(tmp_path)  # another process
    assert labels.missing(1).tolist() == [1, 2, 3, 4]
    assert labels.missing(0).tolist() == list(range(7))
    assert not labels.complete().any()
    with pytest.raises(ValueError, match="not there, 0 of 3 epochs are labelled; go on with"):
        labels.read(1, [0])
    missing = labels.missing(1)
    labels.write(1, missing, z[torch.from_numpy(missing)])
    assert labels.complete().tolist() == [False, True, False]
    assert torch.equal(labels.read(1, range(7)), z.half())  # type: ignore[arg-type]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_00001.labels", "labels.json"]
    with pytest.raises(ValueError, match="epoch: 1 is finished"):
        labels.write(1, [0], z[:1])


def test_killed_just_before_the_epoch_got_its_name(tmp_path: Path) -> None:
    labels, z = store(tmp_path), logits(7, 12)
    labels.file(2).with_suffix(".part").write_bytes(encode_labels(z, labels.layout).tobytes())
    assert labels.complete().tolist() == [False, False, True]
    assert torch.equal(labels.read(2, range(7)), z.half())  # type: ignore[arg-type]


def test_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys, torch
        from ddfast.store import label_files
        from ddfast.store.labels import LabelStore
        path, at = sys.argv[1], int(sys.argv[2])
        count, plain = 0, os.pwrite
        def pwrite(*args):
            global count
            count += 1
            if count == at:
                os._exit(9)
            return plain(*args)
        os.pwrite = pwrite
        z = torch.arange(7 * 12).view(7, 12).float()
        labels = LabelStore.create(path, samples=7, classes=12, epochs=1, fingerprint={"set": "x", "view": {}})
        while len(missing := labels.missing(0)):
            labels.write(0, missing[:2], z[torch.from_numpy(missing[:2])])
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    codes = [subprocess.run([*command, str(at)], check=False).returncode for at in (1, 2, 4, 0)]
    assert codes == [9, 9, 9, 0]
    read = LabelStore.open(tmp_path).read(0, range(7))
    assert torch.equal(read, torch.arange(84).view(7, 12).half())  # type: ignore[arg-type]


def test_a_full_disk_is_named_and_leaves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, z = store(tmp_path), logits(7, 12)
    labels.write(0, range(7), z)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"while writing labels; finished epochs are kept, free some space") as caught:
        labels.write(1, range(7), z)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_00000.labels", "labels.json"]
    monkeypatch.undo()
    labels.write(1, [0, 1], z[:2])
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="finished epochs are kept"):
        labels.write(1, [2], z[:1])
    monkeypatch.undo()
    assert labels.missing(1).tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused(tmp_path: Path, change: int) -> None:
    labels = store(tmp_path)
    labels.write(0, range(7), logits(7, 12))
    os.truncate(labels.file(0), labels.layout.epoch_bytes + change)
    with pytest.raises(ValueError, match=rf"has {168 + change} bytes, expected 168; cut short or damaged"):
        LabelStore.open(tmp_path).read(0, [0])
    assert not labels.complete()[0]


def test_labels_of_something_else_are_refused(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(LabelMismatchError, match=r"another set of images .*'bbb"):
        LabelStore.open(tmp_path, expect={**FINGERPRINT, "set": "bbb"})
    with pytest.raises(LabelMismatchError, match=r"another seed .*have 3, here it is 4"):
        LabelStore.open(tmp_path, expect={"seed": 4})
    with pytest.raises(LabelMismatchError, match="another view, batch_size"):
        LabelStore.open(tmp_path, expect={"view": {"size": (9, 8)}, "batch_size": 5})
    LabelStore.open(tmp_path, expect={"view": {"size": (8, 8)}})
    with pytest.raises(LabelMismatchError, match="another teachers"):
        store(tmp_path, fingerprint={**FINGERPRINT, "teachers": ["u"]})
    with pytest.raises(ValueError, match=r"holds labels of .* expected .*samples=8.*choose another folder"):
        store(tmp_path, samples=8)


def test_the_fingerprint_sees_every_pixel_and_label() -> None:
    images, labels = torch.zeros(2, 3, 3, 3, dtype=torch.uint8), torch.tensor([0, 1])
    first = set_fingerprint(images, labels)
    assert first == set_fingerprint(images.clone(), labels.clone())
    images[1, 2, 2, 2] = 1
    assert first != set_fingerprint(images, labels)
    assert set_fingerprint(images, labels) != set_fingerprint(images, labels.flip(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ('{"format": "x"}', "format is 'x'"),
        ('{"format": "ddfast.labels", "schema_version": 2}', "schema_version is 2, this ddfast knows 1"),
        ('{"format": "ddfast.labels", "schema_version": 1, "layout": {}}', "damaged"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        LabelStore.open(tmp_path)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no labels\.json"):
        LabelStore.open(tmp_path)
    labels = store(tmp_path)
    with pytest.raises(ValueError, match=r"epoch: got 3, .* epochs 0 \.\. 2"):
        labels.read(3, [0])
    with pytest.raises(ValueError, match=r"sample_ids: got 7, expected 0 \.\. 6"):
        labels.write(0, [7], logits(1, 12))
    with pytest.raises(ValueError, match="sample_ids: got shape"):
        labels.write(0, [0.5], logits(1, 12))
    with pytest.raises(ValueError, match=r"logits: got shape \(1, 11\), expected \[n, 12\]"):
        labels.write(0, [0], logits(1, 11))
    with pytest.raises(ValueError, match="logits: got 1 rows for 2 sample_ids"):
        labels.write(0, [0, 1], logits(1, 12))
    with pytest.raises(TypeError, match=r"logits: got torch\.int64"):
        labels.write(0, [0], torch.zeros(1, 12, dtype=torch.int64))
    for bad in (float("nan"), float("inf"), -70_000.0):
        z = logits(2, 12)
        z[1, 3] = bad
        with pytest.raises(ValueError, match=rf"row 1 holds {bad}, expected finite numbers up to 65504"):
            labels.write(0, [0, 1], z)
    assert not list(tmp_path.glob("epoch_*"))
    for options, message in (
        ({"samples": 0}, "samples: got 0"),
        ({"kind": "int8"}, "kind: got 'int8'"),
        ({"kind": "topk", "k": 12}, r"k: got 12, expected 1 to 11"),
        ({"kind": "fp16", "k": 3}, "k: got 3 with kind 'fp16'"),
        ({"kind": "topk", "k": 3, "tail_temperature": 0.0}, "tail_temperature: got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            store(tmp_path / "other", **options)  # type: ignore[arg-type]


def test_stores_travel_to_other_processes(tmp_path: Path) -> None:
    labels, z = store(tmp_path), logits(7, 12)
    labels.write(0, range(7), z)
    labels.read(0, [0])
    assert len(pickle.dumps(labels)) < 2000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(labels.dense, (0, [3, 1])), z[[3, 1]].half().float())


def test_two_processes_may_create_the_same_store(tmp_path: Path) -> None:
    first, second = store(tmp_path), store(tmp_path)
    assert first.layout == second.layout
    assert [file.name for file in tmp_path.iterdir()] == ["labels.json"]
