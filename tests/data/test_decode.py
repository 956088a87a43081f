"""decode: Pillow's pixels, and a named error for everything that is no picture."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from ddfast.data.decode import (
    DecodeError,
    DecodeOptions,
    decode_image,
    decode_into,
    decode_with_pillow,
    probe,
)
from tests.data.data_helpers import encode, picture


def pillow_rgb(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def plain_files() -> dict[str, bytes]:
    image = picture(37, 53)
    grey = image.convert("L")
    second = picture(37, 53, seed=1)
    return {
        "baseline": encode(image, quality=90),
        "odd 4:2:0": encode(picture(17, 31), quality=75, subsampling=2),
        "4:2:2": encode(image, subsampling=1),
        "4:4:4": encode(image, subsampling=0),
        "progressive": encode(image, progressive=True, quality=80),
        "optimised": encode(image, optimize=True, quality=100),
        "restart markers": encode(image, restart_marker_blocks=2),
        "grey jpeg": encode(grey),
        "rgb jpeg": encode(image, keep_rgb=True),
        "cmyk jpeg": encode(image.convert("CMYK")),
        "multi-picture": encode(image, "MPO", save_all=True, append_images=[second]),
        "png": encode(image, "PNG"),
        "png grey": encode(grey, "PNG"),
        "png 1 bit": encode(image.convert("1"), "PNG"),
        "png palette": encode(image.convert("P"), "PNG"),
        "png palette with transparency": encode(image.quantize(16), "PNG", transparency=3),
        "png grey alpha": encode(image.convert("LA"), "PNG"),
        "png alpha": encode(image.convert("RGBA"), "PNG"),
        "gif": encode(image.convert("P"), "GIF"),
        "gif animated": encode(image.convert("P"), "GIF", save_all=True, append_images=[second.convert("P")]),
        "webp": encode(image, "WEBP", quality=80),
        "webp lossless alpha": encode(image.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": encode(image, "WEBP", save_all=True, append_images=[second]),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff float": encode(grey.convert("F"), "TIFF"),
        "ppm": encode(image, "PPM"),
        "trailing zeros": encode(image) + bytes(3000),
        "trailing junk": encode(image) + b"junk" * 100,
        "1 pixel wide": encode(picture(20, 1)),
    }


@pytest.mark.parametrize("kind", sorted(plain_files()))
def test_pixels_equal_pillow(kind: str) -> None:
    data = plain_files()[kind]
    np.testing.assert_array_equal(decode_image(data, kind), pillow_rgb(data))
    np.testing.assert_array_equal(decode_with_pillow(data, kind), pillow_rgb(data))


@pytest.mark.data
def test_pixels_equal_pillow_on_every_shared_photo(shared_data) -> None:
    files = sorted((shared_data / "imagenet20").glob("*/*/*.JPEG"))[::2]
    assert len(files) == 1600
    wrong = []
    for file in files:
        data = file.read_bytes()
        probed = probe(data, file.name)
        assert isinstance(probed.data, bytes), f"{file.name} does not take the fast path"
        out = np.full(probed.nbytes, 255, dtype=np.uint8)
        decode_into(probed, out, file.name)
        if not np.array_equal(out.reshape(probed.height, probed.width, 3), pillow_rgb(data)):
            wrong.append(file.name)
    assert not wrong


def test_adobe_ycck_jpeg() -> None:
    cmyk = encode(picture(24, 24).convert("CMYK"), quality=95)
    marker = b"\xff\xee\x00\x0eAdobe"
    at = cmyk.index(marker) + len(marker) + 6  # version and two flag words come before the transform byte
    assert cmyk[at] == 0
    ycck = cmyk[:at] + b"\x02" + cmyk[at + 1 :]
    np.testing.assert_array_equal(decode_image(ycck), pillow_rgb(ycck))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    wide = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        pixels = decode_image(encode(Image.fromarray(wide), kind))
        np.testing.assert_array_equal(pixels, np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_arrays_pass_through_and_are_checked() -> None:
    array = np.asarray(picture(9, 11))
    assert decode_image(array) is array
    out = np.zeros(array.nbytes, dtype=np.uint8)
    decode_into(probe(array[:, ::-1]), out)
    np.testing.assert_array_equal(out.reshape(array.shape), array[:, ::-1])
    for wrong in (array.astype(np.float32), array[..., 0], array[..., :2]):
        with pytest.raises(TypeError, match=r"thing: got an array .* expected uint8"):
            decode_image(wrong, "thing")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_only_on_request(orientation: int) -> None:
    image = picture(16, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {})):
        data = encode(image, kind, exif=exif, **options)
        plain = pillow_rgb(data)
        np.testing.assert_array_equal(decode_image(data), plain)
        turned = decode_image(data, options=DecodeOptions(apply_exif=True))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        np.testing.assert_array_equal(turned, expected)


def truncated_files() -> dict[str, bytes]:
    image = picture(48, 64)
    jpeg, progressive = encode(image, quality=90), encode(image, quality=90, progressive=True)
    cmyk = encode(image.convert("CMYK"))
    others = {k: encode(image, k) for k in ("PNG", "WEBP", "BMP", "TIFF", "PPM")}
    others["GIF"] = encode(image.convert("P"), "GIF")
    files = {f"jpeg without its last {cut}": jpeg[:-cut] for cut in (1, 2, 3, 10, 200)}
    files |= {f"jpeg first {cut}": jpeg[:cut] for cut in (1, 2, 20, 300, len(jpeg) // 2)}
    files |= {"progressive half": progressive[: len(progressive) // 2], "progressive end": progressive[:-100]}
    files |= {"cmyk half": cmyk[: len(cmyk) // 2], "cmyk end": cmyk[:-2]}
    files |= {f"{k} half": data[: len(data) // 2] for k, data in others.items()}
    half = len(jpeg) // 2
    files |= {"jpeg half with an end marker": jpeg[:half] + b"\xff\xd9"}
    files |= {"cmyk half with an end marker": cmyk[: len(cmyk) // 2] + b"\xff\xd9"}
    files |= {"jpeg end marker in the middle": jpeg[:half] + b"\xff\xd9" * 8 + jpeg[half + 16 :]}
    files |= {"jpeg padded with zeros": jpeg[:half] + bytes(half)}
    return files


@pytest.mark.parametrize("kind", sorted(truncated_files()))
def test_truncated_files_are_errors(kind: str) -> None:
    data = truncated_files()[kind]
    for decode in (decode_image, decode_with_pillow):
        with pytest.raises(DecodeError, match=r"^cat/7\.jpg: ") as caught:
            decode(data, "cat/7.jpg")
        assert caught.value.sample_id == "cat/7.jpg"
        assert caught.value.reason


def test_truncated_jpeg_is_an_error_even_when_pillow_was_told_to_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(picture(48, 64))[:-200]
    for decode in (decode_image, decode_with_pillow):
        with pytest.raises(DecodeError, match="truncated"):
            decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404 not found</html>", "not a picture"),
        (bytes(100), "not a picture"),
        (b"\xff\xd8\xff\xd9", "picture|decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "decoded|not a picture"),
    ],
)
def test_files_that_are_no_pictures(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_image(data)


def test_random_bytes_after_a_jpeg_header_never_raise_anything_else() -> None:
    head = encode(picture(32, 32))[:400]
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(head + rng.bytes(int(rng.integers(0, 400))))
        for at in rng.integers(2, len(data), 4):
            data[at] = int(rng.integers(0, 256))
        with contextlib.suppress(DecodeError):
            assert decode_image(bytes(data)).dtype == np.uint8


def test_single_pixel_is_an_error() -> None:
    with pytest.raises(DecodeError, match="1 x 1"):
        decode_image(encode(Image.new("RGB", (1, 1))))
    with pytest.raises(DecodeError, match="1 x 1"):
        decode_image(np.zeros((1, 1, 3), dtype=np.uint8))


def png_header(height: int, width: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs() -> None:
    for side in (10_000, 60_000):
        with pytest.raises(DecodeError, match=r"limit|decoded"):
            decode_image(png_header(side, side))
    jpeg = bytearray(encode(picture(16, 16)))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(DecodeError, match="more than the limit"):
        decode_image(bytes(jpeg))
    small = encode(picture(20, 30))
    assert decode_image(small, options=DecodeOptions(max_pixels=600)).shape == (20, 30, 3)
    with pytest.raises(DecodeError, match=r"30 x 20 pixels are more than the limit of 599"):
        decode_image(small, options=DecodeOptions(max_pixels=599))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="max_pixels: got 0"):
        DecodeOptions(max_pixels=0)


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("a/1", "broken")))
    assert (error.sample_id, error.reason, str(error)) == ("a/1", "broken", "a/1: broken")
