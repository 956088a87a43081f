"""What the ops' jobs must move and compute, whoever does them."""

from __future__ import annotations

from collections.abc import Sequence

from ddfast.bench.floor import Work

# Arithmetic of one exponential to float32 accuracy: range reduction, a polynomial of degree five, scaling.
EXP_FLOPS = 14


def crops(
    boxes: Sequence[Sequence[int]], index: Sequence[int], picture_bytes: Sequence[int], side: int, itemsize: int
) -> Work:
    """Antialiased resize of (top, left, height, width) boxes of pictures ``index`` to ``side`` x ``side``, normalised.

    Two passes of a triangle filter, the vertical one first: when shrinking each input value goes into two outputs, when
    enlarging each output takes two inputs, 2 FLOP each. A picture is read once, or its boxes where they are smaller;
    every output is written once.
    """
    inside = [0] * len(picture_bytes)
    flops = 0.0
    for image, (_, _, height, width) in zip(index, boxes, strict=True):
        inside[image] += 3 * height * width
        flops += 3 * 4 * (max(height, side) * width + side * max(width, side))
    read = sum(min(pair) for pair in zip(inside, picture_bytes, strict=True))
    return Work(len(boxes), "crop", float(read + len(boxes) * 3 * side * side * itemsize), flops)


def scores(n: int, m: int, classes: int) -> Work:
    """One read of float32 logits [n, m, C]; maximum, subtraction, exponential and sum for each."""
    return Work(n * m, "crop", 4.0 * n * m * classes + 4.0 * n * m + 20.0 * n, float(EXP_FLOPS + 3) * n * m * classes)


def topk(classes: int, kept: int, samples: int) -> Work:
    """The table (score 4 bytes, key 8) is read and written anew, because the op is pure; each sample is read once."""
    return Work(samples, "sample", 2.0 * 12 * classes * kept + 20.0 * samples)


def planes(images: int, channels: int, side: int, passes: float) -> Work:
    """Feature planes in float32 that are read or written ``passes`` times (pooled ones count a quarter)."""
    return Work(images, "image", bytes=4.0 * images * channels * side * side * passes)


def mmd(classes: int, n: int, m: int, features: int, bandwidths: int, real_term: bool) -> Work:
    """Values and the gradient in x: x and y are read once, the gradient is written once (float32).

    A product of 2 FLOP a feature for each pair of points (by symmetry once), and one for each term of the gradient.
    """
    pairs = n * (n - 1) // 2 + n * m + (m * (m - 1) // 2 if real_term else 0)
    flops = 2.0 * features * (pairs + n * (n + m)) + float(EXP_FLOPS + 4) * bandwidths * pairs
    return Work(classes, "class", 4.0 * classes * (2 * n + m) * features, classes * flops)
