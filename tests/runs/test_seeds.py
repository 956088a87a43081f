"""Counter-based random numbers: published vectors, the stated layout, independence of order."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ddfast import _native
from ddfast.runs import seeds

# counter, key, output: known answers published with Random123 (Salmon et al., SC 2011) for philox4x32, 10 rounds
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


PINNED_PERMUTATION = [7, 3, 4, 2, 0, 6, 5, 1]
PINNED_WORDS = [1472236307, 50482450, 2060496381, 484595196]


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """The paper's definition in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    out = seeds.philox4x32(np.array(hexes(counter), np.uint32), np.array(hexes(key), np.uint32))
    assert out.tolist() == hexes(expected)


def test_vectorised_equals_scalar_also_for_strided_input_and_many_keys() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, size=(7, 5, 8), dtype=np.uint32)
    counter = words[..., ::2]
    keys = words[:, :, 1:3]
    out = seeds.philox4x32(counter, keys)
    assert out.dtype == np.uint32
    assert out.shape == (7, 5, 4)
    for i in range(7):
        for j in range(5):
            assert out[i, j].tolist() == scalar_philox(counter[i, j].tolist(), keys[i, j].tolist())


@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 5, 4)])
def test_native_words_are_numpys(shape: tuple[int, ...]) -> None:
    if _native.cpu() is None:
        pytest.skip(_native.why_missing("_cpu"))
    counter = np.random.default_rng(1).integers(0, 2**32, size=(*shape[:-1], 8), dtype=np.uint32)[..., ::2]
    key = np.array([0xFFFFFFFF, 12345], dtype=np.uint64)
    words = seeds.philox4x32(counter, key)
    assert words.dtype == np.uint32
    assert np.array_equal(words, seeds._philox_numpy(counter, key))


