"""Expert trajectories on disk: snapshots of many trainings in one safetensors file.

``experts.safetensors`` holds ``theta`` float32 [experts, epochs + 1, P], snapshot 0 being the initial weights, and
``snapshots`` int32 [experts ...], how many of each are there (filled up with zeros to a page). Its metadata, under the
key ``ddfast``, is JSON that says what the experts are. The file has its full length from the start, tensors begin at
pages, so that it can be memory-mapped; it is read in plain calls here, which a file cut short cannot crash.
"""

from __future__ import annotations

import fcntl
import io
import json
import mmap
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast._outside import as_text, check_file, parse_json
from ddfast._temporary import temporary_name
from ddfast._tensor_files import read_torch
from ddfast.runs import RunError, Task, atomic_write_bytes
from ddfast.runs.atomic import discard, explain, flush_folder, name_exclusively

EXPERTS_FILE = "experts.safetensors"
FORMAT = "ddfast.trajectories/1"
_LONGEST_HEADER = 100 << 20  # as safetensors
_MAKING = 10.0  # seconds that another worker may take to name a file


class TrajectoryStore:
    """Snapshots of experts. Open it with `create` or `open`; several processes may write different experts at once."""

    def __init__(self, path: Path, info: Mapping[str, Any], shape: tuple[int, int, int], offset: int) -> None:
        self.path, self.info, self.shape = path, dict(info), shape
        self._counts, self._theta = offset, offset + _padded(4 * shape[0])

    @classmethod
    def create(cls, path: Path, experts: int, epochs: int, size: int, info: Mapping[str, Any]) -> TrajectoryStore:
        """A new file, or the one there if it says the same.

        Args:
            path: the file; missing folders are made.
            experts, epochs: how many, and how long each is trained.
            size: numbers in a snapshot.
            info: JSON values that decide the experts (architecture, data, recipe, seed).

        Raises:
            RunError: the file there holds other experts, or the disk is full.
        """
        if path.exists():
            _wait_until_made(path)
            store = cls.open(path)
            differing = [
                f"{key} {store.info.get(key)!r} there, {info.get(key)!r} here"
                for key in {**store.info, **info}
                if store.info.get(key) != json.loads(json.dumps(info.get(key)))
            ]
            if differing or store.shape != (experts, epochs + 1, size):
                what = "; ".join(differing) or f"shape {store.shape} there, {(experts, epochs + 1, size)} here"
                raise RunError(f"{path}: holds other experts: {what}. Choose another folder, or remove the file")
            return store
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (experts, epochs + 1, size)
        header = _header(shape, info)
        temporary = path.with_name(temporary_name(path.name))
        try:
            with temporary.open("wb") as file:
                file.write(header)
                _reserve(file.fileno(), len(header) + _padded(4 * experts) + 4 * int(np.prod(shape)))
                file.flush()
                os.fsync(file.fileno())
            name_exclusively(temporary, path)  # of two workers here at once one wins, and both use its file
            flush_folder(path.parent)
        except OSError as error:
            raise explain(error, path, "making room for the experts") or error from error
        finally:
            discard([temporary])
        return cls.create(path, experts, epochs, size, info)

    @classmethod
    def open(cls, path: str | Path) -> TrajectoryStore:
        """An existing file, or the folder of one.

        Raises:
            FileNotFoundError: there is none.
            RunError: it is damaged or of another kind.
        """
        path = Path(path)
        path = path / EXPERTS_FILE if path.is_dir() else path
        check_file(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size - 8, _LONGEST_HEADER):
                    raise ValueError(f"a header of {length} bytes in a file of {size}")
                info, shape, end = _read_header(parse_json(file.read(length)), 8 + length)
            except (struct.error, ValueError, KeyError, TypeError, LookupError) as error:
                raise RunError(f"{path}: is no file of expert trajectories (or a damaged one: {error})") from error
        if size != end:
            raise RunError(f"{path}: has {size} bytes, expected {end}; it was cut short, fetch or train it again")
        return cls(path, info, shape, 8 + length)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def epochs(self) -> int:
        """Trained of each expert; there is one snapshot more."""
        return self.shape[1] - 1

    def epochs_done(self, expert: int) -> int:
        """Epochs of an expert whose snapshots are on disk; -1 before the initial one is."""
        (count,) = struct.unpack("<i", self._read(self._counts + 4 * expert, 4))
        if not 0 <= count <= self.shape[1]:
            raise RunError(f"{self.path}: says {count} snapshots of expert {expert}, expected 0 to {self.shape[1]}")
        return int(count) - 1

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """theta, float32 [P].

        Raises:
            IndexError: not trained that far.
            RunError: the file was cut short.
        """
        if not 0 <= epoch <= self.epochs_done(expert):
            raise IndexError(f"epoch: got {epoch}, but expert {expert} has snapshots 0 .. {self.epochs_done(expert)}")
        data = self._read(self._place(expert, epoch), 4 * self.shape[2])
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype="<f4"))

    def begin(self, expert: int, task: Task) -> None:
        """Drops the snapshots of an expert whose task is to be done anew, as ``ddfast retry --task`` asks for.

        A task that was merely stopped has had an attempt before, and goes on.
        """
        if task.attempt == 0 and self.epochs_done(expert) >= 0:
            self._write(self._counts + 4 * expert, struct.pack("<i", 0))

    def write(self, expert: int, epoch: int, theta: Tensor) -> None:
        """The next snapshot of an expert; on disk before it counts as done.

        Raises:
            ValueError: not the next one.
            RunError: the disk is full or the file may not be written to.
        """
        if epoch != self.epochs_done(expert) + 1:
            raise ValueError(f"epoch: got {epoch} for expert {expert}, expected {self.epochs_done(expert) + 1}")
        data = theta.detach().cpu().numpy().astype("<f4").tobytes()
        for offset, part in (
            (self._place(expert, epoch), data),
            (self._counts + 4 * expert, struct.pack("<i", epoch + 1)),
        ):
            self._write(offset, part)

    def _place(self, expert: int, epoch: int) -> int:
        return self._theta + 4 * self.shape[2] * (expert * self.shape[1] + epoch)

    def _read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise RunError(f"{self.path}: was cut short while in use; fetch or train it again")
        return data

    def _write(self, offset: int, data: bytes) -> None:
        try:
            with self.path.open("r+b") as file:
                # a lock makes network file systems write just these bytes, not the page around them, where other
                # machines may have written
                fcntl.lockf(file, fcntl.LOCK_EX)
                file.seek(offset)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explain(error, self.path, f"writing {len(data)} bytes") or error from error


