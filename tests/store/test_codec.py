"""Image files: byte-identical to Pillow's defaults, lossless PNG, refusals."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddfast.store import ImageFormat, decode_image, encode_jpeg, encode_png


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, odd sides."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([4 * y, 3 * x, 2 * (x + y)], axis=-1) % 256
    return (0.8 * base + rng.integers(0, 50, base.shape)).astype(np.uint8)


def pillow_default(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (37, 53), (1, 1), (8, 17)])
def test_default_jpeg_is_byte_identical_to_pillow(height: int, width: int) -> None:
    array = picture(height, width)
    assert encode_jpeg(array) == pillow_default(array)
    wide = picture(height, 2 * width)
    assert encode_jpeg(wide[:, ::2]) == pillow_default(np.ascontiguousarray(wide[:, ::2]))


@pytest.mark.data
def test_default_jpeg_of_real_pictures(shared_data: Path) -> None:
    files = sorted((shared_data / "imagenet20/val").rglob("*.JPEG"))[::97]
    assert files
    for file in files:
        array = decode_image(file.read_bytes())
        assert encode_jpeg(array) == pillow_default(array)


def frame_sampling(data: bytes) -> list[int]:
    """Sampling factors of the components, from the start-of-frame segment; only baseline frames are found."""
    at = 2
    while data[at + 1] != 0xC0:
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return [data[at + 11 + 3 * component] for component in range(3)]


@pytest.mark.parametrize(("subsampling", "factors"), [("4:4:4", 0x11), ("4:2:2", 0x21), ("4:2:0", 0x22)])
def test_quality_and_subsampling_reach_the_encoder(subsampling: str, factors: int) -> None:
    array = picture()
    low, high = encode_jpeg(array, 20, subsampling), encode_jpeg(array, 95, subsampling)
    assert frame_sampling(low) == [factors, 0x11, 0x11]
    error = [np.abs(decode_image(data).astype(int) - array).mean() for data in (low, high)]
    assert len(low) < len(high)
    assert error[1] < error[0]


def test_png_is_lossless() -> None:
    array = picture()
    assert np.array_equal(decode_image(encode_png(array)), array)
    assert ImageFormat("png").encode(array) == encode_png(array)


def test_decode_converts_to_rgb() -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        buffer = io.BytesIO()
        Image.fromarray(picture()).convert(mode).save(buffer, format="TIFF")
        decoded = decode_image(buffer.getvalue())
        assert decoded.shape == (37, 53, 3)
        assert decoded.dtype == np.uint8


@pytest.mark.parametrize("data", [b"", b"not an image", encode_jpeg(picture())[:200], encode_png(picture())[:100]])
def test_unreadable_files_are_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cat\.jpg: not a readable image"):
        decode_image(data, "cat.jpg")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "float32, expected a numpy array of uint8"),
        (np.zeros((4, 4), np.uint8), ValueError, r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, "shape"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
        ([[1]], TypeError, "list"),
    ],
)
def test_bad_images(image: object, error: type[Exception], message: str) -> None:
    for encode in (encode_jpeg, encode_png):
        with pytest.raises(error, match=message):
            encode(image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quality": 0}, ValueError, "quality: got 0"),
        ({"quality": 96}, ValueError, "lossless PNG"),
        ({"quality": 75.5}, TypeError, "quality: got 75.5"),
        ({"subsampling": "4:1:1"}, ValueError, "subsampling: got '4:1:1'"),
        ({"kind": "gif"}, ValueError, "kind: got 'gif'"),
    ],
)
def test_bad_formats(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageFormat(**options)  # type: ignore[arg-type]


def test_format_json_round_trip() -> None:
    for options in (ImageFormat(), ImageFormat("jpeg", 90, "4:4:4"), ImageFormat("png")):
        assert ImageFormat.from_json(options.as_json()) == options
