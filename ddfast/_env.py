"""Every environment variable ddfast reads at run time, in one place.

=========================== ===================================================================================
``DDFAST_BACKEND``          op backend for the whole process: ``reference``, ``cpp``, ``triton`` or ``cuda`` (default:
                            best)
``DDFAST_MALLOC``           ``0`` leaves glibc's malloc thresholds alone (default: raised when the native module loads)
``DDFAST_ISA``              ``v3`` or ``v4``: instruction set of native kernels (default: the best the processor has)
``DDFAST_NATIVE``           ``0`` ignores the native modules, as if they had not been built
``DDFAST_MAX_IMAGE_PIXELS`` largest height * width of a picture that is decoded (default: 89478485 as Pillow,
                            256 MiB of RGB; Pillow's own limit, twice that, stays as it is)
``DDFAST_DEBUG``            ``1`` shows the traceback of an error on the command line, as ``--traceback`` does
=========================== ===================================================================================

``NO_COLOR`` and ``FORCE_COLOR`` are heeded as everywhere: the command line colours the word error on terminals.
"""

from __future__ import annotations

import os


def backend() -> str | None:
    value = os.environ.get("DDFAST_BACKEND", "").strip()
    if value and value not in {"reference", "cpp", "triton", "cuda"}:
        raise ValueError(f"DDFAST_BACKEND={value!r}: expected reference, cpp, triton or cuda")
    return value or None


def debug() -> bool:
    return os.environ.get("DDFAST_DEBUG", "0") not in ("", "0")


def tune_malloc() -> bool:
    return os.environ.get("DDFAST_MALLOC", "1") != "0"


def isa() -> str | None:
    return os.environ.get("DDFAST_ISA") or None


def native() -> bool:
    return os.environ.get("DDFAST_NATIVE", "1") != "0"


def max_image_pixels() -> int:
    """Limit of height * width, against decompression bombs.

    Raises:
        ValueError: the variable is no whole number from 2.
    """
    text = os.environ.get("DDFAST_MAX_IMAGE_PIXELS", "").strip()
    if not text:
        return 89_478_485
    if not text.isascii() or not text.isdecimal() or len(text) > 15 or int(text) < 2:
        raise ValueError(f"DDFAST_MAX_IMAGE_PIXELS={text!r}: expected a whole number of pixels from 2")
    return int(text)
