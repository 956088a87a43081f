"""Memory does not grow with the number of pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_RUN = """
import io, json, re, sys, numpy as np, torch
from PIL import Image
import ddfast
from torch import nn

class Repeated:
    name, class_names = "repeated", tuple("abcdefghij")
    def __init__(self, each):
        self.each = each
        rng = np.random.default_rng(0)
        self.files = []
        for _ in range(7):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(buffer, "JPEG")
            self.files.append(buffer.getvalue())
    def count(self, label): return self.each
    def sample_id(self, label, position): return f"{self.class_names[label]}/{position}"
    def load(self, label, position): return self.files[position % 7]
    def fingerprint(self): return "repeated"

each, out = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16), nn.Flatten(), nn.Linear(4 * 14 * 14, 10)).eval()
ddfast.distill("rded", Repeated(each), observer=net, out=out, ipc=2, factor=2, mipc=each, num_crop=1, size=224,
               check_classes=False, quiet=True, engine="torch", workers=2)
# not ru_maxrss: that starts from the size of the process that started this one
print(json.dumps(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024))
"""


def peak_mib(each: int, out: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(each), str(out)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return float(json.loads(done.stdout))


@pytest.mark.slow
def test_memory_is_flat_from_1000_to_100000_pictures(tmp_path: Path) -> None:
    small, large = peak_mib(100, tmp_path / "small"), peak_mib(10_000, tmp_path / "large")
    assert large < small * 1.15 + 20, (small, large)
    assert large < 1500
