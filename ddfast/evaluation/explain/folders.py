"""What kind of folder it is, and those that hold no set of ours with a manifest."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

from ddfast.evaluation.explain.explanation import Explanation, plural, size_text
from ddfast.evaluation.explain.exports import bare_export, described_export
from ddfast.evaluation.explain.sets import explain_set
from ddfast.store import LabelStore
from ddfast.store.files import RUN_FILE
from ddfast.store.labels import LABELS_FILE
from ddfast.store.layout import scan_folder
from ddfast.store.manifest import MANIFEST_FILE, read_manifest


def explain(folder: str | os.PathLike[str]) -> Explanation:
    """Says what a folder holds, from its manifest where there is one; images are not decoded.

    Args:
        folder: a distilled set, stored soft labels, a set exported to other programs, or a folder of class folders.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a damaged manifest, or nothing that ddfast knows.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {what}, expected the folder of a distilled set or stored soft labels")
    if os.path.lexists(root / MANIFEST_FILE):
        manifest = read_manifest(root / MANIFEST_FILE)
        found = explain_set(root, manifest)
        return found if manifest.get("exported") is None else described_export(root, manifest, found)
    if os.path.lexists(root / LABELS_FILE):
        return _labels(root)
    if (root / "report.json").is_file():
        return _report(root)
    if (root / RUN_FILE).exists():
        return _unfinished(root)
    return bare_export(root) or _pictures(root)


def _labels(root: Path) -> Explanation:
    store = LabelStore.open(root)
    layout, made = store.layout, store.fingerprint
    done = int(store.complete().sum())
    found = Explanation("soft labels", str(root))
    found.facts = {
        "layout": layout.as_json(), "epochs_done": done, "per_image": store.per_image, "fingerprint": made,
        "bytes": {"row": layout.row_bytes, "epoch": layout.epoch_bytes, "total": layout.total_bytes},
    }  # fmt: skip
    kept = "all logits" if layout.kind != "topk" else f"the {layout.k} largest logits"
    found.say(
        "labels", f"{kept} of {plural(layout.classes, 'class')} for {plural(layout.samples, 'image')},",
        "one label an image, of the plain image."
        if store.per_image else f"one label for each view in {layout.epochs} epochs, of which {done} are there.",
    )  # fmt: skip
    teachers = made.get("teachers") or []
    found.say(
        "teachers", ", ".join(f"weights with SHA-256 {str(each)[:12]}" for each in teachers) + "." * bool(teachers),
        "Their logits are averaged." if len(teachers) > 1 else "",
    )  # fmt: skip
    found.say("set", f"They belong to the images with SHA-256 {str(made.get('set'))[:12]} and to no others.")
    if not store.per_image:
        found.say("views", f"Seed {made.get('seed')}, batches of {made.get('batch_size')}, view {made.get('view')}.")
    found.say("bytes", f"{size_text(layout.total_bytes)}, {size_text(layout.row_bytes)} a label.")
    found.command = f"ddfast evaluate SET --labels {shlex.quote(str(root))}"
    kind = "ImageLabelDataset" if store.per_image else "SoftLabelDataset"
    loop = [
        "for images, logits in torch.utils.data.DataLoader(data, batch_size=50, shuffle=True):",
        "    ...  # as in an epoch of any training",
    ] if store.per_image else [
        "for epoch in range(data.epochs):",
        "    data.set_epoch(epoch)",
        "    for images, logits in data.dataloader():",
        "        ...  # a step: cross-entropy of the student's softmax against theirs, both at one temperature",
    ]  # fmt: skip
    found.code = "\n".join(
        [
            "import ddfast, torch",
            f"from ddfast.train.label_dataset import {kind}",
            f"data = {kind}(ddfast.load('SET').decoded(), ddfast.LabelStore.open({str(root)!r}))",
            *loop,
        ]
    )
    found.missing = ["where the set is: give its folder for SET"]
    if not store.per_image and done < layout.epochs:
        found.warnings.append(
            f"{layout.epochs - done} epochs are not labelled yet; go on with ddfast relabel --resume."
        )
    return found


def _report(root: Path) -> Explanation:
    found = Explanation("report of an evaluation", str(root))
    found.say("report", f"Open {root / 'report.html'}; {root / 'report.json'} has the same figures for programs.")
    found.missing = ["the set itself: explain its own folder"]
    return found


def _unfinished(root: Path) -> Explanation:
    found = Explanation("unfinished run", str(root))
    found.say("state", f"There is no {MANIFEST_FILE} yet. ddfast status {shlex.quote(str(root))} says how far it is.")
    found.missing = ["what it will be: run its command again with --resume"]
    return found


def _pictures(root: Path) -> Explanation:
    paths, labels, names = scan_folder(root)
    counts = Counter(labels)
    each_class = [counts[label] for label in range(len(names))]  # also those without pictures
    low, high, empty = min(each_class), max(each_class), each_class.count(0)
    each = f"{low} per class" if low == high else f"{low} to {high} per class"
    found = Explanation("image folder", str(root))
    found.facts = {"images": len(paths), "classes": len(names), "ipc": high, "class_names": list(names)}
    found.say("images", f"{plural(len(paths), 'image')} of {plural(len(names), 'class')}, {each}, in class folders.")
    found.say("bytes", size_text(sum((root / path).stat().st_size for path in paths)) + ".")
    if empty:
        found.warnings.append(f"{plural(empty, 'class')} without pictures, such as {names[each_class.index(0)]}.")
    found.command = f"ddfast evaluate {shlex.quote(str(root))} --data TEST_PICTURES --train REAL_PICTURES"
    found.code = f"import ddfast\nloader = ddfast.load({str(root)!r}).dataloader(batch_size=50)"
    found.missing = [f"method, source, observer, settings, seed, normalisation and recipe: there is no {MANIFEST_FILE}"]
    return found
