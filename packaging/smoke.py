"""Smoke test of an installed ddfast: ``smoke.py --kernels``, or ``--reference`` for the wheel of Python alone.

Run it outside the checkout, with the Python that ddfast is installed for.  It makes its own pictures.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts")) / "ddfast"


def expect(fact: bool, what: str) -> None:
    """Ends the test with what went wrong."""
    if not fact:
        raise SystemExit(f"smoke test failed: {what}")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as it was installed."""
    done = subprocess.run([str(PROGRAM), *arguments], capture_output=True, text=True, timeout=300)
    expect(done.returncode == 0, f"ddfast {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done


def installation() -> None:
    """The package is the installed one, whole."""
    import ddfast

    home = Path(ddfast.__file__).resolve()
    expect(home.is_relative_to(Path(sys.prefix).resolve()), f"{home} was imported, which is not in {sys.prefix}")
    expect("torch" not in sys.modules, "import ddfast imports torch")
    version = importlib.metadata.version("ddfast")
    expect(version.split("+")[0] == ddfast.__version__, f"version {version} is not {ddfast.__version__}")
    expect(run("--version").stdout == f"ddfast {version}\n", "ddfast --version says something else")
    package = files("ddfast")
    for name in ("py.typed", "nets/imagenet_wnids.txt", "evaluation/style.css"):
        expect(package.joinpath(name).is_file(), f"{name} is not installed")


def information(kernels: bool) -> None:
    """``ddfast info`` knows of the kernels, or why there are none, and says it in one warning.

    CUDA's are those of a version that ends in +cu130; they load without a GPU too.
    """
    done = run("info", "--json")
    found = json.loads(done.stdout)
    native, cuda = (found["native"][name] for name in ("_cpu", "_cuda"))
    expect(("missing" not in cuda) == ("+cu" in found["ddfast"]), f"ddfast info says of _cuda {cuda}")
    if kernels:
        expect("missing" not in native, f"no kernels: {native}")
    else:
        expect("not built" in native.get("missing", ""), f"ddfast info says {native}")
    warned = done.stderr.count("plain-torch reference")
    expect(warned == int(not kernels), f"{warned} warnings that the reference is used: {done.stderr}")
    expect(("isa" in native) == kernels, f"ddfast info says {native}")


def ops(kernels: bool) -> None:
    """Ops give the reference's results on what is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        import torch

        from ddfast.ops import available_backends, crop_score, mosaic, use_backend

        best = available_backends("mosaic", "cpu")[0]
        expect(best == ("cpp" if kernels else "reference"), f"mosaic would run on {best}")
    made = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 5, 11, generator=made), torch.arange(7)
    pixels = torch.randint(0, 256, (3 * 40 * 50,), dtype=torch.uint8, generator=made)
    boxes = torch.tensor([[0, 0, 40, 50], [3, 5, 20, 20], [10, 10, 30, 31], [1, 2, 9, 9]], dtype=torch.int32)
    picture = (pixels, torch.tensor([0]), torch.tensor([[40, 50]], dtype=torch.int32), boxes, torch.zeros(4).int())
    scores, stitched = crop_score(logits, labels), mosaic(*picture, size=33, factor=2)
    with use_backend("reference"):
        true_scores, true_stitched = crop_score(logits, labels), mosaic(*picture, size=33, factor=2)
    torch.testing.assert_close(scores[0], true_scores[0])
    expect(torch.equal(scores[2], true_scores[2]), "crop_score picks other crops than the reference")
    apart = int((stitched.int() - true_stitched.int()).abs().max())
    expect(apart <= 1, f"mosaic is {apart} grey levels from the reference")


def distilling(folder: Path) -> None:
    """A tiny run of RDED from the command line, read back."""
    import numpy as np
    from PIL import Image

    import ddfast

    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / "train" / f"{label:05d}").mkdir(parents=True)
        tint = rng.uniform(60, 190, 3)
        for i in range(12):
            coarse = (rng.normal(0, 55, (6, 7, 3)) + tint).clip(0, 255).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((70, 50), Image.Resampling.BICUBIC)
            picture.save(folder / "train" / f"{label:05d}" / f"{i:03d}.jpg", quality=92)
    sizes = ["--ipc", "2", "--factor", "2", "--mipc", "10", "--num-crop", "2", "--size", "32", "--engine", "torch"]
    source = ["--data", str(folder / "train"), "--observer", "train:conv3"]
    run("distill", "rded", *source, *sizes, "--out", str(folder / "out"), "--quiet")
    distilled = ddfast.load(folder / "out")
    expect(tuple(distilled.images.shape) == (6, 32, 32, 3), f"the set has shape {tuple(distilled.images.shape)}")


def main() -> None:
    """Everything, in order; the first fault ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--kernels", action="store_true", help="the C++ kernels must be there and be used")
    kind.add_argument("--reference", action="store_true", help="there must be none, and ddfast must say so")
    kernels: bool = parser.parse_args().kernels
    installation()
    information(kernels)
    ops(kernels)
    with tempfile.TemporaryDirectory() as folder:
        distilling(Path(folder))
    print(f"smoke test passed: ddfast {importlib.metadata.version('ddfast')}, {'kernels' if kernels else 'reference'}")


if __name__ == "__main__":
    main()
