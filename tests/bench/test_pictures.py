"""Made-up pictures."""

from __future__ import annotations

from pathlib import Path

from ddfast.bench.pictures import make_pictures


def test_made_up_pictures_are_as_heavy_as_real_ones(tmp_path: Path) -> None:
    train = make_pictures(tmp_path, 2, 3)
    files = sorted(train.rglob("*.jpg"))
    assert len(files) == 6
    assert 80e3 < sum(file.stat().st_size for file in files) / 6 < 130e3
    assert make_pictures(tmp_path, 2, 3) == train
