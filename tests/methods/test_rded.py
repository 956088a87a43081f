"""RDED end to end: the selection is right, and depends on nothing but the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import ddfast
from ddfast._types import IMAGENET
from ddfast.data import draw_rrc_boxes, open_source
from ddfast.methods.rded.config import PRESETS, RDEDConfig
from ddfast.methods.rded.scorer import draw_positions
from tests.methods.rded_case import SETTINGS, files_of, small_net


def run(pictures: Path, net: nn.Module, out: Path, **settings: object) -> ddfast.DistilledSet:
    return ddfast.distill("rded", pictures, observer=net, out=out, **{**SETTINGS, **settings})


def naive_selection(root: Path, net: nn.Module, config: RDEDConfig) -> list[list[tuple[str, list[int], float]]]:
    """Per class, rank order: file, box and loss, by plain loops in float64."""
    source, double = open_source(root), net.double()
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET.mean, IMAGENET.std))
    chosen = []
    for label in range(len(source.class_names)):
        best = []
        for position in draw_positions(config, label, source.count(label)):
            name = source.sample_id(label, int(position))
            pixels = torch.from_numpy(np.array(Image.open(root / name).convert("RGB"))).permute(2, 0, 1).double() / 255
            boxes = draw_rrc_boxes(config.seed, label, [position], [pixels.shape[1:]], config.num_crop, config.scale)[0]
            losses = []
            for top, left, side, _ in boxes.tolist():
                crop = pixels[None, :, top : top + side, left : left + side]
                patch = F.interpolate(crop, (config.patch,) * 2, mode="bilinear", antialias=True)[0]
                pad = config.size - config.patch
                canvas = F.pad((patch - mean) / std, (pad // 2, pad - pad // 2) * 2)
                losses.append(F.cross_entropy(double(canvas[None]), torch.tensor([label])).item())
            k = int(np.argmin(losses))
            best.append((losses[k], int(position), name, boxes[k].tolist()))
        best.sort(key=lambda item: item[:2])
        chosen.append([(name, box, loss) for loss, _, name, box in best[: config.patches]])
    net.float()
    return chosen


def recorded_selection(result: ddfast.DistilledSet, config: RDEDConfig) -> list[list[tuple[str, list[int], float]]]:
    """The manifest's cells back in rank order."""
    classes: list[list[tuple[str, list[int], float]]] = [
        [("", [], 0.0)] * config.patches for _ in range(len(result.class_names))
    ]
    seen = dict.fromkeys(range(len(classes)), 0)
    for image in result.manifest["images"]:
        for k, cell in enumerate(image["cells"]):
            rank = seen[image["label"]] + config.ipc * k
            classes[image["label"]][rank] = (cell["sample"], cell["box"], cell["score"])
        seen[image["label"]] += 1
    return classes


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_selection_equals_plain_loops_in_float64(
    pictures: Path, net: nn.Module, tmp_path: Path, factor: int, precision: str
) -> None:
    ipc = 4 // factor
    result = run(pictures, net, tmp_path / "out", factor=factor, ipc=ipc, precision=precision)
    config = RDEDConfig(ipc=ipc, factor=factor, mipc=12, num_crop=3, size=32)
    truth, found = naive_selection(pictures, net, config), recorded_selection(result, config)
    for label, (wanted, got) in enumerate(zip(truth, found, strict=True)):
        assert [w[:2] for w in wanted] == [g[:2] for g in got], f"class {label}"
        np.testing.assert_allclose(
            [g[2] for g in got], [w[2] for w in wanted], rtol={"bf16": 0.05, "fp16": 5e-3, "fp32": 1e-4}[precision]
        )


def test_mosaics_hold_the_recorded_patches(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    result = run(pictures, net, tmp_path / "out", format="png")
    for image, entry in zip(result.images, result.manifest["images"], strict=True):
        for k, cell in enumerate(entry["cells"]):
            top, left, height, width = cell["box"]
            pixels = torch.from_numpy(np.array(Image.open(pictures / cell["sample"]).convert("RGB")))
            crop = pixels[top : top + height, left : left + width].permute(2, 0, 1)[None].double()
            patch = F.interpolate(crop, (16, 16), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
            row, column = divmod(k, 2)
            tile = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].double()
            assert (tile - patch).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    "how",
    [
        {"workers": 0}, {"workers": 1}, {"workers": 4}, {"workers": 2, "batch_images": 5},
        {"stream": "torch", "workers": 2}, {"constant_frame_skip": False},
    ],
    ids=lambda how: "-".join(f"{k}={v}" for k, v in how.items()),
)  # fmt: skip
def test_results_depend_on_the_seed_only(
    pictures: Path, net: nn.Module, tmp_path: Path, how: dict[str, object]
) -> None:
    run(pictures, net, tmp_path / "a", workers=0)
    run(pictures, net, tmp_path / "b", **how)
    first, second = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    if "workers" not in how or len(how) > 1:  # the last digits of scores may depend on how batches are cut
        for files in (first, second):
            files.pop("manifest.json"), files.pop("records.json")
    assert first == second
    run(pictures, net, tmp_path / "c", seed=1)
    assert files_of(tmp_path / "c")["00000/class00000_id00000.jpg"] != first["00000/class00000_id00000.jpg"]


