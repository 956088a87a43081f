"""``report.html``: one page without external files or scripts, readable in light and dark and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ddfast.evaluation import account_page, figures, tables, tradeoff_page
from ddfast.evaluation.results import find_row, own_labels
from ddfast.store import DistilledSet

Report = Mapping[str, Any]


def render(report: Report, sets: Sequence[DistilledSet], pictures: Sequence[Mapping[str, bytes]] = ()) -> str:
    """The page of a valid report.

    Args:
        report: see `ddfast.evaluation.schema`.
        sets: the distilled sets, for their contact sheets.
        pictures: PNG files that their methods drew, by name (see `ddfast.evaluation.made.set_pictures`); none if empty.
    """
    heading = title(report)
    body = "".join(
        [
            f"<h1>{escape(heading)}</h1><p class='lead'>{escape(lead(report))}</p>",
            _tiles(report),
            section("The distilled images", _sheets(report, sets, pictures)),
            section("Accuracy", tables.accuracy(report)),
            section("Stage by stage", tables.stages(report)),
            section("Accuracy while training", _curves(report)),
            section("Accuracy, storage and training cost", _tradeoff(report)),
            section("Per class", figures.per_class(report)),
            section("Across architectures", tables.cross_architecture(report)),
            section("Robust scores", tables.scores(report)),
            section("Storage", account_page.storage(report) + account_page.distillation(report)),
            section("How it was made", tables.recipe(report)),
            _notes(report),
        ]
    )
    return document(heading, body)


def document(heading: str, body: str, spread_over: str = "students") -> str:
    """A whole page of the HTML ``body``; ``spread_over``: what the deviations of its figures are over."""
    style = files("ddfast.evaluation").joinpath("style.css").read_text(encoding="utf-8")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(heading)}</title><style>{style}</style></head><body><main>{body}"
        "<footer class='small'>Made by ddfast. All accuracies are top-1 on pictures that no student saw; "
        f"± is the sample standard deviation over {escape(spread_over)}.</footer></main></body></html>\n"
    )


def title(report: Report) -> str:
    """``RDED on mnist5k, 5 images per class``."""
    if len(report["sets"]) > 1:
        return f"{len(report['sets'])} distilled sets compared"
    one = report["sets"][0]
    method = (one["method"] or one["name"]).upper() if one["method"] in ("rded", "mtt", "dsa") else one["name"]
    source = f" on {one['source']}" if one["source"] else ""
    return f"{method}{source}, {one['ipc']} {'image' if one['ipc'] == 1 else 'images'} per class"


def lead(report: Report) -> str:
    """What was done, in a sentence or two."""
    one = report["sets"][0]
    seeds = report["config"]["seeds"]
    students = ", ".join(student["label"] for student in report["students"])
    observer = f", chosen by observer {one['observer']}" if one["observer"] and len(report["sets"]) == 1 else ""
    size = f"{one['resolution'][0]} x {one['resolution'][1]}"
    what = f"{one['images']} images" if len(report["sets"]) == 1 else ", ".join(s["name"] for s in report["sets"])
    return (
        f"{what} of {len(report['class_names'])} classes at {size}{observer}. "
        f"{seeds} {'student' if seeds == 1 else 'students'} of each kind ({students}), tested on "
        f"{report['validation']['images']:,} pictures of {report['validation']['name']} after the last epoch."
    )


def _tiles(report: Report) -> str:
    one, student = report["sets"][0], report["students"][0]["name"]
    rows = report["results"]
    own = own_labels(rows, one["key"])
    best = find_row(rows, one["key"], "distilled", own, student)
    control = find_row(rows, one["key"], "random-images", own, student)
    tiles = []
    if best is not None:
        name = f"{one['name']}: " if len(report["sets"]) > 1 else ""
        tiles.append((tables.percent(best["top1"]), f"{name}distilled, {own} labels"))
        if control is not None:
            gain = 100 * (best["top1"]["mean"] - control["top1"]["mean"])
            tiles.append((f"{gain:+.1f} <small>points</small>", "over as many random real pictures"))
        cost = best["cost"]["seconds"]["mean"]
        tiles.append((f"{cost:.3g} <small>s</small>", f"to train one student ({best['cost']['steps']:,} steps)"))
    sizes = one["storage"]
    tiles.insert(2, (_sized(sizes["bytes"]["total"]), f"in all, {figures.equivalents(sizes)}"))
    score = next(s for s in report["scores"] if s["set"] == one["key"] and s["student"] == student)
    if score["lrs"] is not None:
        tiles.append((f"{score['lrs']['mean']:.3f}", "label-robust score (0.269: neither gain nor loss)"))
    inner = "".join(f"<div class='tile'><b>{value}</b><span>{escape(text)}</span></div>" for value, text in tiles)
    return f"<div class='tiles'>{inner}</div>"


def _sized(count: int) -> str:
    value, unit = figures.size_text(count).split(" ")
    return f"{value} <small>{unit}</small>"


def _sheets(report: Report, sets: Sequence[DistilledSet], pictures: Sequence[Mapping[str, bytes]]) -> str:
    several = len(sets) > 1
    shown = []
    for place, (entry, distilled) in enumerate(zip(report["sets"], sets, strict=True)):
        heading = f"<h3>{escape(entry['name'])}</h3>" if several else ""
        shown.append(f"<div class='card'>{heading}{figures.contact_sheet(distilled)}</div>")
        shown.append(account_page.pictures(pictures[place]) if place < len(pictures) else "")
    return "".join(shown)


def _tradeoff(report: Report) -> str:
    return tradeoff_page.figure(report) + tradeoff_page.points_table(report)


def _curves(report: Report) -> str:
    cards = []
    several = len(report["sets"]) * len(report["students"]) > 1
    for entry in report["sets"]:
        for student in report["students"]:
            name = " / ".join([entry["name"]] * (len(report["sets"]) > 1) + [student["label"]])
            drawn = figures.training_curves(report, entry["key"], student["name"])
            cards.append(_card(name if several else "", drawn))
    return f"<div class='pair'>{''.join(cards)}</div>"


def _card(heading: str, inner: str) -> str:
    return f"<div class='card'>{f'<h3>{escape(heading)}</h3>' if heading else ''}{inner}</div>" if inner else ""


def section(heading: str, inner: str) -> str:
    """A part of a page with its heading; nothing where there is nothing in it."""
    return f"<section><h2>{escape(heading)}</h2>{inner}</section>" if inner else ""


def _notes(report: Report) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return section("Notes", f"<ul>{items}</ul>" if items else "")