def read_replay_buffers(paths: Sequence[Path]) -> Iterator[list[list[Tensor]]]:
    """The experts of MTT's ``replay_buffer_<n>.pt`` files: for each one the tensors of each snapshot.

    Files are read with ``weights_only=True``.

    Raises:
        RunError: a file is damaged or holds something else.
    """
    for path in paths:
        try:
            content = read_torch(path)
            _check_replay(content, path.stat().st_size)
        except ValueError as error:
            raise RunError(f"{path}: cannot be read as a replay buffer ({error}); fetch it again") from error
        yield from ([list(snapshot) for snapshot in expert] for expert in content)


def _check_replay(content: Any, size: int) -> None:
    """Raises ValueError unless ``content`` is experts of snapshots of float tensors that have ``size`` bytes at most:
    a file may name one tensor any number of times."""
    if not _is_filled(content) or not all(_is_filled(expert) for expert in content):
        raise ValueError(f"holds {as_text(type(content).__name__)}, expected a list of experts of snapshots")
    total = 0
    for expert in content:
        for snapshot in expert:
            if not _is_filled(snapshot) or not all(isinstance(tensor, Tensor) for tensor in snapshot):
                raise ValueError(f"holds a snapshot of {as_text(type(snapshot).__name__)}, expected a list of tensors")
            for tensor in snapshot:
                if not tensor.is_floating_point() or not tensor.numel():
                    raise ValueError(f"holds a tensor {tensor.dtype} {list(tensor.shape)}, expected numbers")
                total += tensor.numel() * tensor.element_size()
            if total > size:
                raise ValueError(f"its snapshots have more bytes than the file's {size}")


def _is_filled(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0


def write_replay_buffer(path: Path, experts: Sequence[Sequence[Sequence[Tensor]]]) -> None:
    """One of MTT's ``replay_buffer_<n>.pt`` files (ten experts each there): list of experts of snapshots of tensors."""
    file = io.BytesIO()
    torch.save([[[t.detach().cpu().clone() for t in snapshot] for snapshot in expert] for expert in experts], file)
    atomic_write_bytes(path, file.getvalue())


def _read_header(header: Any, begin: int) -> tuple[dict[str, Any], tuple[int, int, int], int]:
    """What the experts are, their shape, and the file's length; the inverse of `_header`.

    Raises:
        ValueError, KeyError, TypeError, IndexError: something else.
    """
    info = parse_json(header["__metadata__"]["ddfast"])
    theta, counts = header["theta"], header["snapshots"]
    experts, snapshots, size = theta["shape"]
    if info.pop("format") != FORMAT or (theta["dtype"], counts["dtype"]) != ("F32", "I32"):
        raise ValueError("another format")
    if not all(isinstance(length, int) and 0 < length < 1 << 48 for length in (experts, snapshots, size)):
        raise ValueError(f"shape {as_text(theta['shape'])}")
    first = _padded(4 * experts)
    end = first + 4 * experts * snapshots * size
    if theta["data_offsets"] != [first, end] or counts["data_offsets"] != [0, first]:
        raise ValueError(f"tensors at {as_text(theta['data_offsets'])}")
    return info, (experts, snapshots, size), begin + end


def _header(shape: tuple[int, int, int], info: Mapping[str, Any]) -> bytes:
    """A safetensors header, padded so that the tensors start at a page."""
    first = _padded(4 * shape[0])
    content = {
        "__metadata__": {"ddfast": json.dumps({"format": FORMAT, **info})},
        "snapshots": {"dtype": "I32", "shape": [first // 4], "data_offsets": [0, first]},
        "theta": {"dtype": "F32", "shape": list(shape), "data_offsets": [first, first + 4 * int(np.prod(shape))]},
    }
    text = json.dumps(content).encode()
    length = -(-(8 + len(text)) // mmap.PAGESIZE) * mmap.PAGESIZE - 8
    return struct.pack("<Q", length) + text.ljust(length)


def _wait_until_made(path: Path) -> None:
    """On a file system without hard links a file is empty for a moment before another worker's takes its place."""
    limit = time.monotonic() + _MAKING
    while path.stat().st_size == 0:
        if time.monotonic() > limit:
            raise RunError(f"{path}: is empty, its maker was stopped; remove the file and start again")
        time.sleep(0.05)


def _reserve(handle: int, length: int) -> None:
    """Room on the disk, so that it cannot fill up in the middle of a training."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, length)
    else:
        os.truncate(handle, length)


def _padded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
