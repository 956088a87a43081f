"""Storage and distillation cost on the report page, and the pictures of a distributional set."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from ddfast.evaluation.charts import flops_text, size_text
from ddfast.evaluation.made import PICTURES
from ddfast.evaluation.tables import table

Report = Mapping[str, Any]
_PARTS = ("images", "latents", "decoders", "soft labels", "other")
_SHOWN = 0.02  # share of the time, below which a part is not named
_STORAGES = {"fp32": "32 bits", "fp16": "16 bits", "int8": "8 bits"}


def storage(report: Report) -> str:
    """Bytes of each set by what they are of, then its numbers and what they would take at other precisions."""
    kinds = [k for k in _PARTS if any(part["name"] == k for s in report["sets"] for part in s["storage"]["parts"])]
    stored, counted = [], []
    for entry in report["sets"]:
        sizes = entry["storage"]
        real, equal, numbers = sizes["real_image_bytes"], sizes["ipc_equivalent"], sizes["ipc_by_numbers"]
        parts = {part["name"]: part["bytes"] for part in sizes["parts"]}
        cells = "".join(f"<td>{size_text(parts[kind]) if kind in parts else '–'}</td>" for kind in kinds)
        stored.append(
            f"<tr><td>{escape(entry['name'])}</td>{cells}<td>{size_text(sizes['bytes']['total'])}</td>"
            f"<td>{sizes['bits_per_class']:,.0f}</td><td>{'–' if real is None else size_text(real)}</td>"
            f"<td>{'–' if equal is None else f'{equal:.2f}'}</td></tr>"
        )
        at = "".join(f"<td>{size_text(sizes['bytes_at'][name])}</td>" for name in _STORAGES)
        counted.append(
            f"<tr><td>{escape(entry['name'])}</td><td>{sizes['numbers']:,}</td><td>{numbers['total']:.2f}</td>"
            f"<td>{numbers['without_labels']:.2f}</td>{at}</tr>"
        )
    names = "".join(f"<th>{kind}</th>" for kind in kinds)
    head = f"<th>set</th>{names}<th>in all</th><th>bits per class</th><th>a real picture</th><th>IPC-equivalent</th>"
    precise = "".join(f"<th>at {words}</th>" for words in _STORAGES.values())
    below = f"<th>set</th><th>numbers</th><th>IPC by numbers</th><th>without labels</th>{precise}"
    note = (
        "IPC-equivalents are real pictures per class: by bytes, in the set's own file format; by numbers, 3 S² of them "
        "a picture of side S, whatever they are stored in. Other: hard labels as they are stored, a learned rate."
    )
    return (
        f"{table(head, stored)}<div style='height:14px'></div>{table(below, counted)}"
        f"<p class='small' style='margin-top:8px'>{escape(note)}</p>"
    )


def distillation(report: Report) -> str:
    """What making the sets cost, where it is known."""
    body = []
    for entry in report["sets"]:
        cost = entry["distillation"]
        if cost is None:
            continue
        shares = sorted(cost["parts"].items(), key=lambda pair: -pair[1])
        whole = sum(cost["parts"].values()) or 1.0
        where = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in shares if seconds >= _SHOWN * whole)
        cells = [_count(cost["iterations"]), _count(cost["steps"]), flops_text(cost["flops"]) if cost["flops"] else "–"]
        cells += ["–" if cost[key] is None else f"{cost[key]:,.1f}" for key in ("seconds", "cpu_seconds")]
        on = ", ".join(text for text in (cost["machine"], where) if text)
        name = escape(entry["name"]) + (f"<br><em>{escape(on)}</em>" if on else "")
        body.append(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not body:
        return ""
    names = ("making the set", "iterations", "steps", "FLOPs", "seconds", "CPU seconds")
    return "<div style='height:14px'></div>" + table("".join(f"<th>{name}</th>" for name in names), body)


def pictures(found: Mapping[str, bytes]) -> str:
    """A method's own pictures of its set, with what they show."""
    cards = "".join(
        f"<div class='card'><h3>{escape(PICTURES[name])}</h3><img class='drawn' alt='{escape(PICTURES[name])}' "
        f"src='data:image/png;base64,{base64.b64encode(data).decode()}'></div>"
        for name, data in found.items()
    )
    return f"<div class='pair drawings'>{cards}</div>" if cards else ""


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"
