"""Sets written for other programs: what they are, and how those programs read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfast._outside import parse_json
from ddfast.evaluation.explain.explanation import Explanation, as_mapping, plural, size_text
from ddfast.store.hub import PARQUET

_LOST = "method, source, settings, seed and recipe: ask the set that it was written from, this layout has no place"
_NOTE_BYTES = 1 << 24
_WHITE = "the pixels are for viewing: the set was distilled whitened; train on the set itself, or export it to mtt"
# a file that tells the layout, and its name
_FILES = {
    "images_best.pt": "mtt", "ddranking.yaml": "ddranking", PARQUET: "huggingface", "classes.json": "imagefolder",
}  # fmt: skip


def described_export(root: Path, manifest: Mapping[str, Any], found: Explanation) -> Explanation:
    """An export with a manifest, of which ``found`` is the explanation as a set: pictures and their provenance."""
    exported = as_mapping(manifest["exported"])
    layout = str(exported.get("to"))
    found.kind, found.facts = "export", {**found.facts, "layout": layout}
    left = exported.get("left_out")
    gone = [str(each) for each in left] if isinstance(left, list) else []
    found.words.insert(0, ("layout", f"Written by ddfast export --to {layout}; {_readers(layout)}."))
    found.code = _code(root, layout, manifest)
    if layout != "imagefolder":
        found.command = ""
    if gone:
        found.missing.append(f"{', '.join(gone)}: this layout has no place for them")
    if manifest.get("space") == "zca":
        found.warnings = [line for line in found.warnings if "trained_images" not in line]
        if layout == "imagefolder":
            found.warnings.append(f"{_WHITE[0].upper()}{_WHITE[1:]}.")
    return found


def bare_export(root: Path) -> Explanation | None:
    """An export without a manifest; None for other folders."""
    layout = next((layout for file, layout in _FILES.items() if (root / file).exists()), None)
    if layout is None:
        return None
    found = Explanation("export", str(root), facts={"layout": layout})
    found.say("layout", f"Laid out as ddfast export --to {layout} writes it.")
    files = [path for path in root.rglob("*") if path.is_file()]
    found.say("bytes", f"{size_text(sum(path.stat().st_size for path in files))} in {plural(len(files), 'file')}.")
    found.code = _code(root, layout, {})
    found.missing = [_LOST]
    return found


def _readers(layout: str) -> str:
    return "ddfast.load reads it back" if layout == "imagefolder" else "datasets.load_dataset reads it"


def _code(root: Path, layout: str, manifest: Mapping[str, Any]) -> str:
    made = {"mtt": _mtt, "ddranking": _ddranking, "huggingface": _huggingface, "imagefolder": _imagefolder}
    return "\n".join(made[layout](root, manifest)) if layout in made else ""


def _mtt(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    space = _space(root)
    told = "in the space that space.json names" if space else "in a space that is not told, mostly normalised"
    lines = [
        "import torch",
        f"images, labels = torch.load({str(root / 'images_best.pt')!r}), torch.load({str(root / 'labels_best.pt')!r})",
        f"# float32 [N, 3, H, W] {told}; lr_best.pt, if it is there, is the student's rate",
    ]
    if space.get("space") == "zca" and (root / "zca.pt").is_file():
        lines += [
            f"zca = torch.load({str(root / 'zca.pt')!r})",
            "def whitened(pictures):  # test pictures, float [n, 3, H, W] in [0, 1], as students take them",
            "    return ((pictures.flatten(1) - zca['mean']) @ zca['matrix']).view_as(pictures)",
        ]
    elif space.get("space") == "zca":
        lines.append(
            "# they are whitened, and so must test pictures be; that is fitted to the real set, not stored here"
        )
    return lines


def _space(root: Path) -> Mapping[str, Any]:
    path = root / "space.json"
    if not path.is_file() or path.stat().st_size > _NOTE_BYTES:
        return {}
    return as_mapping(parse_json(path.read_bytes()))


def _ddranking(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    rate = f", syn_lr=torch.load({str(root / 'lr.pt')!r})" if (root / "lr.pt").is_file() else ""
    return [
        "import torch",
        "from ddranking.config import Config",
        "from ddranking.metrics import LabelRobustScoreSoft",
        "# needs its teacher and the real set, where ddranking.yaml says",
        f"images, config = torch.load({str(root / 'images.pt')!r}), Config.from_file({str(root / 'ddranking.yaml')!r})",
        f"LabelRobustScoreSoft(config).compute_metrics(image_tensor=images{rate})",
    ]


def _huggingface(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    return ["from datasets import load_dataset", f"train = load_dataset({str(root)!r}, split='train')"]


def _imagefolder(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    norm = as_mapping(manifest.get("normalization"))
    if not norm:
        return ["from torchvision.datasets import ImageFolder", f"train = ImageFolder({str(root / 'train')!r})"]
    note = [f"# {_WHITE}"] if manifest.get("space") == "zca" else []
    return [
        "from torchvision.datasets import ImageFolder",
        "from torchvision.transforms import Compose, Normalize, ToTensor",
        *note,
        f"seen = Compose([ToTensor(), Normalize({list(norm['mean'])}, {list(norm['std'])})])",
        f"train = ImageFolder({str(root / 'train')!r}, seen)",
    ]
