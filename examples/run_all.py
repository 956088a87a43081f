"""Runs every example of this folder at its toy size and prints what it printed; fails when one of them does.

An example whose packages are missing is named and left out; with --all that is a failure too.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NEEDS = {
    "dd_ranking": ("ddranking", "kornia", "pandas", "timm", "yaml"),
    "huggingface_upload": ("datasets", "pyarrow"),
}
HELPERS = ("run_all", "toy_data")


def every() -> list[str]:
    """Names of all examples."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in HELPERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="examples to run, without .py (default: all)")
    parser.add_argument("--all", action="store_true", help="missing packages are a failure")
    args = parser.parse_args()
    names = args.names or every()
    # Nothing is looked for on the Hub
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    failed = []
    for name in names:
        missing = [package for package in ("mlxtend", *NEEDS.get(name, ())) if find_spec(package) is None]
        if missing:
            print(f"== {name}: left out, it needs {', '.join(missing)}", flush=True)
            failed += [name] if args.all else []
            continue
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, FOLDER / f"{name}.py"], env=environment, capture_output=True, text=True, check=False
        )
        print(f"== {name} ({time.perf_counter() - began:.0f} s)\n{done.stdout.strip()[-1500:]}", flush=True)
        if done.returncode:
            print(done.stderr.strip()[-3000:], flush=True)
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
