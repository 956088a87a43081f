"""Distributions written as pictures: means and seeded draws, with what they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddfast.cli import main
from ddfast.store import DistilledSet, load
from ddfast.train.latent import Distribution, materialised
from tests.train.latent_case import stored, tiny_distribution

NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def made() -> DistilledSet:
    distribution = tiny_distribution()
    one = stored(distribution, soft_logits=torch.arange(16 * 8).view(16, 8).half())
    one.manifest |= {"normalization": NORM, "method": "d3", "recipe": {"protocol": "d3", "dsa": "crop"}}
    return one


def test_means_and_draws_of_each_prior() -> None:
    one, distribution = made(), tiny_distribution()
    found = materialised(one, 3, seed=5)
    assert found.labels.tolist() == distribution.labels.repeat_interleave(3).tolist()
    floats = found.extras["trained_images"]
    assert torch.equal(floats[0::3], distribution.means())
    for draw in (1, 2):
        assert torch.equal(floats[draw::3], distribution.samples(seed=5, epoch=draw - 1))
    assert torch.equal(found.extras["soft_logits"][2::3], one.extras["soft_logits"])
    mean, std = (torch.tensor(NORM[name]) for name in ("mean", "std"))
    pixels = ((floats.permute(0, 2, 3, 1) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(found.images, pixels)
    size = sum(each.numel() * each.element_size() for each in one.extras.values())
    note = {"samples": 3, "seed": 5, "ipc": 6, "stored_ipc": 2, "stored_bytes": size}
    assert found.manifest["materialised"] == note
    assert Distribution.of(found) is None
    assert torch.equal(materialised(one, 1).extras["trained_images"], distribution.means())
    with pytest.raises(ValueError, match="samples: got 0, expected 1 or more"):
        materialised(one, 0)
    with pytest.raises(ValueError, match="samples: got 2, but the set is of pictures"):
        materialised(found, 2)


def test_the_command_writes_them(tmp_path: Path) -> None:
    made().save(tmp_path / "set", format="safetensors")
    out = tmp_path / "pictures"
    assert main(["export", str(tmp_path / "set"), "--to", "imagefolder", "--samples", "2", "--out", str(out)]) == 0
    back = load(out)
    assert torch.equal(back.images, materialised(made(), 2).images)
    assert (back.ipc, back.manifest["materialised"]["stored_ipc"]) == (4, 2)
    assert main(["export", str(tmp_path / "set"), "--to", "mtt", "--samples", "2", "--out", str(tmp_path / "mtt")]) == 0
    assert torch.load(tmp_path / "mtt/images_best.pt").shape == (32, 3, 16, 16)
    assert json.loads((tmp_path / "mtt/space.json").read_text())["ipc"] == 4
