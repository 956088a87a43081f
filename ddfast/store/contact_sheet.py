"""Contact sheet: one PNG that shows a distilled set at a glance, a row per class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddfast._printable import printable

if TYPE_CHECKING:
    from ddfast.store.distilled import DistilledSet

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (120, 120, 120)
_MARGIN, _GAP, _NAME_GAP, _STAGE_GAP = 16, 4, 12, 12
_NAME_SIZE, _CAPTION_SIZE, _NOTE_SIZE = 14, 18, 12
_MAX_NAME_WIDTH = 180

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def contact_sheet(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    caption: str = "",
    max_classes: int = 20,
    max_images: int = 10,
    thumbnail: int = 96,
    stages: Sequence[int] | None = None,
) -> Image.Image:
    """Draw a contact sheet: rows are classes with their names at the left, columns are images.

    Of more than ``max_classes`` classes, ``max_classes`` evenly spaced ones are shown, and a line says so.

    Args:
        images: uint8 [N, H, W, 3] RGB.
        labels: int64 [N].
        class_names: the index is the label.
        caption: heading; none if empty.
        max_classes, max_images: the largest number of rows and columns, at least 1.
        thumbnail: side of a picture on the sheet in pixels, at least 8; pictures keep their aspect inside it.
        stages: of each image, from 0, ascending within a class: a wider gap and a heading mark where one begins, and of
            more than ``max_images`` images evenly spaced ones are shown.

    Returns:
        An RGB picture.

    Raises:
        ValueError: a limit is too small.
    """
    if min(max_classes, max_images) < 1 or thumbnail < 8:
        given = f"max_classes {max_classes}, max_images {max_images}, thumbnail {thumbnail}"
        raise ValueError(f"got {given}, expected at least 1, 1 and 8")
    by_class = _by_class(labels, len(class_names))
    shown = _spread([label for label, members in enumerate(by_class) if members], max_classes)
    rows = [by_class[label][:max_images] if stages is None else _spread(by_class[label], max_images) for label in shown]
    begins = {} if stages is None else _begins([[stages[index] for index in row] for row in rows])
    names = _fit_names([class_names[label] for label in shown])
    note = _note(by_class, shown, max_images)
    left = _MARGIN + max((_width(name, _NAME_SIZE) for name in names), default=0) + _NAME_GAP
    top = _MARGIN + (_CAPTION_SIZE + 8 if caption else 0) + (_NOTE_SIZE + 12 if note else 0)
    top += _NOTE_SIZE + 8 if begins else 0
    step = thumbnail + _GAP
    columns = max((len(row) for row in rows), default=0)
    places = [left + column * step + _STAGE_GAP * sum(0 < at <= column for at in begins) for column in range(columns)]
    right = places[-1] + thumbnail if places else left - _GAP
    headings = max(_width(caption, _CAPTION_SIZE), _width(note, _NOTE_SIZE)) + 2 * _MARGIN
    size = (max(right + _MARGIN, headings), top + max(len(rows) * step - _GAP, 0) + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_headings(draw, caption, note)
    for column, stage in begins.items():
        whole = f"stage {stage + 1}"
        text = whole if _width(whole, _NOTE_SIZE) <= thumbnail else str(stage + 1)
        draw.text((places[column], top - _NOTE_SIZE - 6), text, fill=_FAINT, font=_font(_NOTE_SIZE))
    for row, (name, members) in enumerate(zip(names, rows, strict=True)):
        y = top + row * step
        middle = (left - _NAME_GAP - _width(name, _NAME_SIZE), y + (thumbnail - _NAME_SIZE) // 2 - 1)
        draw.text(middle, name, fill=_INK, font=_font(_NAME_SIZE))
        for column, index in enumerate(members):
            _paste(sheet, images[index].cpu().numpy(), places[column], y, thumbnail)
    return sheet


def contact_sheet_png(distilled: DistilledSet, *, caption: str | None = None, max_classes: int = 20) -> bytes:
    """The contact sheet of a set as the bytes of a PNG file.

    Args:
        distilled: the set.
        caption: heading; None for one made of method, source and size.
        max_classes: the largest number of rows.
    """
    heading = _default_caption(distilled) if caption is None else caption
    stages = distilled.manifest.get("stages")
    # tiny images are enlarged by a whole factor, larger ones shrunk
    side = max(distilled.images.shape[1:3], default=0) or 1
    thumbnail = side * max(1, 64 // side) if side <= 96 else 96
    sheet = contact_sheet(
        distilled.images,
        distilled.labels,
        distilled.class_names,
        caption=heading,
        max_classes=max_classes,
        thumbnail=max(8, thumbnail),
        stages=stages if stages is not None and len(stages) == len(distilled.images) else None,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _default_caption(distilled: DistilledSet) -> str:
    manifest = distilled.manifest
    source = (manifest.get("source") or {}).get("name")
    height, width = distilled.images.shape[1:3]
    parts = [
        manifest.get("method"),
        source,
        f"{len(distilled.class_names)} classes",
        f"{distilled.ipc} {'image' if distilled.ipc == 1 else 'images'} per class",
    ]
    return printable(", ".join(str(part) for part in [*parts, f"{height} x {width}"] if part), lines=False)


def _by_class(labels: Tensor, classes: int) -> list[list[int]]:
    members: list[list[int]] = [[] for _ in range(classes)]
    for index, label in enumerate(labels.tolist()):
        members[label].append(index)
    return members


def _spread(labels: list[int], limit: int) -> list[int]:
    if len(labels) <= limit:
        return labels
    return [labels[place * len(labels) // limit] for place in range(limit)]


def _begins(rows: list[list[int]]) -> dict[int, int]:
    """Columns at which a stage begins, with the stage; none where the rows differ in it or there is but one."""
    if not rows or any(row != rows[0] for row in rows) or len(set(rows[0])) < 2:
        return {}
    return {column: stage for column, stage in enumerate(rows[0]) if not column or stage != rows[0][column - 1]}


def _note(by_class: list[list[int]], shown: list[int], max_images: int) -> str:
    present = sum(1 for members in by_class if members)
    parts = []
    if len(shown) < present:
        parts.append(f"{len(shown)} of {present} classes")
    most = max((len(members) for members in by_class), default=0)
    if most > max_images:
        parts.append(f"{max_images} of {most} images per class")
    return f"shown: {', '.join(parts)}" if parts else ""


def _draw_headings(draw: ImageDraw.ImageDraw, caption: str, note: str) -> None:
    y = _MARGIN
    if caption:
        draw.text((_MARGIN, y), printable(caption, lines=False), fill=_INK, font=_font(_CAPTION_SIZE))
        y += _CAPTION_SIZE + 8
    if note:
        draw.text((_MARGIN, y), note, fill=_FAINT, font=_font(_NOTE_SIZE))


def _paste(sheet: Image.Image, pixels: np.ndarray, x: int, y: int, side: int) -> None:
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    sheet.paste(picture, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))


def _fit_names(names: Sequence[str]) -> list[str]:
    return [_shorten(printable(name, lines=False), _NAME_SIZE, _MAX_NAME_WIDTH) for name in names]


def _shorten(text: str, size: int, limit: int) -> str:
    if _width(text, size) <= limit:
        return text
    while text and _width(text + "...", size) > limit:
        text = text[:-1]
    return text.rstrip() + "..."


def _width(text: str, size: int) -> int:
    return int(_font(size).getlength(text) + 0.999) if text else 0


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)
