"""Streams: the same batches whatever the engine, the workers and the batch size; failures by name; bounded memory."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET, Normalization
from ddfast.data import threads_stream
from ddfast.data.arrays import ArraySource
from ddfast.data.batches import CropBatch, CropRequest, StreamError, plan_batches
from ddfast.data.dali_stream import dali_missing
from ddfast.data.decode import DecodeError, DecodeOptions, decode_image
from ddfast.data.folder import FolderSource
from ddfast.data.streams import open_stream
from ddfast.data.threads_stream import ThreadStream
from ddfast.data.torch_stream import _Batches
from ddfast.ops import use_backend
from tests.data.data_helpers import DrawRRC, encode, make_class_folders, picture

CROPS = 3
REQUEST = CropRequest((24, 20), CROPS, IMAGENET)
GROUPS = [(1, np.arange(9)), (0, np.array([4, 1, 3])), (2, np.array([], dtype=np.int64)), (2, np.arange(4))]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return FolderSource(make_class_folders(tmp_path_factory.mktemp("classes"), {"ant": 6, "bee": 9, "cat": 4}))


def copies(batches: Iterator[CropBatch]) -> list[CropBatch]:
    kept = []
    for batch in batches:
        batch.crops = batch.crops.clone()
        kept.append(batch)
    return kept


def by_picture(batches: list[CropBatch]) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, torch.Tensor]]:
    found = {}
    for batch in batches:
        assert batch.crops.shape[0] == len(batch.positions) * CROPS
        for i, position in enumerate(batch.positions.tolist()):
            crops = batch.crops[i * CROPS : (i + 1) * CROPS]
            found[batch.label, position] = (batch.sizes[i], batch.boxes[i], crops)
    return found


def assert_same(ours: list[CropBatch], theirs: list[CropBatch], tolerance: float = 0.0) -> None:
    left, right = by_picture(ours), by_picture(theirs)
    assert list(left) == list(right)
    for key, (sizes, boxes, crops) in left.items():
        np.testing.assert_array_equal(sizes, right[key][0])
        np.testing.assert_array_equal(boxes, right[key][1])
        torch.testing.assert_close(crops, right[key][2], rtol=0, atol=tolerance)
    assert [f for b in ours for f in b.failures] == [f for b in theirs for f in b.failures]


def run(stream: object, source: object, groups: object = GROUPS, batch_images: int = 4) -> list[CropBatch]:
    return copies(stream.crops(source, groups, REQUEST, DrawRRC(CROPS), batch_images=batch_images))


@pytest.fixture(scope="module")
def truth(source: FolderSource) -> list[CropBatch]:
    """Plain loops: Pillow's pixels, torch's antialiased interpolation of each box, in float64."""
    batches = []
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET.mean, IMAGENET.std))
    for label, positions in GROUPS:
        if not len(positions):
            continue
        pictures = [decode_image(source.load(label, p)) for p in positions]
        sizes = np.array([p.shape[:2] for p in pictures], dtype=np.int32)
        boxes = DrawRRC(CROPS)(label, np.asarray(positions), sizes)
        crops = []
        for pixels, row in zip(pictures, boxes, strict=True):
            for top, left, height, width in row.tolist():
                cut = torch.from_numpy(pixels[top : top + height, left : left + width].copy()).permute(2, 0, 1)
                value = torch.nn.functional.interpolate(
                    cut[None].double() / 255, (24, 20), mode="bilinear", antialias=True, align_corners=False
                )
                crops.append((value[0] - mean) / std)
        batches.append(CropBatch(label, np.asarray(positions), sizes, boxes, torch.stack(crops).float()))
    return batches


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_images", [1, 4, 100])
def test_threads_give_the_right_crops(
    source: FolderSource, truth: list[CropBatch], workers: int, batch_images: int
) -> None:
    stream = ThreadStream(workers, chunk_images=3)
    assert_same(run(stream, source, batch_images=batch_images), truth, tolerance=1e-5)


@pytest.mark.parametrize("chunk_images", [1, 2, 16])
def test_results_do_not_depend_on_workers_batches_or_chunks(source: FolderSource, chunk_images: int) -> None:
    one = run(ThreadStream(0), source)
    for workers in (0, 2):
        for batch_images in (2, 5):
            stream = ThreadStream(workers, chunk_images=chunk_images)
            assert_same(run(stream, source, batch_images=batch_images), one)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_stream_gives_the_same_batches(source: FolderSource, workers: int) -> None:
    with use_backend("reference", ["multi_crop_out"]):
        ours = run(ThreadStream(1, chunk_images=2), source)
    theirs = run(open_stream("torch", workers=workers), source)
    assert_same(ours, theirs)
    assert [(b.label, b.positions.tolist(), b.last) for b in ours] == [
        (b.label, b.positions.tolist(), b.last) for b in theirs
    ]


@pytest.mark.parametrize("name", ["threads", "torch"])
def test_order_and_last(source: FolderSource, name: str) -> None:
    batches = run(open_stream(name, workers=1), source)
    assert [(b.label, b.positions.tolist(), b.last) for b in batches] == [
        (1, [0, 1, 2, 3], False),
        (1, [4, 5, 6, 7], False),
        (1, [8], True),
        (0, [4, 1, 3], True),
        (2, [], True),
        (2, [0, 1, 2, 3], True),
    ]
    assert batches[4].crops.shape == (0, 3, 24, 20)
    assert batches[4].boxes.shape == (0, CROPS, 4)
    assert batches[4].sizes.shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_format_of_the_crops(source: FolderSource, dtype: torch.dtype, channels_last: bool) -> None:
    request = CropRequest((8, 9), 2, Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), dtype, channels_last)
    for stream in (ThreadStream(0, chunk_images=2), open_stream("torch", workers=0)):
        (batch,) = stream.crops(source, [(0, range(3))], request, DrawRRC(2), batch_images=3)
        assert batch.crops.dtype == dtype
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert batch.crops.is_contiguous(memory_format=layout)
        assert torch.isfinite(batch.crops).all()


@pytest.fixture
def damaged(tmp_path: Path) -> FolderSource:
    make_class_folders(tmp_path, {"ant": 7, "bee": 2})
    whole = encode(picture(50, 60), quality=90)
    (tmp_path / "ant" / "ant_000.JPEG").write_bytes(b"")
    (tmp_path / "ant" / "ant_003.JPEG").write_bytes(whole[:-300])
    (tmp_path / "ant" / "ant_004.JPEG").write_bytes(b"<html>")
    (tmp_path / "bee" / "bee_000.JPEG").write_bytes(encode(picture(50, 60), "PNG"))
    (tmp_path / "bee" / "bee_001.JPEG").write_bytes(whole[: len(whole) // 2])
    return FolderSource(tmp_path)


STREAMS = ["threads", "torch"] + ([] if dali_missing() else ["dali"])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("batch_images", [1, 3, 50])
def test_failures_are_named_and_leave_no_holes(damaged: FolderSource, name: str, batch_images: int) -> None:
    groups = [(0, np.arange(7)), (1, np.arange(2)), (1, [1])]
    good = run(ThreadStream(0), damaged, [(0, [1, 2, 5, 6]), (1, [0])])
    for workers in (0, 2):
        stream = open_stream(name, workers=workers) if name != "threads" else ThreadStream(workers, chunk_images=2)
        batches = run(stream, damaged, groups, batch_images)
        found = [f.sample_id for b in batches for f in b.failures]
        bad = ["ant/ant_000.JPEG", "ant/ant_003.JPEG", "ant/ant_004.JPEG", "bee/bee_001.JPEG", "bee/bee_001.JPEG"]
        assert found == bad
        assert [f.position for b in batches for f in b.failures] == [0, 3, 4, 1, 1]
        assert all(f.reason for b in batches for f in b.failures)
        assert sum(b.last for b in batches) == 3
        for batch in batches:
            batch.failures = []
        assert_same(batches, good, tolerance=1e-5)


class Broken(ArraySource):
    """A source whose third picture cannot be delivered."""

    def load(self, label: int, position: int) -> np.ndarray:
        if position == 2:
            raise RuntimeError("no access")
        return super().load(label, position)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("workers", [0, 1])
def test_read_errors_name_the_sample_and_end_the_stream(name: str, workers: int) -> None:
    before = set(threading.enumerate())
    source = Broken(np.zeros((8, 30, 30, 3), dtype=np.uint8), np.zeros(8, dtype=np.int64), ["dog"])
    with pytest.raises(StreamError, match=r"dog/2: cannot be read \(RuntimeError: no access\)"):
        run(open_stream(name, workers=workers), source, [(0, range(8))], 1)
    assert not {t for t in set(threading.enumerate()) - before if t.name.startswith("ddfast")}
    with pytest.raises(StreamError, match="dog/2"):
        open_stream(name, workers=workers).decode(source, 0, [1, 2])


@pytest.mark.parametrize("name", STREAMS)
def test_an_unreadable_file_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    source = FolderSource(make_class_folders(tmp_path, {"ant": 2}))
    assert source.count(0) == 2
    (tmp_path / "ant" / "ant_001.JPEG").unlink()
    (batch,) = run(open_stream(name, workers=1), source, [(0, [0, 1])])
    assert batch.positions.tolist() == [0]
    assert [f.sample_id for f in batch.failures] == ["ant/ant_001.JPEG"]
    assert batch.failures[0].reason.startswith("cannot be read (FileNotFoundError")
    with pytest.raises(DecodeError, match=r"ant/ant_001\.JPEG: cannot be read"):
        open_stream(name, workers=1).decode(source, 0, [0, 1])


def test_a_position_that_does_not_exist_is_named(tmp_path: Path) -> None:
    source = FolderSource(make_class_folders(tmp_path, {"ant": 2}))
    with pytest.raises(StreamError, match="label 0, position 5: cannot be read"):
        run(ThreadStream(1), source, [(0, [5])])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (lambda n: np.zeros((n, 1, 4), dtype=np.int32), "shape"),
        (lambda n: np.tile(np.array([0, 0, 0, 5], dtype=np.int32), (n, CROPS, 1)), "reaches out"),
        (lambda n: np.tile(np.array([0, 0, 31, 5], dtype=np.int32), (n, CROPS, 1)), "reaches out"),
        (lambda n: np.tile(np.array([-1, 0, 3, 5], dtype=np.int32), (n, CROPS, 1)), "reaches out"),
    ],
)
def test_wrong_boxes_are_refused(boxes: object, message: str) -> None:
    source = ArraySource(np.zeros((4, 30, 30, 3), dtype=np.uint8), np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match=message):
        list(ThreadStream(1).crops(source, [(0, [0, 1])], REQUEST, lambda *a: boxes(len(a[1])), batch_images=2))


def test_buffers_are_reused_and_bounded(source: FolderSource, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = CropRequest.buffer
    monkeypatch.setattr(CropRequest, "buffer", lambda *a, **k: made.append(1) or plain(*a, **k))
    groups = [(1, np.arange(9))] * 20
    for workers, budget, limit in ((0, 1, 1), (3, 1, 2), (3, 1 << 30, 1 + 12)):
        made.clear()
        stream = ThreadStream(workers, chunk_images=4, read_ahead_bytes=budget)
        addresses = {b.crops.data_ptr() for b in stream.crops(source, groups, REQUEST, DrawRRC(CROPS), batch_images=2)}
        assert len(made) == stream.buffer_count <= limit
        assert len(addresses) <= limit


def test_reads_ahead_only_so_far(source: FolderSource) -> None:
    taken = []

    def endless() -> Iterator[tuple[int, np.ndarray]]:
        while True:
            taken.append(1)
            yield 1, np.arange(9)

    stream = ThreadStream(2, chunk_images=4)
    batches = stream.crops(source, endless(), REQUEST, DrawRRC(CROPS), batch_images=9)
    for index in range(5):
        next(batches)
        assert len(taken) <= index + 1 + 3
    batches.close()


def data_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ddfast-data")]


def test_closing_early_leaves_no_threads(source: FolderSource) -> None:
    batches = ThreadStream(3, chunk_images=1).crops(
        source, [(1, np.arange(9))] * 50, REQUEST, DrawRRC(CROPS), batch_images=4
    )
    next(batches)
    assert data_threads()
    batches.close()
    assert not data_threads()
    batches = ThreadStream(3).crops(source, [(1, np.arange(9))] * 50, REQUEST, DrawRRC(CROPS), batch_images=4)
    next(batches)
    del batches
    gc.collect()
    assert not data_threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_exceptions_of_the_consumer_and_of_the_groups_leave_no_threads(
    source: FolderSource, error: type[BaseException]
) -> None:
    def groups() -> Iterator[tuple[int, np.ndarray]]:
        yield 1, np.arange(9)
        raise error

    with pytest.raises(error):
        run(ThreadStream(2), source, groups())
    assert not data_threads()

    def draw(label: int, positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        raise error

    with pytest.raises(error):
        list(ThreadStream(2).crops(source, GROUPS, REQUEST, draw, batch_images=4))
    assert not data_threads()


@pytest.mark.parametrize("grey", [False, True])
def test_array_source(grey: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 32, 32) if grey else (10, 32, 32, 3), dtype=np.uint8)
    source = ArraySource(images, np.arange(10) % 2)
    batches = [run(stream, source, [(1, range(5)), (0, [4, 0])]) for stream in (ThreadStream(2), ThreadStream(0))]
    batches.append(run(open_stream("torch", workers=0), source, [(1, range(5)), (0, [4, 0])]))
    assert_same(batches[0], batches[1])
    assert_same(batches[0], batches[2], tolerance=1e-5)
    ragged = open_stream("auto", workers=2).decode(source, 1, [3, 0])
    expected = np.stack([images[7], images[1]])
    expected = np.repeat(expected[..., None], 3, axis=3) if grey else expected
    np.testing.assert_array_equal(ragged.pixels.numpy(), expected.reshape(-1))


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("workers", [0, 2])
def test_decode_whole_pictures(source: FolderSource, name: str, workers: int) -> None:
    ragged = open_stream(name, workers=workers).decode(source, 1, [7, 0, 7])
    assert ragged.offsets.dtype == torch.int64
    assert ragged.sizes.dtype == torch.int32
    assert len(ragged) == 3
    for index, position in enumerate((7, 0, 7)):
        expected = decode_image(source.load(1, position))
        assert tuple(ragged.sizes[index].tolist()) == expected.shape[:2]
        start = int(ragged.offsets[index])
        np.testing.assert_array_equal(ragged.pixels[start : start + expected.size].numpy(), expected.reshape(-1))
    assert len(open_stream(name, workers=workers).decode(source, 1, [])) == 0


@pytest.mark.parametrize("name", STREAMS)
def test_decode_names_what_is_broken(damaged: FolderSource, name: str) -> None:
    for position in (0, 3, 4):
        with pytest.raises(DecodeError) as caught:
            open_stream(name, workers=1).decode(damaged, 0, [1, position])
        assert caught.value.sample_id == f"ant/ant_00{position}.JPEG"


def test_huge_pictures_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch, source: FolderSource) -> None:
    monkeypatch.setattr(threads_stream, "KEPT_ARENA_BYTES", 20_000)
    stream = ThreadStream(0)
    assert_same(run(stream, source), run(ThreadStream(0), source))
    kept = getattr(stream._arenas, "pixels", None)
    assert kept is None or kept.numel() <= 20_000


def test_a_chunk_of_large_pictures_is_decoded_in_parts(monkeypatch: pytest.MonkeyPatch, damaged: FolderSource) -> None:
    whole = run(ThreadStream(0), damaged, [(0, range(7))], 7)
    asked = []
    plain = ThreadStream._arena
    monkeypatch.setattr(threads_stream, "KEPT_ARENA_BYTES", 25_000)
    monkeypatch.setattr(ThreadStream, "_arena", lambda self, n: asked.append(n) or plain(self, n))
    parts = run(ThreadStream(0), damaged, [(0, range(7))], 7)
    assert_same(parts, whole)
    assert len(asked) > 1
    assert max(asked) <= 25_000


def test_options_reach_the_decoder(damaged: FolderSource) -> None:
    for name in STREAMS:
        stream = open_stream(name, workers=0, options=DecodeOptions(max_pixels=100))
        (batch,) = stream.crops(damaged, [(0, [1])], REQUEST, DrawRRC(CROPS), batch_images=1)
        assert "limit of 100" in batch.failures[0].reason


def test_plan_batches() -> None:
    plans = list(plan_batches([(3, range(5)), (0, [])], 2))
    assert [(p.label, p.positions.tolist(), p.last) for p in plans] == [
        (3, [0, 1], False),
        (3, [2, 3], False),
        (3, [4], True),
        (0, [], True),
    ]
    assert [p.last for p in plan_batches([(0, range(4))], 2)] == [False, True]
    with pytest.raises(ValueError, match="batch_images: got 0"):
        next(plan_batches([(0, [1])], 0))
    for wrong in ((-1, [0]), (0, [3, -1])):
        with pytest.raises(ValueError, match="expected none below 0"):
            next(plan_batches([wrong], 1))
    with pytest.raises(ValueError, match="positions of label 2"):
        next(plan_batches([(2, [[1]])], 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 5)}, "size"),
        ({"crops": 0}, "crops: got 0"),
        ({"dtype": torch.int8}, "dtype"),
    ],
)
def test_requests_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropRequest(**{"size": (4, 4), "crops": 1, "normalization": IMAGENET, **arguments})


def test_open_stream() -> None:
    assert open_stream("auto", workers=0).name == "threads"
    assert open_stream("auto", workers=0, device="cuda").name == "threads"
    with pytest.raises(ValueError, match="name: got 'ffcv', expected one of auto"):
        open_stream("ffcv", workers=0)
    for name in STREAMS:
        with pytest.raises(ValueError, match="workers: got -1"):
            open_stream(name, workers=-1)
        open_stream(name, workers=0).close()


def test_the_loaders_data_set_can_be_pickled(source: FolderSource) -> None:
    """Worker processes that are not forked (the rule from Python 3.14 on) receive it that way."""
    data = _Batches(source, REQUEST, DrawRRC(CROPS), DecodeOptions())
    (plan,) = plan_batches([(1, np.arange(2))], 4)
    ours, theirs = data[plan], pickle.loads(pickle.dumps(data))[plan]
    assert isinstance(ours, CropBatch)
    assert torch.equal(ours.crops, theirs.crops)
    assert pickle.loads(pickle.dumps(plan)).label == 1
