"""Reading and writing the files of a distilled set."""

from __future__ import annotations

import errno
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast._env import max_image_pixels
from ddfast._outside import path_inside, read_bytes, read_json
from ddfast._tensor_files import read_safetensors
from ddfast.store.codec import decode_image
from ddfast.store.manifest import MANIFEST_FILE

# as in ddfast.runs, which this layer may not import; a run sweeps what has this prefix
RUN_FILE = "run.json"
IMAGES_FILE = "images.safetensors"
EXTRAS_FILE = "extras.safetensors"


def is_open_run(folder: Path) -> bool:
    """True for the folder of a ddfast run whose manifest is not written yet."""
    if not (folder / RUN_FILE).exists() or (folder / MANIFEST_FILE).exists():
        return False
    try:
        content = read_json(folder / RUN_FILE)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("format") == "ddfast.run"


def move_into_place(building: Path, target: Path, *, inside: bool) -> None:
    """Give a finished folder its name or, ``inside`` an existing one, move its files there, the manifest last."""
    if not inside:
        if target.exists():
            target.rmdir()
        os.rename(building, target)
        flush(target.parent)
        return
    for entry in sorted(building.rglob("*"), key=lambda entry: entry.name == MANIFEST_FILE):
        place = target / entry.relative_to(building)
        if entry.is_dir():
            place.mkdir(exist_ok=True)
        else:
            os.replace(entry, place)
    flush(target)
    shutil.rmtree(building)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file and flush it to the disk.

    Raises:
        OSError: the disk is full or refuses; also where safetensors reports it as an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error
    # safetensors makes files that only their owner may read; who may use the folder may read the set
    path.chmod(path.parent.stat().st_mode & 0o666)
    flush(path)


def flush(path: Path) -> None:
    """fsync a file or folder, so that it survives a power cut; folders only where the system can."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError:
        if folder:  # Windows cannot open folders, and a folder may be writable but not readable
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
            raise
    finally:
        os.close(handle)


def explain(error: OSError, target: Path) -> OSError:
    """``error`` with what to do about it when the disk is full or refuses; any other as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and write the set again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "make the folder writable or choose another"
    else:
        return error
    reason = error.strerror or "refused"
    return OSError(error.errno, f"{reason} while writing the set; nothing half-written was left, {hint}", str(target))


def threads() -> int:
    """How many threads code images."""
    return max(1, min(8, os.cpu_count() or 1))


def read_images(root: Path, names: list[str], size: tuple[int, ...] | None = None) -> Tensor:
    """Decode files into one tensor, uint8 [N, H, W, 3]; Pillow decodes outside Python's lock, hence the threads.

    Args:
        root: the set's folder.
        names: paths relative to it.
        size: (height, width) that each must have; None for that of the first.

    Raises:
        ValueError: a file is missing, unreadable or of another size.
    """
    if not names:
        return torch.empty(0, *(size or (0, 0)), 3, dtype=torch.uint8)
    twice = len(names) - len(set(names))
    if twice:
        raise ValueError(f"{root / MANIFEST_FILE}: images: {twice} files are listed twice, expected one file an image")
    first = _read_image(root, names[0], None if size is None else (size[0], size[1]))
    same = (first.shape[0], first.shape[1])
    result = np.empty((len(names), *same, 3), dtype=np.uint8)
    result[0] = first
    with ThreadPoolExecutor(threads()) as pool:
        for index, image in enumerate(pool.map(lambda name: _read_image(root, name, same), names[1:]), 1):
            result[index] = image
    return torch.from_numpy(result)


def _read_image(root: Path, name: str, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    try:
        path = path_inside(root, name, f"{root / MANIFEST_FILE}: images")
        data = read_bytes(path, 4 * max_image_pixels() + (64 << 20))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{root / name}: missing, but {MANIFEST_FILE} lists it; copy the set anew or resume its run"
        ) from None
    return decode_image(data, str(root / name), size)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError if it is missing or damaged."""
    try:
        return read_safetensors(path_inside(path.parent, path.name, MANIFEST_FILE))[1]
    except FileNotFoundError:
        raise ValueError(f"{path}: missing, but {MANIFEST_FILE} needs it; copy the set anew") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); copy the set anew") from error
