"""A distilled set as a data set on the Hugging Face Hub: parquet with images and class names, and a card.

Prints the files and what `datasets` reads from them. Nothing leaves the machine without --push. Checks that every image
and class comes back as it was. Needs: pip install 'ddfast[huggingface]'.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import ddfast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", type=Path, help="folder of a distilled set (default: random built-in digits)")
    parser.add_argument("--repo", default="somebody/digits-random-ipc-3", help="name on the Hub")
    parser.add_argument("--push", action="store_true", help="upload it; log in first with `hf auth login`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        export_and_read(args, Path(scratch))


def export_and_read(args: argparse.Namespace, scratch: Path) -> None:
    random = {"selection": "random", "ipc": 3, "size": 32, "quiet": True}
    made = ddfast.load(args.set) if args.set else ddfast.distill("coreset", "mnist5k", **random)

    folder = made.export("huggingface", scratch / "hub")
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        print(f"{file.relative_to(folder)}: {file.stat().st_size} bytes")

    from datasets import load_dataset

    table = load_dataset(str(folder), split="train", cache_dir=str(scratch / "cache"))
    print(f"{len(table)} rows, classes {table.features['label'].names}")
    made = made.decoded()  # sets of IDC hold several images in one
    for row, image, label in zip(table, made.images, made.labels.tolist(), strict=True):
        if row["label"] != label or not np.array_equal(np.array(row["image"]), image.numpy()):
            raise SystemExit("an image or label did not come back as it was")
    print("every image and label is as it was")

    if not args.push:
        print(f"dry run: --push would upload the folder to https://huggingface.co/datasets/{args.repo}")
        return
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(args.repo, repo_type="dataset", private=True, exist_ok=True)
    api.upload_folder(repo_id=args.repo, repo_type="dataset", folder_path=folder)
    print(f"uploaded as a private data set: https://huggingface.co/datasets/{args.repo}")


if __name__ == "__main__":
    main()