def test_formats_hold_the_same_images(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    png = run(pictures, net, tmp_path / "png", format="png")
    packed = run(pictures, net, tmp_path / "packed", format="safetensors")
    assert torch.equal(png.images, packed.images)
    assert torch.equal(png.labels, packed.labels)
    assert not list((tmp_path / "packed").glob("0*"))
    again = run(pictures, net, tmp_path / "packed", format="safetensors", resume=True)
    assert torch.equal(packed.images, again.images)


def test_a_small_source_of_arrays_works(net: nn.Module, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 20, 24, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    result = ddfast.distill("rded", (images, labels), observer=net, out=tmp_path / "o", **{**SETTINGS, "mipc": 10})
    assert result.images.shape == (8, 32, 32, 3)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_presets_are_valid_and_fit_their_data() -> None:
    for name, values in PRESETS.items():
        config = RDEDConfig(**values)
        assert config.patches <= config.mipc, name


def test_without_an_output_folder_the_result_is_in_memory(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    on_disk = run(pictures, net, tmp_path / "out")
    in_memory = ddfast.distill("rded", pictures, observer=net, **SETTINGS)
    assert torch.equal(on_disk.images, in_memory.images)


def test_the_manifest_names_the_preset_and_no_machine_paths(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    result = run(pictures, net, tmp_path / "out", preset="smoke", weights=str(tmp_path / "weights.safetensors"))
    assert result.manifest["preset"] == "smoke"
    assert result.manifest["config"]["weights"] == "weights.safetensors"
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "run.json").read_text()


def test_tiny_losses_are_ranked_by_their_logits(pictures: Path, net: nn.Module, tmp_path: Path) -> None:
    """Margins of hundreds: the float32 losses are all zero, the selection is still that of float64."""
    with torch.no_grad():
        net[-1].bias.zero_()
        net[-1].bias[0] = 300.0
    result = run(pictures, net, tmp_path / "out")
    config = RDEDConfig(ipc=2, factor=2, mipc=12, num_crop=3, size=32)
    source, found = open_source(pictures), recorded_selection(result, config)
    margins = []
    for position in draw_positions(config, 0, source.count(0)):
        name = source.sample_id(0, int(position))
        pixels = torch.from_numpy(np.array(Image.open(pictures / name).convert("RGB"))).permute(2, 0, 1).double() / 255
        best = np.inf
        for top, left, side, _ in draw_rrc_boxes(0, 0, [position], [pixels.shape[1:]], 3)[0].tolist():
            crop = pixels[None, :, top : top + side, left : left + side]
            patch = F.interpolate(crop, (16, 16), mode="bilinear", antialias=True)[0]
            mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET.mean, IMAGENET.std))
            z = net.double()(F.pad((patch - mean) / std, (8, 8, 8, 8))[None])[0].detach()
            best = min(best, float(torch.logsumexp(z[1:], 0) - z[0]))
        margins.append((best, int(position), name))
    wanted = [name for _, _, name in sorted(margins)[: config.patches]]
    assert max(margins)[0] < -100
    assert [cell[0] for cell in found[0]] == wanted


def test_activations_that_overflow_in_half_precision_are_scored_in_float32(pictures: Path, tmp_path: Path) -> None:
    net = small_net()
    with torch.no_grad():  # 65504 is the largest float16; the second convolution brings the values back
        net[1].weight.mul_(1e5)
        net[1].bias.mul_(1e5)
        net[3].weight.mul_(1e-5)
    plain = run(pictures, net, tmp_path / "fp32")
    half = run(pictures, net, tmp_path / "fp16", precision="fp16")
    assert torch.equal(half.images, plain.images)
    crops = 4 * 12 * 3
    assert half.manifest["selection"]["rescored"]["fp32"] > crops // 2
