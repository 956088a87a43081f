"""Encoded pictures to uint8 RGB, with the pixels that Pillow's ``Image.open(...).convert("RGB")`` gives.

Baseline and progressive JPEGs in grey, YCbCr or RGB go through libjpeg-turbo (simplejpeg: full integer DCT, smooth
chroma upsampling, the GIL released, straight into the caller's memory), which equals Pillow bit for bit.  Everything
else (CMYK, PNG, GIF, WebP, TIFF, palettes, alpha, 16 bits ...) goes through Pillow.  Two deliberate differences from
plain Pillow: 16-bit grey pictures are scaled to 8 bits (Pillow clips them to white), and a JPEG whose pixel data ends
early is an error even where Pillow fills the rest with grey.

EXIF orientation is *not* applied unless asked for, because the usual loader of class folders does not either.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ddfast._env import max_image_pixels
from ddfast.store.codec import PICTURE_FORMATS, PILLOW_ERRORS

_FAST_COLORSPACES = frozenset({"YCbCr", "Gray", "RGB"})
_ORIENTATION_TAG = 0x0112
_MANY_SCANS = 1000
_MUCH_WORK = 1 << 36  # pixels times bytes


class DecodeError(ValueError):
    """A sample is no usable picture; ``sample_id`` names it and ``reason`` says what is wrong."""

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(f"{sample_id}: {reason}")
        self.sample_id = sample_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (self.sample_id, self.reason)


@dataclass(frozen=True)
class DecodeOptions:
    """How pictures are decoded.

    ``apply_exif`` rotates and mirrors by the EXIF orientation (default: no, as torchvision's ImageFolder).
    ``max_pixels`` is the largest height*width accepted, against decompression bombs (default: the environment's
    ``DDFAST_MAX_IMAGE_PIXELS``, else 89,478,485, 256 MiB of RGB).
    """

    apply_exif: bool = False
    max_pixels: int = field(default_factory=max_image_pixels)

    def __post_init__(self) -> None:
        if self.max_pixels < 2:
            raise ValueError(f"max_pixels: got {self.max_pixels!r}, expected at least 2")


DEFAULT_OPTIONS = DecodeOptions()


class Probed(NamedTuple):
    """A sample whose size is known: ``data`` is JPEG bytes for `decode_into`, or the uint8 [H, W, 3] pixels already."""

    height: int
    width: int
    data: bytes | NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return 3 * self.height * self.width


def probe(
    data: bytes | NDArray[np.uint8], sample_id: str = "picture", options: DecodeOptions = DEFAULT_OPTIONS
) -> Probed:
    """Finds the size of a sample without decoding it where possible.

    Args:
        data: an encoded file, or uint8 [H, W, 3] RGB pixels, which pass through.
        sample_id: name for error messages.
        options: see `DecodeOptions`.

    Returns:
        Height, width and what `decode_into` needs.

    Raises:
        DecodeError: empty, not a picture, a single pixel, or larger than ``options.max_pixels``; for files that need
            Pillow also everything that `decode_image` raises.
        TypeError: an array that is not uint8 [H, W, 3].
    """
    if isinstance(data, np.ndarray):
        return _probe_array(data, sample_id, options)
    if not len(data):
        raise DecodeError(sample_id, "the file is empty")
    header = _jpeg_header(data)
    if header is None or header[2] not in _FAST_COLORSPACES or options.apply_exif:
        pixels = decode_with_pillow(data, sample_id, options)
        return Probed(pixels.shape[0], pixels.shape[1], pixels)
    _check_size(header[0], header[1], sample_id, options)
    _check_scans(data, header[0] * header[1], sample_id)
    return Probed(header[0], header[1], data)


def decode_into(probed: Probed, out: NDArray[np.uint8], sample_id: str = "picture") -> None:
    """Writes the pixels of a probed sample into ``out``, uint8 [height*width*3] contiguous.

    Raises:
        DecodeError: the pixel data is broken or ends early.
    """
    if isinstance(probed.data, np.ndarray):
        out[:] = probed.data.reshape(-1)
        return
    try:
        simplejpeg.decode_jpeg(probed.data, "RGB", buffer=out)
    except (ValueError, KeyError) as error:
        _raise_if_premature(error, sample_id)
        # libjpeg only warned (stray bytes between markers, say): the pixels are what Pillow makes of them
        pixels = decode_with_pillow(probed.data, sample_id)
        if pixels.nbytes != out.nbytes:
            raise DecodeError(sample_id, f"broken JPEG header ({error})") from error
        out[:] = pixels.reshape(-1)


def decode_image(
    data: bytes | NDArray[np.uint8], sample_id: str = "picture", options: DecodeOptions = DEFAULT_OPTIONS
) -> NDArray[np.uint8]:
    """Decodes one sample.

    Args:
        data: an encoded file, or uint8 [H, W, 3] RGB pixels, which are returned as they are.
        sample_id: name for error messages.
        options: see `DecodeOptions`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        DecodeError: empty, truncated, not a picture, a single pixel or too large.
        TypeError: an array that is not uint8 [H, W, 3].
    """
    probed = probe(data, sample_id, options)
    if isinstance(probed.data, np.ndarray):
        return probed.data
    out = np.empty(probed.nbytes, dtype=np.uint8)
    decode_into(probed, out, sample_id)
    return out.reshape(probed.height, probed.width, 3)


def decode_with_pillow(
    data: bytes, sample_id: str = "picture", options: DecodeOptions = DEFAULT_OPTIONS
) -> NDArray[np.uint8]:
    """Decodes one encoded file with Pillow alone: first frame, converted to RGB. Same contract as `decode_image`."""
    if not len(data):
        raise DecodeError(sample_id, "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            _check_size(picture.height, picture.width, sample_id, options)
            _check_scans(data, picture.height * picture.width, sample_id)
            pixels = _to_rgb(picture)
            orientation = int(picture.getexif().get(_ORIENTATION_TAG, 1)) if options.apply_exif else 1
    except DecodeError:
        raise
    except PILLOW_ERRORS as error:
        raise DecodeError(sample_id, _pillow_reason(error, data)) from error
    _check_complete(data, sample_id)
    return np.ascontiguousarray(_orient(pixels, orientation))


def _to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith("I"):  # 16-bit grey: keep the upper 8 bits instead of clipping everything to white
        wide = np.clip(np.asarray(picture).astype(np.int64), 0, 0xFFFF)
        return np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))  # which would copy RGB too


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # not a JPEG, or one that only Pillow may know what to do with
        return None
    return height, width, colorspace


def _check_complete(data: bytes, sample_id: str) -> None:
    """Pillow fills the missing part of some broken JPEGs with grey; libjpeg-turbo's strict mode tells."""
    header = _jpeg_header(data)
    if header is None:
        return
    try:
        simplejpeg.decode_jpeg(data, "RGB" if header[2] in _FAST_COLORSPACES else "CMYK")
    except (ValueError, KeyError) as error:
        _raise_if_premature(error, sample_id)


def _raise_if_premature(error: Exception, sample_id: str) -> None:
    if "remature end" in str(error):
        raise DecodeError(sample_id, f"truncated or damaged JPEG ({error})") from error


def _check_scans(data: bytes, pixels: int, sample_id: str) -> None:
    """A progressive JPEG goes over all its pixels once a scan, and a few bytes make a scan."""
    if pixels * len(data) > _MUCH_WORK and data.count(b"\xff\xda") > _MANY_SCANS:
        raise DecodeError(sample_id, f"a JPEG of more than {_MANY_SCANS} scans, which only wastes time")


def _check_size(height: int, width: int, sample_id: str, options: DecodeOptions) -> None:
    if height * width > options.max_pixels:
        raise DecodeError(
            sample_id,
            f"{width} x {height} pixels are more than the limit of {options.max_pixels}; "
            "raise DecodeOptions.max_pixels or DDFAST_MAX_IMAGE_PIXELS if the picture is meant to be that large",
        )
    if height * width < 2:
        raise DecodeError(sample_id, f"a picture of {width} x {height} pixel has nothing to crop")


def _probe_array(data: NDArray[np.uint8], sample_id: str, options: DecodeOptions) -> Probed:
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3:
        raise TypeError(f"{sample_id}: got an array {data.dtype} {data.shape}, expected uint8 [height, width, 3]")
    _check_size(data.shape[0], data.shape[1], sample_id, options)
    return Probed(data.shape[0], data.shape[1], data)


def _pillow_reason(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture ({len(data)} bytes starting with {bytes(data[:8])!r})"
    text = str(error) or type(error).__name__
    return f"truncated picture ({text})" if "truncated" in text.lower() else f"cannot be decoded ({text})"
