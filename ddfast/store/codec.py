"""Image files of a distilled set: JPEG exactly as the reference writes it, or lossless PNG."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (  # noqa: F401 (a plug-in is known to Pillow once it is imported)
    Image,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ddfast._env import max_image_pixels

# of all formats that Pillow knows: for EPS, say, it would start another program
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# what Pillow makes of damaged files; the warning is an error where the user turned warnings into errors
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError,
    AssertionError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
SUFFIXES = {"jpeg": ".jpg", "png": ".png"}


class ImageSizeError(ValueError):
    """A picture is larger than allowed, or of another size than the rest of its set."""


@dataclass(frozen=True)
class ImageFormat:
    """How images are written: ``kind`` "jpeg" or "png"; ``quality`` 1..95 and ``subsampling`` hold for JPEG only.

    The default, quality 75 with 4:2:0, is what Pillow does when it is told nothing, and so what RDED's code writes.
    """

    kind: str = "jpeg"
    quality: int = 75
    subsampling: str = "4:2:0"

    def __post_init__(self) -> None:
        if self.kind not in SUFFIXES:
            raise ValueError(f"kind: got {self.kind!r}, expected 'jpeg' or 'png'")
        if not isinstance(self.quality, int) or isinstance(self.quality, bool):
            raise TypeError(f"quality: got {self.quality!r}, expected an integer from 1 to 95")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality: got {self.quality}, expected 1 to 95 (use lossless PNG for more)")
        if self.subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling: got {self.subsampling!r}, expected one of {', '.join(SUBSAMPLINGS)}")

    @property
    def suffix(self) -> str:
        """``.jpg`` or ``.png``."""
        return SUFFIXES[self.kind]

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The file for one image, uint8 [H, W, 3] RGB."""
        if self.kind == "png":
            return encode_png(image)
        return encode_jpeg(image, self.quality, self.subsampling)

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        if self.kind == "png":
            return {"kind": "png"}
        return {"kind": "jpeg", "quality": self.quality, "subsampling": self.subsampling}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageFormat:
        """From a manifest's ``storage.image_format``."""
        return cls(value["kind"], value.get("quality", 75), value.get("subsampling", "4:2:0"))


def encode_jpeg(image: NDArray[np.uint8], quality: int = 75, subsampling: str = "4:2:0") -> bytes:
    """One image as a baseline JPEG file.

    With the defaults the bytes are those of ``PIL.Image.fromarray(image).save(file, format="JPEG")``.

    Args:
        image: uint8 [H, W, 3] RGB.
        quality: 1..95, libjpeg's scale.
        subsampling: chroma subsampling, "4:4:4", "4:2:2" or "4:2:0".

    Raises:
        TypeError, ValueError: ``image`` has another dtype or shape, or an option is out of range.
    """
    options = ImageFormat("jpeg", quality, subsampling)
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="JPEG", quality=options.quality, subsampling=options.subsampling)
    return buffer.getvalue()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """One image, uint8 [H, W, 3] RGB, as a PNG file; lossless.

    Raises:
        TypeError, ValueError: ``image`` has another dtype or shape.
    """
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def decode_image(data: bytes, name: str = "image", size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3] RGB. Its header is looked at before it is decoded.

    Args:
        data: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM.
        name: for the message if it cannot be read.
        size: (height, width) that it must have; None for any within ``DDFAST_MAX_IMAGE_PIXELS``.

    Raises:
        ValueError: not a readable image, of another size, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            _check_size(picture.height, picture.width, name, size)
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except ImageSizeError:
        raise
    except PILLOW_ERRORS as error:
        raise ValueError(f"{name}: not a readable image file ({error})") from error


def _check_size(height: int, width: int, name: str, size: tuple[int, int] | None) -> None:
    if size is not None and (height, width) != size:
        raise ImageSizeError(
            f"{name}: got {height} x {width} pixels, expected {size[0]} x {size[1]} like the rest of the set"
        )
    if height * width > max_image_pixels():
        raise ImageSizeError(
            f"{name}: {height} x {width} pixels are more than the limit of {max_image_pixels()}; raise "
            "DDFAST_MAX_IMAGE_PIXELS if the picture is meant to be that large"
        )


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image: got {getattr(image, 'dtype', type(image).__name__)}, expected a numpy array of uint8")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: got shape {image.shape}, expected [height, width, 3]")
    return Image.fromarray(np.ascontiguousarray(image))
