"""What goes wrong in real life: bad files, few files, broken observers, full disks, interruptions, kills."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import ddfast
from ddfast.runs import RunError
from tests.methods.rded_case import SETTINGS, TintNet, class_tint, files_of

Make = Callable[[int, int], Path]


def run(pictures: Path, net: nn.Module | str, out: Path, **settings: object) -> ddfast.DistilledSet:
    return ddfast.distill("rded", pictures, observer=net, out=out, **{**SETTINGS, **settings})


def test_broken_files_are_skipped_and_listed(make_pictures: Make, net: nn.Module, tmp_path: Path) -> None:
    root = make_pictures(4, 12)
    victims = sorted((root / "00001").iterdir())[:3]
    victims[0].write_bytes(victims[0].read_bytes()[:300])
    victims[1].write_bytes(b"")
    victims[2].write_text("not a picture")
    result = run(root, net, tmp_path / "out")
    failures = {f["sample"]: f["reason"] for f in result.manifest["failures"]}
    assert set(failures) == {f"00001/{v.name}" for v in victims}
    assert all(failures.values())
    used = {c["sample"] for image in result.manifest["images"] for c in image["cells"]}
    assert not used & set(failures)


def test_strict_stops_at_a_broken_file_and_names_it(make_pictures: Make, net: nn.Module, tmp_path: Path) -> None:
    root = make_pictures(4, 12)
    victim = sorted((root / "00002").iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"strict: 00002/{victim.name}"):
        run(root, net, tmp_path / "out", strict=True)


def test_too_few_pictures_tells_how_many_are_missing(make_pictures: Make, net: nn.Module, tmp_path: Path) -> None:
    root = make_pictures(4, 12)
    for path in sorted((root / "00003").iterdir())[5:]:
        path.unlink()
    with pytest.raises(ValueError, match="ipc=2 with factor=2 needs 8") as error:
        run(root, net, tmp_path / "out")
    assert "00003 has 5" in str(error.value)
    assert "3 pictures missing" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_too_few_readable_pictures_is_an_error_too(make_pictures: Make, net: nn.Module, tmp_path: Path) -> None:
    root = make_pictures(4, 9)
    for path in sorted((root / "00000").iterdir())[:2]:
        path.write_bytes(b"junk")
    words = r"class 00000: 7 readable pictures.*1 missing \(2 files could not be read: 00000/.*\); repair them"
    with pytest.raises(ValueError, match=words):
        run(root, net, tmp_path / "out")


def test_nan_scores_are_an_error(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        net[-1].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        run(pictures, net, tmp_path / "out")


def test_another_run_in_the_output_folder_is_not_touched(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, net, out)
    before = files_of(out)
    with pytest.raises(RunError, match="--overwrite"):
        run(pictures, net, out)
    with pytest.raises(RunError, match="seed"):
        run(pictures, net, out, seed=3, resume=True)
    assert files_of(out) == before
    run(pictures, net, out, seed=3, overwrite=True)
    assert files_of(out) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError):
        run(pictures, net, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_full_disk_loses_nothing(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pictures, net, tmp_path / "whole")
    plain, left = os.write, [6]

    def write(handle: int, data: bytes) -> int:
        if len(data) > 500:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return plain(handle, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(RunError, match="--resume"):
        run(pictures, net, tmp_path / "cut")
    monkeypatch.undo()
    assert not list((tmp_path / "cut").glob("manifest.json"))
    run(pictures, net, tmp_path / "cut", resume=True)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_ctrl_c_keeps_finished_classes(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddfast.methods.rded import stages

    run(pictures, net, tmp_path / "whole")
    plain, calls = stages.choose, []

    def interrupted(*args: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(stages, "choose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, net, tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("0*/*.jpg"))) == 4
    monkeypatch.undo()
    seen: list[int] = []
    run(pictures, net, tmp_path / "cut", resume=True, on_progress=lambda event: seen.append(event.done))
    assert seen[0] > 24, "finished classes count as done"
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["_manifest", "load", "save", "finish"])
def test_an_end_cut_short_loses_nothing_in_safetensors_either(
    pictures: Path, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Stops at each step between the last class and the finished set, then resumes."""
    from ddfast.methods import _output
    from ddfast.methods.rded import output
    from ddfast.runs import Ledger
    from ddfast.store import DistilledSet

    whole = run(pictures, net, tmp_path / "whole", format="safetensors")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    where = {"_manifest": (output, "_manifest"), "load": (_output, "decode_image"), "save": (DistilledSet, "save"),
             "finish": (Ledger, "finish")}[name]  # fmt: skip
    monkeypatch.setattr(*where, stop)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, net, tmp_path / "cut", format="safetensors")
    monkeypatch.undo()
    resumed = run(pictures, net, tmp_path / "cut", format="safetensors", resume=True)
    assert torch.equal(whole.images, resumed.images)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_a_wrong_class_order_is_refused_before_any_work(make_pictures: Make, tmp_path: Path) -> None:
    """An observer that knows the classes by their tint, asked with its outputs in another order."""
    root = make_pictures(70, 4)
    tints = torch.stack([class_tint(root, label) for label in range(70)])
    right = TintNet(tints)
    settings = {"ipc": 1, "mipc": 4, "num_crop": 1, "check_classes": True}
    run(root, right, tmp_path / "right", **settings)
    wrong = TintNet(tints.roll(1, dims=0))
    with pytest.raises(ValueError, match="different orders"):
        run(root, wrong, tmp_path / "wrong", **settings)
    assert not (tmp_path / "wrong").exists()


_ZYGOTE = """
import os, sys, time
sys.path.insert(0, {root!r})
import torch, ddfast, ddfast.methods.rded.pipeline
from tests.methods.rded_case import SETTINGS, small_net
for line in sys.stdin:
    out = line.strip()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        ddfast.distill("rded", {pictures!r}, observer=small_net(12), out=out, resume=True, workers=2, **SETTINGS)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_bytes(make_pictures: Make, tmp_path: Path) -> None:
    """SIGKILL while working, then resume, again and again; every kill hits a running process."""
    pictures = make_pictures(12, 12)
    here = Path(__file__).resolve()
    code = _ZYGOTE.format(root=str(here.parents[2]), pictures=str(pictures))
    zygote = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert zygote.stdin is not None
    assert zygote.stdout is not None

    def attempt(out: Path, kill_after: float | None) -> int:
        zygote.stdin.write(f"{out}\n")
        zygote.stdin.flush()
        child = int(zygote.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(child, signal.SIGKILL)
        return int(zygote.stdout.readline())

    try:
        began = time.monotonic()
        assert attempt(tmp_path / "whole", None) == 0
        duration = time.monotonic() - began
        wanted = files_of(tmp_path / "whole")
        rng, kills, runs = random.Random(0), 0, 0
        while kills < 20:
            out = tmp_path / f"cut{runs}"
            runs += 1
            while True:
                status = attempt(out, rng.uniform(0.02, 0.7 * duration) if kills < 20 else None)
                if status == 0:
                    break
                assert os.WTERMSIG(status) == signal.SIGKILL
                kills += 1
            assert files_of(out) == wanted
            shutil.rmtree(out)
    finally:
        zygote.stdin.close()
        zygote.wait(timeout=60)
