"""Errors as people read them: one message that says what to do, no traceback."""

from __future__ import annotations

import re
import sys

from ddfast._cli.parser import closest
from ddfast._printable import printable

_BUILT_IN = (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, ImportError, MemoryError, EOFError)
# by module, of which none is loaded for this: damaged files, and programs and servers that fail
_OTHERS = {
    "pickle": ("PickleError",),
    "zipfile": ("BadZipFile", "LargeZipFile"),
    "zlib": ("error",),
    "lzma": ("LZMAError",),
    "tarfile": ("TarError",),
    "struct": ("error",),
    "safetensors": ("SafetensorError",),
    "PIL.Image": ("DecompressionBombError",),
    "subprocess": ("SubprocessError",),
    "http.client": ("HTTPException",),
}
_ASKED = re.compile(r"got '([^']+)'")
_UNKNOWN = re.compile(r"(?:no|unknown) (?:option|setting) '([^']+)'")
_LISTED = re.compile(r"(?:expected|settings:|options:|built in:)(.*)", re.DOTALL)
_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def user_errors() -> tuple[type[BaseException], ...]:
    """What users' data, settings and machines lead to.

    Others (KeyError, AttributeError ...) are mistakes of the program and show where they happened.
    """
    loaded = ((sys.modules[module], names) for module, names in _OTHERS.items() if module in sys.modules)
    return (*_BUILT_IN, *(getattr(module, name) for module, names in loaded for name in names))


def describe_error(error: BaseException) -> str:
    """The message of an error, with the name that was probably meant, or what helps against a lack of memory."""
    text = _text(error)
    hint = _hint(error, text)
    return printable(text if hint.strip() in text else text + hint)  # a worker's words have theirs


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        places = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{places}: {error.strerror}" if places else error.strerror
    return str(error).strip() or type(error).__name__


def _hint(error: BaseException, text: str) -> str:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(m in text.lower() for m in _MEMORY)):
        return (
            "\nout of memory: what is finished is kept; take fewer at a time (a smaller --batch-size, --batch-images, "
            "--batch-real or --processes, where the command has them), --device cpu, or a larger GPU; go on with "
            "--resume"
        )
    if "did you mean" in text:
        return ""
    asked, listed = _ASKED.search(text) or _UNKNOWN.search(text), _LISTED.search(text)
    if asked is None or listed is None:
        return ""
    near = closest(asked[1], re.findall(r"[\w][\w.:+-]*\w", listed[1]))
    return f"\ndid you mean {near!r}?" if near and near != asked[1] else ""
