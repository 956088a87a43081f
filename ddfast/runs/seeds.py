"""Counter-based random numbers: every draw is a pure function of (seed, stream, keys).

The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3"
(SC 2011), written for whole numpy arrays. It has no state, so a draw depends neither on the order of work nor on the
number of workers.

Layout
    key      [2] uint32   the first 8 bytes of SHA-256 over ``"ddfast.seeds/1|<seed>|<s or i>|<stream>"``,
                          little-endian; ``s`` marks a text stream, ``i`` an integer stream
    counter  [4] uint32   (key 0, key 1, key 2, block), usually (label, position, slot, block); missing keys are 0
    words                 word w of a draw is lane ``w % 4`` of block ``w // 4``; a 64-bit number is two neighbouring
                          words, the first one low

Streams of one seed are independent, so each use of randomness takes a stream name of its own ("crops", "selection").
"""

from __future__ import annotations

import functools
import hashlib
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddfast import _native

MAX_KEYS = 3
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32] | tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32 on each counter.

    Args:
        counter: uint32 [..., 4].
        key: two uint32 numbers, or a uint32 array that broadcasts against [..., 2].

    Returns:
        uint32 [..., 4], for each counter four words that are uniform on [0, 2**32).

    Raises:
        ValueError: the last axis of ``counter`` is not 4 or that of ``key`` is not 2.

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    counter = np.asarray(counter, dtype=np.uint32)
    keys = np.asarray(key, dtype=np.uint64)
    if counter.ndim < 1 or counter.shape[-1] != 4:
        raise ValueError(f"counter: got shape {counter.shape}, expected [..., 4]")
    if keys.ndim < 1 or keys.shape[-1] != 2:
        raise ValueError(f"key: got shape {keys.shape}, expected [..., 2]")
    native = _native.cpu()
    if native is not None and keys.ndim == 1 and (keys <= _LOW).all():
        given, words = np.ascontiguousarray(counter), np.empty(counter.shape, dtype=np.uint32)
        native.philox4x32(given.ctypes.data, given.size // 4, int(keys[0]), int(keys[1]), words.ctypes.data)
        return words
    return _philox_numpy(counter, keys)


def _philox_numpy(counter: NDArray[np.uint32], keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    c0, c1, c2, c3 = (counter[..., lane].astype(np.uint64) for lane in range(4))
    for turn in range(10):
        k0 = (keys[..., 0] + np.uint64(turn * _WEYL[0] & 0xFFFFFFFF)) & _LOW
        k1 = (keys[..., 1] + np.uint64(turn * _WEYL[1] & 0xFFFFFFFF)) & _LOW
        p0 = _MULTIPLIERS[0] * c0
        p1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def stream_key(seed: int, stream: str | int) -> tuple[int, int]:
    """The Philox key of one stream of one seed (see the module's layout).

    Args:
        seed: any non-negative integer.
        stream: name or number of the stream; ``1`` and ``"1"`` are different streams.

    Returns:
        Two integers in [0, 2**32).

    Raises:
        TypeError: ``seed`` is no integer, or ``stream`` neither text nor integer.
        ValueError: ``seed`` is negative.
    """
    number = _as_integer("seed", seed)
    if number < 0:
        raise ValueError(f"seed: got {seed!r}, expected a non-negative integer")
    tag = "s" if isinstance(stream, str) else "i"
    name = stream if isinstance(stream, str) else _as_integer("stream", stream)
    return _key(f"ddfast.seeds/1|{number}|{tag}|{name}")


@functools.lru_cache(maxsize=256)
def _key(text: str) -> tuple[int, int]:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def counter_words(seed: int, stream: str | int, *keys: ArrayLike, words: int = 4) -> NDArray[np.uint32]:
    """Random 32-bit words for each combination of keys.

    Args:
        seed: any non-negative integer.
        stream: name or number of the stream.
        keys: up to three integers or integer arrays, each in [0, 2**32), that broadcast together to a shape ``[...]``;
            by convention (label, position, slot).
        words: how many words each combination gets, at least 0. Asking for more never changes the first ones.

    Returns:
        uint32 [..., words].

    Raises:
        TypeError: a key is not an integer.
        ValueError: more than three keys, a key outside [0, 2**32), keys that do not broadcast, or ``words`` negative.
    """
    count = _as_integer("words", words)
    if count < 0:
        raise ValueError(f"words: got {words!r}, expected at least 0")
    if len(keys) > MAX_KEYS:
        raise ValueError(
            f"keys: got {len(keys)} keys, expected at most {MAX_KEYS}; put the rest into the stream's name"
        )
    columns = np.broadcast_arrays(*(_as_key(index, key) for index, key in enumerate(keys))) if keys else []
    shape = columns[0].shape if keys else ()
    blocks = -(-count // 4)
    counter = np.zeros((*shape, blocks, 4), dtype=np.uint32)
    for lane, column in enumerate(columns):
        counter[..., lane] = column[..., None]
    counter[..., 3] = np.arange(blocks, dtype=np.uint32)
    drawn = philox4x32(counter, stream_key(seed, stream))
    return np.ascontiguousarray(drawn.reshape(*shape, blocks * 4)[..., :count])


def counter_bits(seed: int, stream: str | int, *keys: ArrayLike, count: int = 1) -> NDArray[np.uint64]:
    """Random 64-bit numbers for each combination of keys: ``counter_words`` taken in pairs, the first word low.

    Args:
        seed: any non-negative integer.
        stream: name or number of the stream.
        keys: as in `counter_words`.
        count: how many numbers each combination gets, at least 0.

    Returns:
        uint64 [..., count].

    Raises:
        TypeError, ValueError: as in `counter_words`.
    """
    words = counter_words(seed, stream, *keys, words=2 * _as_integer("count", count)).astype(np.uint64)
    bits: NDArray[np.uint64] = words[..., 0::2] | (words[..., 1::2] << _32)
    return bits


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits: ``(bits >> 11) * 2**-53``.

    Args:
        bits: uint64 of any shape, from `counter_bits`.

    Returns:
        float64 of the same shape.

    Raises:
        TypeError: ``bits`` is not uint64.
    """
    values: NDArray[np.float64] = (_as_bits(bits) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values


def integers(bits: NDArray[np.uint64], n: ArrayLike) -> NDArray[np.int64]:
    """Integers in [0, n): ``floor(bits * n / 2**64)``, computed exactly.

    The multiply-shift maps 2**64 values on n results, so two results differ in probability by at most 2**-64.

    Args:
        bits: uint64 of any shape, from `counter_bits`.
        n: integer or integer array in [1, 2**32) that broadcasts against ``bits``.

    Returns:
        int64 of the broadcast shape.

    Raises:
        TypeError: ``bits`` is not uint64 or ``n`` is no integer.
        ValueError: ``n`` is outside [1, 2**32).
    """
    drawn = _as_bits(bits)
    limit = _as_integers("n", n, low=1).astype(np.uint64)
    high = (drawn >> _32) * limit
    low = ((drawn & _LOW) * limit) >> _32
    values: NDArray[np.int64] = ((high + low) >> _32).astype(np.int64)
    return values


def permutation(seed: int, stream: str | int, label: int, n: int) -> NDArray[np.int64]:
    """A random order of ``n`` positions: the stable argsort of one 64-bit number per position (ties by index).

    Args:
        seed: any non-negative integer.
        stream: name or number of the stream; keep it apart from streams drawn with `counter_bits`.
        label: first key, in [0, 2**32); one permutation per label.
        n: how many positions, in [0, 2**32).

    Returns:
        int64 [n], each of 0 .. n-1 once.

    Raises:
        TypeError: ``n`` or ``label`` is no integer.
        ValueError: ``n`` is negative, or ``label`` outside [0, 2**32).
    """
    total = _as_integer("n", n)
    if total < 0:
        raise ValueError(f"n: got {n!r}, expected at least 0")
    bits = counter_bits(seed, stream, label, np.arange(total, dtype=np.int64))[..., 0]
    return np.argsort(bits, kind="stable").astype(np.int64)


def _as_integer(name: str, value: object) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, expected an integer")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}), expected an integer") from None


def _as_integers(name: str, value: ArrayLike, *, low: int) -> NDArray[Any]:
    array = np.asarray(value)
    if array.size == 0 and array.dtype == np.float64:  # numpy's type of an empty list
        array = array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}, expected integers")
    if array.size and (int(array.min()) < low or int(array.max()) > 0xFFFFFFFF):
        span = f"{int(array.min())} .. {int(array.max())}"
        raise ValueError(f"{name}: got values {span}, expected {low} .. 2**32 - 1")
    return array


def _as_key(index: int, key: ArrayLike) -> NDArray[np.uint32]:
    return _as_integers(f"keys[{index}]", key, low=0).astype(np.uint32)


def _as_bits(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    array = np.asarray(bits)
    if array.dtype != np.uint64:
        raise TypeError(f"bits: got dtype {array.dtype}, expected uint64 (from counter_bits)")
    return array
