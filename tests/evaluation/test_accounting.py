"""Numbers and bytes of sets: D3's published budgets, sets that are really stored, and what decoding costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast.evaluation.accounting import account, soft_bytes
from ddfast.evaluation.cost import decoding_flops, training_flops
from ddfast.evaluation.storage import Storage, measure
from ddfast.evaluation.students import build_student
from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.store import DistilledSet, LabelStore, load
from ddfast.train.latent.distribution import Distribution, LatentBlock
from tests.evaluation.eval_case import NAMES, SIDE, small_set, source


def described(kind: str, blocks: int, lpc: int, size: int = 64) -> DistilledSet:
    """A distributional set of 1000 classes without its tensors: what the settings alone say."""
    entry = {"decoder": DecoderConfig(kind, size).as_json(), "classes": [], "rows": 1000 // blocks * lpc, "batch": None}
    manifest: dict[str, Any] = {"distribution": {"storage": "fp32", "blocks": [entry] * blocks}}
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1000 * lpc, size, size, 3)
    soft = {"soft_logits": torch.zeros(1, 1).expand(1000 * lpc, 1000)}
    labels = torch.arange(1000).repeat_interleave(lpc)
    return DistilledSet(images, labels, tuple(map(str, range(1000))), manifest, soft)


@pytest.mark.parametrize(
    ("kind", "blocks", "lpc", "latents", "decoders", "bare", "full"),
    [
        ("small", 5, 1, 128_000, 5 * 789_187, 0.33, 0.41),
        ("medium", 2, 2, 8_192_000, 2 * 5_774_691, 1.61, 1.77),
        ("large", 5, 10, 81_920_000, 5 * 6_308_547, 9.23, 10.05),
    ],
)
def test_budgets_of_the_paper(
    kind: str, blocks: int, lpc: int, latents: int, decoders: int, bare: float, full: float
) -> None:
    soft = 1000 * lpc * 1000
    made = described(kind, blocks, lpc)
    found = account(made, Storage(0, 4 * soft, 4 * (latents + decoders), (0,) * 1000))
    assert found["parts"] == [
        {"name": "latents", "numbers": latents, "bytes": 4 * latents},
        {"name": "decoders", "numbers": decoders, "bytes": 4 * decoders},
        {"name": "soft labels", "numbers": soft, "bytes": 4 * soft},
    ]
    equal = found["ipc_by_numbers"]
    assert (round(equal["without_labels"], 2), round(equal["total"], 2)) == (bare, full)
    sizes = found["bytes_at"]
    assert sizes["fp32"] == 2 * sizes["fp16"] == 4 * found["numbers"]
    assert found["numbers"] < sizes["int8"] < 1.05 * found["numbers"]  # the scales
    assert found["bits_per_class_at"]["fp16"] == pytest.approx(16 * found["numbers"] / 1000)


def latent_set(storage: str) -> DistilledSet:
    """Two blocks of tiny decoders, three classes of two priors, soft labels."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    blocks = []
    for place, part in enumerate((labels[:4], labels[4:])):
        decoder = make_decoder(DecoderConfig("small", SIDE, z=5, kernels=8), seed=place, stream="test")
        blocks.append(LatentBlock(torch.randn(len(part), 5, 2), part, decoder))
    made = Distribution(blocks)
    pixels = made.means().mul(40).add(120).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    extras = {**made.tensors(storage), "soft_logits": torch.randn(6, 3)}
    recipe = {"protocol": "d3", "weight_decay": 5e-4, "dsa": "color"}
    manifest = {"distribution": made.as_json(storage), "space": "normalized", "recipe": recipe}
    return DistilledSet(pixels, labels, NAMES, manifest, extras)


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_a_stored_distribution_is_counted_as_its_tensors(tmp_path: Path, storage: str) -> None:
    made = load(latent_set(storage).save(tmp_path / "set", format="safetensors"))
    found = measure(made, source(20, 1), (0, 1, 2))
    tensors = {name: extra.numel() * extra.element_size() for name, extra in made.extras.items()}
    hard = 8 * 6
    assert found.images == 0  # the pictures beside the priors are for viewing
    assert found.total == sum(tensors.values()) + hard
    assert sum(found.budget) == pytest.approx(found.total)
    counted = account(made, found)
    parts = {part["name"]: part["bytes"] for part in counted["parts"]}
    assert parts == {
        "latents": sum(size for name, size in tensors.items() if name.startswith("latents.")),
        "decoders": sum(size for name, size in tensors.items() if name.startswith("decoder.")),
        "soft labels": 4 * 18,
        "other": hard,
    }
    assert soft_bytes(counted) == 4 * 18
    without = sum(size for name, size in tensors.items() if name != "soft_logits")
    soft_at = {"fp32": 4 * 18, "fp16": 2 * 18, "int8": 18 + 4 * 6}[storage]
    assert counted["bytes_at"][storage] == without + soft_at
    shown = found.as_json()
    assert shown["real_image_bytes"] == SIDE * SIDE * 3
    assert shown["ipc_equivalent"] == pytest.approx(found.total / 3 / (SIDE * SIDE * 3), abs=1e-3)