def test_layout_is_the_documented_one() -> None:
    digest = hashlib.sha256(b"ddfast.seeds/1|42|s|crops").digest()
    key = [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")]
    assert list(seeds.stream_key(42, "crops")) == key
    words = seeds.counter_words(42, "crops", 3, 17, 2, words=7)
    expected = scalar_philox([3, 17, 2, 0], key) + scalar_philox([3, 17, 2, 1], key)
    assert words.tolist() == expected[:7]
    bits = seeds.counter_bits(42, "crops", 3, 17, 2, count=2)
    assert bits.tolist() == [expected[0] | expected[1] << 32, expected[2] | expected[3] << 32]


def test_values_are_pinned_across_versions() -> None:
    assert seeds.permutation(0, "selection", 5, 8).tolist() == PINNED_PERMUTATION
    assert seeds.counter_words(0, "crops", 1, 2, 3).tolist() == PINNED_WORDS


def test_broadcasting_order_and_prefix() -> None:
    positions = np.array([9, 0, 4])
    slots = np.arange(5)
    block = seeds.counter_words(1, "s", 2, positions[:, None], slots, words=6)
    assert block.shape == (3, 5, 6)
    one = seeds.counter_words(1, "s", 2, 4, 3, words=3)
    assert np.array_equal(block[2, 3, :3], one)
    assert np.array_equal(block[::-1], seeds.counter_words(1, "s", 2, positions[::-1][:, None], slots, words=6))
    assert seeds.counter_words(1, "s", np.zeros((0,), np.int64), words=3).shape == (0, 3)
    assert seeds.counter_words(1, "s", [], words=3).shape == (0, 3)
    assert seeds.counter_words(1, "s", words=0).shape == (0,)
    assert seeds.counter_words(1, "s").shape == (4,)


def test_every_part_of_the_name_changes_the_draw() -> None:
    draws = [
        seeds.counter_words(1, "a", 1, 2, 3),
        seeds.counter_words(2, "a", 1, 2, 3),
        seeds.counter_words(1, "b", 1, 2, 3),
        seeds.counter_words(1, 1, 1, 2, 3),
        seeds.counter_words(1, "1", 1, 2, 3),
        seeds.counter_words(1, "a", 2, 2, 3),
        seeds.counter_words(1, "a", 1, 3, 3),
        seeds.counter_words(1, "a", 1, 2, 4),
        seeds.counter_words(2**70, "a", 1, 2, 3),
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_integers_are_the_exact_floor() -> None:
    bits = seeds.counter_bits(5, "i", np.arange(2000))[:, 0]
    bits[:4] = [0, 2**64 - 1, 2**63, 2**32 - 1]
    n = np.concatenate([np.array([1, 2**32 - 1, 2, 3]), np.arange(1, 1997)])
    out = seeds.integers(bits, n)
    assert out.dtype == np.int64
    assert out.tolist() == [int(b) * int(m) >> 64 for b, m in zip(bits.tolist(), n.tolist(), strict=True)]
    assert seeds.integers(bits[:, None], np.array([4, 5])).shape == (2000, 2)


def test_uniform_is_exact_and_below_one() -> None:
    bits = seeds.counter_bits(5, "u", np.arange(100_000))[:, 0]
    bits[:2] = [0, 2**64 - 1]
    values = seeds.uniform(bits)
    assert values[0] == 0.0
    assert values[1] == 1 - 2.0**-53
    assert values.tolist() == [(b >> 11) / 2**53 for b in bits.tolist()]
    assert abs(values.mean() - 0.5) < 5 * (1 / 12 / 100_000) ** 0.5


def test_distribution_over_keys_is_flat() -> None:
    """Chi-square over 16 bins with 15 degrees of freedom; 1e-6 quantile 58; a fixed seed, so it cannot flake."""
    for axis in range(3):
        keys = [0, 0, 0]
        columns = [np.arange(32_000) if i == axis else key for i, key in enumerate(keys)]
        bins = seeds.integers(seeds.counter_bits(7, "flat", *columns)[:, 0], 16)
        counts = np.bincount(bins, minlength=16)
        assert ((counts - 2000) ** 2 / 2000).sum() < 58


@pytest.mark.parametrize("n", [0, 1, 2, 301])
def test_permutation_is_one_and_stable(n: int) -> None:
    order = seeds.permutation(3, "select", 7, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    words = seeds.counter_bits(3, "select", 7, np.arange(n))[:, 0].tolist()
    assert order.tolist() == sorted(range(n), key=lambda i: (words[i], i))


def test_permutation_of_labels_differ() -> None:
    assert seeds.permutation(3, "select", 0, 50).tolist() != seeds.permutation(3, "select", 1, 50).tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: seeds.counter_words(-1, "a"), ValueError, "seed: got -1"),
        (lambda: seeds.counter_words(1.5, "a"), TypeError, "seed: got 1.5"),  # type: ignore[arg-type]
        (lambda: seeds.counter_words(True, "a"), TypeError, "seed"),
        (lambda: seeds.counter_words(1, None), TypeError, "stream: got None"),  # type: ignore[arg-type]
        (lambda: seeds.counter_words(1, "a", 1, 2, 3, 4), ValueError, "at most 3"),
        (lambda: seeds.counter_words(1, "a", -1), ValueError, r"keys\[0\]: got values -1"),
        (lambda: seeds.counter_words(1, "a", 0, 2**32), ValueError, r"keys\[1\]"),
        (lambda: seeds.counter_words(1, "a", 0.5), TypeError, r"keys\[0\]: got dtype float64"),
        (lambda: seeds.counter_words(1, "a", words=-1), ValueError, "words: got -1"),
        (lambda: seeds.integers(np.zeros(1, np.uint64), 0), ValueError, "n: got values 0"),
        (lambda: seeds.integers(np.zeros(1, np.int64), 3), TypeError, "bits: got dtype int64"),  # type: ignore[arg-type]
        (lambda: seeds.uniform(np.zeros(1, np.uint32)), TypeError, "bits: got dtype uint32"),  # type: ignore[arg-type]
        (lambda: seeds.permutation(1, "a", 0, -1), ValueError, "n: got -1"),
        (lambda: seeds.philox4x32(np.zeros(3, np.uint32), (0, 0)), ValueError, "counter: got shape"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
