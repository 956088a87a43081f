"""What a file of ``torch.save`` says it holds, looked at before torch reads it; nothing named in it is imported or run.

``torch.load(weights_only=True)`` runs no code of the file, but takes the lengths in it at their word: it reads beyond
the end of a storage that the archive cuts short, and makes room for whatever size a tensor claims. Here the archive is
unpickled into inert stand-ins first, and lengths, sizes and strides are compared with what is there.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

MAX_OBJECTS = 10_000_000
_SPREAD = 1 << 24  # numbers that a tensor may have beyond those stored (strides of 0)
_STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16, "UntypedStorage": 1,
}  # fmt: skip
# of newer protocols than torch writes; some make room for lengths that they do not have
_REFUSED_CODES = frozenset({0x82, 0x83, 0x84, 0x96, 0x97, 0x98})


class _Reader:
    """A file that gives no room for lengths beyond its own."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int = -1) -> bytes:
        if count > self._size:
            raise FileRefusedError(f"an entry of {count} bytes")
        return self._file.read(count)


class FileRefusedError(ValueError):
    """A file of tensors whose contents do not add up."""


def check_torch_file(path: Path) -> None:
    """Looks through a file of ``torch.save``, of the zip format or the one before it.

    Raises:
        OSError: it cannot be read.
        FileRefusedError: lengths that do not fit the file, compressed or repeated entries, unusual kinds of tensors, or
            objects that are far more than the file has bytes.
        Exception: what a damaged archive or pickle makes of itself.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if not zipped:
            _check_old(file, size)
            return
        _check_ends(file, size)
        with zipfile.ZipFile(file) as archive:
            records = _records(archive, size)
            names = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(names) != 1:
                raise FileRefusedError("no data.pkl, or several")
            prefix = names[0].removesuffix("data.pkl")
            inside = {name.removeprefix(prefix): count for name, count in records.items() if name.startswith(prefix)}
            if len(inside) < len(records) or not all(map(str.isascii, inside)):
                raise FileRefusedError("entries of other archives, or of unusual names")
            if len({name.lower() for name in inside}) < len(inside):  # torch looks them up without regard to case
                raise FileRefusedError("entries whose names differ in upper and lower case alone")
            with archive.open(names[0]) as content:
                _check_objects(_Checker(content, inside, size).load())


def _check_ends(file: IO[bytes], size: int) -> None:
    """Zip readers differ over bytes before an archive and after it, so that two may see two archives: none is allowed.

    At the end stands the end record, after its 64-bit form and the place of that where there are such, and before them
    the directory.
    """
    file.seek(max(size - 98, 0))
    tail = file.read().rjust(98, b"\0")
    length, begin, end = *struct.unpack_from("<2L", tail, 88), size - 22
    if tail[56:60] == b"PK\6\7":
        end = size - 98
        if struct.unpack_from("<Q", tail, 64)[0] != end or tail[:4] != b"PK\6\6":
            raise FileRefusedError("an archive whose end is not where it should be")
        length, begin = struct.unpack_from("<2Q", tail, 40)
    if tail[76:80] != b"PK\5\6" or tail[96:] != b"\0\0" or begin + length != end:
        raise FileRefusedError("bytes before or after its archive, which torch does not write")


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Bytes of each entry."""
    found: dict[str, int] = {}
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise FileRefusedError(f"its entry {entry.filename[:80]!r} is compressed, which torch does not write")
        if entry.filename in found:
            raise FileRefusedError(f"its entry {entry.filename[:80]!r} is there twice")
        found[entry.filename] = entry.file_size
    if sum(found.values()) > size:
        raise FileRefusedError(f"its entries have more bytes than the file's {size}")
    return found


def _check_old(file: IO[bytes], size: int) -> None:
    """Four pickles (number, protocol, system, contents); then the names of the storages, and their bytes."""
    for _ in range(3):
        _Checker(file, None, size).load()
    checker = _Checker(file, None, size)
    content = checker.load()
    _check_objects(content)
    _Checker(file, None, size).load()
    if checker.stored > size:
        raise FileRefusedError(f"its storages have {checker.stored} bytes, the file {size}")


@dataclass
class _Storage:
    nbytes: int
    itemsize: int


@dataclass
class _Dtype:
    itemsize: int