def test_a_set_of_pictures_is_counted_by_pixels_and_labels(tmp_path: Path) -> None:
    made = small_set(4)
    pixels = made.images.numel()
    plain = account(made, measure(made, None))
    assert plain["numbers"] == pixels
    assert plain["ipc_by_numbers"] == {"total": 4.0, "without_labels": 4.0}
    assert plain["bytes_at"] == {"fp32": 4 * pixels, "fp16": 2 * pixels, "int8": pixels}
    assert [part["bytes"] for part in plain["parts"]] == [measure(made, None).images]  # as PNG or JPEG, not as numbers
    store = LabelStore.create(tmp_path / "labels", samples=12, epochs=2, classes=3, kind="fp16", fingerprint={})
    size = store.layout.total_bytes
    assert size == 144
    labelled = account(made, measure(made, None, label_bytes=size), labels=store)
    assert labelled["parts"][1] == {"name": "soft labels", "numbers": 72, "bytes": 144}
    assert labelled["ipc_by_numbers"] == {"total": round(4 + 72 / 3 / SIDE**2 / 3, 4), "without_labels": 4.0}
    assert labelled["bytes_at"]["int8"] == pixels + 72 + 4 * 24


def test_students_of_trained_images_need_those_alone() -> None:
    made = small_set(4)
    pixels = made.images.numel()
    made.extras["trained_images"] = torch.zeros(12, 3, SIDE, SIDE)
    made.extras["lr"] = torch.tensor([0.05])
    found = account(made, Storage(4 * pixels, 0, 4, (4 * pixels // 3,) * 3), trained=True)
    assert found["parts"] == [
        {"name": "images", "numbers": pixels, "bytes": 4 * pixels}, {"name": "other", "numbers": 1, "bytes": 4},
    ]  # fmt: skip


def test_decoding_is_part_of_what_a_training_costs() -> None:
    made = latent_set("fp32")
    decoder = DecoderConfig("small", SIDE, z=5, kernels=8)
    assert decoding_flops(made.manifest, 7) == 7 * 6 * 2 * decoder.macs
    assert decoding_flops({}, 7) == 0
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 3))
    cost = training_flops(net, SIDE, 100, decoding=11)
    assert cost["total"] == 300 * cost["forward"] + 11


def test_training_costs_of_the_paper() -> None:
    """2000 epochs of 1000 means and as many samples, a ConvNet-4 of 64 pixels: four million pictures, 5.1 PFLOP."""
    views = 2000 * 2 * 1000
    decoding = decoding_flops(described("small", 5, 1).manifest, 2001)
    cost = training_flops(build_student("conv4_instance", 1000, 64, seed=0), 64, views, decoding=decoding)
    assert round(cost["student"] / 1e15, 1) == 5.1
    assert cost["total"] - cost["student"] == 2001 * 1000 * 2 * DecoderConfig("small", 64).macs
    assert 0.02 < decoding / cost["student"] < 0.03
