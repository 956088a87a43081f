"""Contact sheet: what is where, limits for large sets, odd names."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddfast.store import DistilledSet, contact_sheet, contact_sheet_png


def coloured(classes: int, per_class: int, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i of class c is one flat colour, (c + 1, i + 1, 99)."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = torch.full((classes * per_class, side, side, 3), 99, dtype=torch.uint8)
    images[..., 0] = (labels + 1)[:, None, None]
    images[..., 1] = (torch.arange(per_class).repeat(classes) + 1)[:, None, None]
    return images, labels


def colours(sheet: Image.Image) -> list[tuple[int, int]]:
    """(class, image) of the pictures on a sheet, row by row."""
    pixels = np.asarray(sheet).reshape(-1, 3)
    seen = pixels[(pixels[:, 2] == 99) & (pixels[:, 0] != 99)]  # letters are grey
    order = dict.fromkeys((int(r), int(g)) for r, g, _ in seen)
    return list(order)


def test_rows_are_classes_and_columns_images() -> None:
    images, labels = coloured(3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    sheet = contact_sheet(images, labels, ["a", "b", "c"], caption="three", thumbnail=16)
    assert sheet.mode == "RGB"
    assert colours(sheet) == [(c, i) for c in (1, 2, 3) for i in (1, 2, 3, 4)]
    shuffled = contact_sheet(images[order], labels[order], ["a", "b", "c"], thumbnail=16)
    assert {c for c, _ in colours(shuffled)} == {1, 2, 3}


def test_large_sets_are_sampled() -> None:
    images, labels = coloured(100, 3, side=8)
    sheet = contact_sheet(images, labels, [str(c) for c in range(100)], max_classes=5, max_images=2, thumbnail=8)
    assert colours(sheet) == [(c + 1, i) for c in (0, 20, 40, 60, 80) for i in (1, 2)]
    assert sheet.height < 150


def test_stages_are_marked_and_all_shown() -> None:
    images, labels = coloured(2, 12)
    stages = [image // 4 for image in range(12)] * 2
    plain = contact_sheet(images, labels, ["a", "b"], max_images=6, thumbnail=48)
    sheet = contact_sheet(images, labels, ["a", "b"], max_images=6, thumbnail=48, stages=stages)
    assert colours(plain) == [(c, i) for c in (1, 2) for i in range(1, 7)]
    assert colours(sheet) == [(c, i) for c in (1, 2) for i in (1, 3, 5, 7, 9, 11)]
    assert sheet.width == plain.width + 2 * 12  # before the second and the third stage
    assert sheet.height > plain.height
    one = contact_sheet(images, labels, ["a", "b"], max_images=6, thumbnail=48, stages=[0] * 24)
    assert one.size == plain.size
    uneven = contact_sheet(images, labels, ["a", "b"], max_images=6, thumbnail=48, stages=[0] * 13 + [1] * 11)
    assert uneven.size == plain.size
    made = DistilledSet(images, labels, ("a", "b"), {"stages": stages})
    other = DistilledSet(images, labels, ("a", "b"), {"stages": stages[:3]})  # of another set: left alone
    marked, unmarked = (Image.open(io.BytesIO(contact_sheet_png(each, caption=""))) for each in (made, other))
    assert marked.height > unmarked.height


def test_thousand_classes_stay_small() -> None:
    images = torch.zeros(1000, 32, 32, 3, dtype=torch.uint8)
    data = contact_sheet_png(DistilledSet(images, torch.arange(1000), tuple(map(str, range(1000)))))
    with Image.open(io.BytesIO(data)) as sheet:
        assert sheet.format == "PNG"
        assert max(sheet.size) < 3000


def test_empty_classes_are_left_out_and_an_empty_set_is_drawn() -> None:
    images, labels = coloured(3, 1)
    sheet = contact_sheet(images[1:2], labels[1:2], ["a", "b", "c"], thumbnail=16)
    assert colours(sheet) == [(2, 1)]
    nothing = DistilledSet(torch.zeros(0, 4, 4, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), ())
    assert contact_sheet_png(nothing)[:4] == b"\x89PNG"


def test_odd_names_and_shapes() -> None:
    images = torch.tensor([10, 200, 30], dtype=torch.uint8).expand(2, 10, 40, 3)
    names = ["line\nbreak\x00 " * 20, "犬 ü"]
    sheet = contact_sheet(images, torch.tensor([0, 1]), names, caption="x" * 50, thumbnail=20)
    assert sheet.width < 600
    pixels = np.asarray(sheet)
    assert (pixels == (10, 200, 30)).all(axis=-1).sum() == 2 * 20 * 5


def test_manifest_without_source_gives_a_caption() -> None:
    images, labels = coloured(2, 1, side=32)
    plain = contact_sheet_png(DistilledSet(images, labels, ("a", "b")))
    named = contact_sheet_png(DistilledSet(images, labels, ("a", "b"), {"method": "rded", "source": {"name": "demo"}}))
    assert plain != named


def test_bad_limits() -> None:
    images, labels = coloured(1, 1)
    for options in ({"max_classes": 0}, {"max_images": 0}, {"thumbnail": 4}):
        with pytest.raises(ValueError, match="expected at least 1, 1 and 8"):
            contact_sheet(images, labels, ["a"], **options)