class _Inert:
    """Stands for any class, function or object of the file."""

    def __new__(cls, *args: Any, **options: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        return

    def __call__(self, *args: Any, **options: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        return

    def __setitem__(self, key: Any, value: Any) -> None:
        return

    def append(self, value: Any) -> None:
        return

    def extend(self, values: Any) -> None:
        return


class _Dict(dict[Any, Any]):
    """Stands for an OrderedDict, whose attributes do not matter."""

    def __setstate__(self, state: Any) -> None:
        return


class _Checker(pickle._Unpickler):  # type: ignore[name-defined,misc]  # not the C version: its memo can be made huge
    dispatch = {code: run for code, run in pickle._Unpickler.dispatch.items() if code not in _REFUSED_CODES}  # type: ignore[attr-defined]  # noqa: RUF012

    def __init__(self, file: Any, records: Mapping[str, int] | None, size: int) -> None:
        super().__init__(_Reader(file, size), encoding="utf-8")
        self._records, self._size = records, size
        self._known: dict[str, int] = {}

    @property
    def stored(self) -> int:
        """Bytes of the storages that were named."""
        return sum(self._known.values())

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils":
            return self._rebuilder(name)
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            if name not in _STORAGES:
                raise FileRefusedError(f"a storage of kind {name[:80]!r}")
            return _Dtype(_STORAGES[name])
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return _Dtype(kind.itemsize)
        if (module, name) == ("torch", "Size"):
            return tuple
        if name == "bytearray" or module.startswith("torch._tensor"):
            raise FileRefusedError(f"an object of kind {module[:80]}.{name[:80]}")
        return _Inert

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Dtype):
            raise FileRefusedError("an entry that is no storage")
        key, count, itemsize = str(pid[2]), pid[4], pid[1].itemsize
        if not _is_count(count):
            raise FileRefusedError(f"a storage of {str(count)[:40]} numbers")
        nbytes = count * itemsize
        there = self._size if self._records is None else self._records.get(f"data/{key}", -1)
        if nbytes > there:
            raise FileRefusedError(f"storage {key[:40]!r} should have {nbytes} bytes, but has {max(there, 0)}")
        self._known[key] = max(self._known.get(key, 0), nbytes)
        return _Storage(nbytes, itemsize)

    def _rebuilder(self, name: str) -> Any:
        plain = {"_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _tensor_of_kind,
                 "_rebuild_parameter": _first, "_rebuild_parameter_with_state": _first}  # fmt: skip
        if name not in plain:
            raise FileRefusedError(f"a tensor of a kind other than plain ({name[:80]})")
        return plain[name]


def _first(value: Any, *rest: Any) -> Any:
    return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Inert:
    if not isinstance(storage, _Storage):
        raise FileRefusedError("a tensor without storage")
    return _checked(storage.nbytes // storage.itemsize, offset, size, stride)


def _tensor_of_kind(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Inert:
    kind = rest[2]  # after requires_grad and hooks
    if not isinstance(storage, _Storage) or not isinstance(kind, _Dtype):
        raise FileRefusedError("a tensor without storage")
    return _checked(storage.nbytes // kind.itemsize, offset, size, stride)


def _checked(stored: int, offset: Any, size: Any, stride: Any) -> _Inert:
    sides = (size, stride)
    if not all(isinstance(each, tuple) and len(each) <= 64 and all(map(_is_count, each)) for each in sides):
        raise FileRefusedError(f"a tensor of shape {str(size)[:80]} with strides {str(stride)[:80]}")
    if len(size) != len(stride) or not _is_count(offset):
        raise FileRefusedError(f"a tensor of shape {str(size)[:80]} with strides {str(stride)[:80]}")
    numbers, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        numbers *= length
        last += (length - 1) * step
    if numbers and last >= stored:
        raise FileRefusedError(f"a tensor of shape {list(size)} that needs {last + 1} numbers of {stored}")
    if numbers > max(stored, _SPREAD) or any(length > 1 << 40 for length in size):
        raise FileRefusedError(f"a tensor of shape {list(size)} for {stored} numbers")
    return _Inert()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _check_objects(root: Any) -> None:
    """Refuses objects that, written out, are more than ``MAX_OBJECTS``: lists of the same list of the same list."""
    sizes: dict[int, int] = {}
    waiting = [root]
    while waiting:
        value = waiting[-1]
        children = _children(value)
        if id(value) not in sizes:
            sizes[id(value)] = -1  # entered
            waiting += [child for child in children if id(child) not in sizes and _children(child)]
            continue
        waiting.pop()
        if sizes[id(value)] < 0:
            parts = [sizes.get(id(child), 1) for child in children]
            if min(parts, default=1) < 0:
                raise FileRefusedError("a list that holds itself")
            sizes[id(value)] = 1 + sum(parts)
            if sizes[id(value)] > MAX_OBJECTS:
                raise FileRefusedError(f"more than {MAX_OBJECTS} objects")


def _children(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [*value.keys(), *value.values()] if isinstance(value, dict) else []
