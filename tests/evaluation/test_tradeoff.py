"""Accuracy, storage and training cost together: the points, their figure, and what a set's folder adds."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddfast.evaluation import Evaluation, evaluate, validate_report
from ddfast.evaluation.bubbles import LARGE, SMALL, Bubble, bubble_chart, size_scale
from ddfast.evaluation.charts import BOTTOM, HEIGHT, LETTER, WIDTH, flops_text, size_text
from ddfast.evaluation.made import distillation_cost, set_folders, set_pictures
from ddfast.evaluation.tradeoff import drawn
from tests.evaluation.eval_case import SETTINGS, SIDE, saved_set, small_set, source
from tests.evaluation.test_accounting import latent_set


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """A distributional set in a folder with its pictures and timings, beside a set of images."""
    folder = tmp_path_factory.mktemp("tradeoff") / "latents"
    latent_set("fp16").save(folder, format="safetensors")
    (folder / "interpolation.png").write_bytes(png("red"))
    (folder / "samples.png").write_bytes(b"no picture")
    parts = [{"section": "", "part": part, "wall": wall, "cpu": 2 * wall} for part, wall in (("a", 1.5), ("b", 4.5))]
    (folder / "timings.json").write_text(json.dumps({"parts": parts}))
    pictures = saved_set(folder.parent / "pictures")
    changes: dict[str, Any] = {"seeds": 1, "epochs": 1, "curve_points": 1, "full_data": False, "ars": False}
    real = {"val": source(4, 2, "test"), "train": source(20, 1)}
    return folder, evaluate([folder, pictures], **real, **{**SETTINGS, **changes})


def test_points_hold_all_three_values_of_each_row(compared: tuple[Path, Evaluation]) -> None:
    report = compared[1].report
    points = {(p["set"], p["images"], p["labels"]): p for p in report["tradeoff"]}
    assert len(points) == len(report["results"]) >= 6
    for row in report["results"]:
        point = points[row["set"], row["images"], row["labels"]]
        assert point["top1"]["mean"] == row["top1"]["mean"]
        assert point["flops"] == row["cost"]["flops"]["total"] > 0
        assert (point["steps"], point["seconds"]) == (row["cost"]["steps"], row["cost"]["seconds"]["mean"])
        if row["images"] != "distilled":
            assert (point["bytes"], point["label_bytes"]) == (row["bytes"], 0)
        elif row["set"] == "set1":
            assert point["flops"] > row["cost"]["flops"]["student"]  # decoding
    latents = report["sets"][0]["storage"]
    soft = 4 * 6 * 3
    assert points["set1", "distilled", "hard"]["bytes"] == latents["bytes"]["total"] - soft
    own = points["set1", "distilled", "soft"]
    assert (own["bytes"], own["label_bytes"]) == (latents["bytes"]["total"], soft)
    paid = points["set1", "random-bytes", "hard"]
    assert paid["bytes"] <= points["set1", "distilled", "hard"]["bytes"] < paid["bytes"] + 3 * SIDE**2
    assert report["machine"]["name"]


def test_the_figure_leaves_out_equal_images_where_there_are_equal_bytes() -> None:
    kinds = [
        ("a", "distilled"),
        ("a", "random-images"),
        ("a", "random-bytes"),
        ("b", "distilled"),
        ("b", "random-images"),
    ]
    points = [{"set": where, "images": images, "student": "conv3"} for where, images in kinds]
    assert [(p["set"], p["images"]) for p in drawn(points, "conv3")] == [kinds[0], *kinds[2:]]
    assert len(drawn(points[:3], "conv3")) == 3
    assert drawn(points, "conv4") == []


def test_the_page_shows_figure_tables_and_the_method_own_pictures(compared: tuple[Path, Evaluation]) -> None:
    html = compared[1].html
    assert html.count("<svg") == 3 + 2  # curves of both sets, classes, and the pair
    kilobytes = compared[1].report["sets"][0]["storage"]["parts"][0]["bytes"] / 1000
    assert f"latents: latents {kilobytes:.1f} kB, decoders" in compared[1].text()
    for words in ("Accuracy by storage", "Accuracy by training cost", "latents", "IPC by numbers", "b 75%, a 25%"):
        assert words in html
    assert html.count("class='drawn'") == 1
    assert "straight lines in latent space" in html
    assert "the mean of its first prior" not in html  # not a picture, though it is called one


def test_reports_with_wrong_accounts_are_refused(compared: tuple[Path, Evaluation]) -> None:
    text = json.dumps(compared[1].report)
    for change, message in (
        (lambda r: r["tradeoff"][0].pop("bytes"), r"tradeoff\[0\]: bytes: missing"),
        (lambda r: r["tradeoff"][1].update(set="other"), "expected the key of a set"),
        (lambda r: r["tradeoff"][1].update(flops=-1), r"tradeoff\[1\]: flops"),
        (lambda r: r["sets"][0]["storage"]["bytes_at"].pop("int8"), "bytes_at"),
        (lambda r: r["sets"][1]["storage"]["parts"][0].update(numbers=1.5), r"parts\[0\]: numbers"),
        (lambda r: r.pop("tradeoff"), "tradeoff: missing"),
    ):
        report = json.loads(text)
        change(report)
        with pytest.raises(ValueError, match=message):
            validate_report(report)
    older = json.loads(text)
    older["schema_version"] = 1
    del older["tradeoff"], older["sets"][0]["distillation"]
    validate_report(older)


def test_sets_of_other_resolutions_are_not_compared() -> None:
    other = small_set()
    other.images = other.images[:, ::2, ::2].contiguous()
    with pytest.raises(ValueError, match="need the same classes and resolution"):
        evaluate([small_set(), other], source(4, 2), **SETTINGS)


def test_markers_are_where_and_as_large_as_their_values_say() -> None:
    made = [Bubble(10.0**k, 0.1 * k, 10.0 ** (4 - k), 1, label="alike") for k in range(1, 4)]
    made.append(Bubble(10.0, 0.1, 5.0, 2, "square", about="a < b"))
    drawing = bubble_chart(made, "x", "y", title="t", x_text=size_text)
    circles = [tuple(map(float, c)) for c in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawing)]
    assert [c[2] for c in circles] == sorted((c[2] for c in circles), reverse=True)  # small ones on top
    across, down, radii = zip(*sorted(circles), strict=True)
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)  # a logarithmic axis
    assert down[0] - down[1] == pytest.approx(down[1] - down[2], abs=0.2)
    scale = size_scale([b.size for b in made])
    assert radii == tuple(pytest.approx(scale(10.0 ** (4 - k)), abs=0.06) for k in range(1, 4))
    assert scale(1000.0) == pytest.approx(LARGE)
    assert scale(5.0) == pytest.approx(SMALL)
    assert scale(math.sqrt(5000.0)) ** 2 == pytest.approx((LARGE**2 + SMALL**2) / 2)
    assert "a &lt; b" in drawing
    words = [tuple(map(float, w)) for w in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)"', drawing)]
    assert len(words) == 3
    assert all(0 < x < WIDTH - 5 * 6.4 and 0 < y < HEIGHT for x, y in words)
    corners = re.search(r'<polygon class="bubble t2" points="([^"]+)"', drawing)
    assert corners is not None
    (x0, y0), (x1, _), *_ = [tuple(map(float, p.split(","))) for p in corners[1].split()]
    assert abs(x0 - x1) ** 2 == pytest.approx(math.pi * SMALL**2, rel=0.05)  # a circle's area
    assert y0 > down[0]


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    made = [Bubble(100.0 + n, 0.5, 10.0, 1, label=f"set number {n}") for n in range(4)]
    drawing = bubble_chart(made, "x", "y", title="t", x_text=size_text)
    spots = [tuple(map(float, w)) for w in re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)"', drawing)]
    assert len(spots) == 4
    for place, (x, y) in enumerate(spots):
        assert all(abs(x - a) > 70 or abs(y - b) > 11 for a, b in spots[:place])


@pytest.mark.parametrize("high", [3.4e11, 3.4e14, 3.4e17])
def test_words_under_the_axis_are_neither_cut_nor_touch(high: float) -> None:
    drawing = bubble_chart(
        [Bubble(x, 0.5, 1.0, 1) for x in (1e10, high)], "x", "y", title="t", x_text=flops_text
    )  # fmt: skip
    found = re.findall(rf'class="tick" x="([\d.]+)" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">([^<]+)<', drawing)
    ends = [(float(x) - LETTER * len(words) / 2, float(x) + LETTER * len(words) / 2) for x, words in found]
    assert len(ends) > 2
    assert ends[0][0] >= 0
    assert ends[-1][1] <= WIDTH + 0.1
    assert all(one[1] < two[0] for one, two in itertools.pairwise(ends))


def test_what_making_a_set_cost(tmp_path: Path) -> None:
    assert distillation_cost({}, None) is None
    assert distillation_cost({}, tmp_path) is None
    for block, wall in (("0", 2.0), ("1", 3.0)):
        folder = tmp_path / "blocks" / block
        folder.mkdir(parents=True)
        parts = [{"section": "", "part": "experts", "wall": wall, "cpu": 1.0}]
        (folder / "timings.json").write_text(json.dumps({"parts": parts}))
    (tmp_path / "timings.json").write_text("damaged")
    blocks = [{"experts": {"steps": 10, "flops": 2}, "distillation": {"steps": 4}}] * 2
    cost = {"blocks": blocks, "flops": "?"}
    manifest = {"config": {"iterations": 7}, "distribution": {"blocks": [{}, {}]}, "cost": cost}
    assert distillation_cost(manifest, tmp_path) == {
        "iterations": 14, "steps": 28, "flops": None, "machine": None, "seconds": 5.0, "cpu_seconds": 2.0,
        "parts": {"experts": 5.0},
    }  # fmt: skip
    (tmp_path / "timings.json").write_text(json.dumps({"parts": [{"part": "all", "wall": 9.0, "cpu": 0.0}]}))
    found = distillation_cost(manifest, tmp_path)
    assert found is not None
    assert found["parts"] == {"all": 9.0}  # the blocks' are among them
    assert set_folders([small_set(), tmp_path, str(tmp_path)]) == [None, tmp_path, tmp_path]
    assert set_pictures(tmp_path) == {}


def test_operations_for_people() -> None:
    assert [flops_text(n) for n in (12, 3.21e9, 5.1e15, 2e18)] == ["12 FLOP", "3.21 GFLOP", "5.1 PFLOP", "2 EFLOP"]
