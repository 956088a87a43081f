"""The transcription of RDED must itself be right: it judges everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from benchmarks.baselines import rded_reference as reference


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    for label in range(3):
        (root / f"class{label}").mkdir()
        for index in range(12):
            shape = (40 + 3 * index, 61 - index, 3)[: 2 if index == 5 else 3]  # one grayscale file
            picture = np.linspace(0, 255, shape[0])[:, None].repeat(shape[1], 1)
            picture = (picture[..., None] if len(shape) == 3 else picture) * rng.random(shape)
            Image.fromarray(picture.astype(np.uint8)).save(root / f"class{label}" / f"{index}.jpg", quality=95)
    return root


def run(folder: Path, out: Path, **changes: object) -> reference.ReferenceRun:
    options: dict[str, object] = {"nclass": 3, "ipc": 2, "mipc": 10, "num_crop": 3, "size": 48, "factor": 2, "seed": 7}
    return reference.distill(folder, small_net, out, **(options | changes))  # type: ignore[arg-type]


def contents(run: reference.ReferenceRun) -> list[bytes]:
    return [file.read_bytes() for file in run.files]


def test_writes_the_original_names_and_jpeg_settings(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path)
    names = [file.relative_to(tmp_path).as_posix() for file in result.files]
    assert names == [f"{c:05d}/class{c:05d}_id{j:05d}.jpg" for c in range(3) for j in range(2)]
    assert sorted(path for path in tmp_path.rglob("*.jpg")) == sorted(result.files)
    with Image.open(result.files[0]) as picture:
        assert picture.size == (48, 48)
        assert picture.quantization[0][0] == 8  # luminance DC step of quality 75
        assert [component[1:3] for component in picture.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
    assert set(result.timings) == set(reference.STAGES)
    assert result.timings["load"] > 0
    assert result.timings["forward"] > 0


def test_seeded_repeat_is_identical_and_unseeded_is_not(folder: Path, tmp_path: Path) -> None:
    first, second = run(folder, tmp_path / "a"), run(folder, tmp_path / "b")
    assert first.chosen == second.chosen
    assert contents(first) == contents(second)
    assert contents(run(folder, tmp_path / "c", seed=None)) != contents(first)


def test_output_depends_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    alone, pair = run(folder, tmp_path / "a"), run(folder, tmp_path / "b", workers=2)
    assert {choice.path for choice in alone.chosen} <= {str(path) for path in folder.rglob("*.jpg")}
    assert [choice.box for choice in alone.chosen] != [choice.box for choice in pair.chosen]
    assert contents(pair) == contents(run(folder, tmp_path / "c", workers=2))


def test_the_draw_is_the_transforms_own(folder: Path) -> None:
    pool = reference.ClassPool(folder, 1, 2, 4, 24, transforms.Normalize((0.0,) * 3, (1.0,) * 3))
    torch.manual_seed(3)
    crops = pool[1][0]
    torch.manual_seed(3)
    image = transforms.ToTensor()(Image.open(pool.paths[1]).convert("RGB"))
    own = transforms.RandomResizedCrop(24, scale=(0.08, 1.0), ratio=(1.0, 1.0), antialias=True)
    torch.testing.assert_close(crops, torch.stack([own(image) for _ in range(4)]), rtol=0, atol=0)


def test_scores_and_ranking_follow_from_the_recorded_boxes(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(11)
    net = small_net()
    torch.manual_seed(0)
    result = reference.distill(folder, net, tmp_path, nclass=3, ipc=2, mipc=10, num_crop=3, size=48, factor=2, seed=5)
    assert len(result.chosen) == 3 * 8
    double = small_net().double()
    double.load_state_dict(net.state_dict())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (reference.IMAGENET_MEAN, reference.IMAGENET_STD))
    for choice in result.chosen:
        top, left, height, width = choice.box
        pixels = np.asarray(Image.open(choice.path).convert("RGB"))[top : top + height, left : left + width]
        crop = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        patch = nn.functional.interpolate(crop, (24, 24), mode="bilinear", antialias=True)
        canvas = torch.zeros(1, 3, 48, 48, dtype=torch.float64)
        canvas[:, :, 12:36, 12:36] = (patch - mean) / std
        truth = nn.functional.cross_entropy(double(canvas), torch.tensor([choice.label]))
        assert choice.score == pytest.approx(float(truth.detach()), rel=1e-4, abs=1e-6)
    for label in range(3):
        scores = [choice.score for choice in result.chosen if choice.label == label]
        assert scores == sorted(scores)
    assert len({choice.path for choice in result.chosen}) == len(result.chosen)


def test_mosaic_places_rank_by_image_then_quadrant() -> None:
    patches = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    images = reference.mosaic(patches, 2, 9, 2)  # cells are 5 then 4 pixels
    assert images.shape == (2, 3, 9, 9)
    for j in range(2):
        assert images[j, 0, :5, :5].unique().tolist() == [j]
        assert images[j, 0, :5, 5:].unique().tolist() == [2 + j]
        assert images[j, 0, 5:, :5].unique().tolist() == [4 + j]
        assert images[j, 0, 5:, 5:].unique().tolist() == [6 + j]


def test_grey_levels_that_do_not_survive_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(256, 1, 1, 1).expand(256, 3, 1, 1) / 255
    normal = transforms.Normalize(reference.IMAGENET_MEAN, reference.IMAGENET_STD)(levels)
    back = reference.to_uint8(normal, reference.IMAGENET_MEAN, reference.IMAGENET_STD)[:, 0, 0, :].astype(int)
    drop = np.arange(256)[:, None] - back
    assert set(np.unique(drop)) == {0, 1}
    assert drop.sum(0).tolist() == [59, 38, 32]


def test_literal_loss_underflows_and_overflows() -> None:
    logits = torch.tensor([[40.0, 0.0], [0.0, 200.0], [0.0, 0.0]])
    loss = reference.literal_loss(logits, torch.tensor([0, 0, 1]))
    assert loss[0] == 0
    assert torch.signbit(loss[0])
    assert loss[1] == float("inf")
    assert float(loss[2]) == pytest.approx(np.log(2), rel=1e-6)


def test_short_classes_fail_as_in_the_original(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        run(folder, tmp_path, mipc=13)
    with pytest.raises(ValueError, match="nclass: got 4"):
        run(folder, tmp_path, nclass=4)


@pytest.mark.data
def test_on_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    options = {"mipc": 12, "num_crop": 2, "size": 64, "ipc": 2}
    result = run(shared_data / "imagenet20" / "train", tmp_path, **options)
    assert len(result.files) == 6
    assert all(file.stat().st_size > 500 for file in result.files)


def test_given_draws_replace_the_random_ones(folder: Path, tmp_path: Path) -> None:
    free = run(folder, tmp_path / "a")
    pool = reference.ClassPool(folder, 3, 10, 3, 24, transforms.Normalize((0.0,) * 3, (1.0,) * 3))
    draws = [
        reference.Draw(pool.paths[10 * c : 10 * c + 10], [[(0, 0, 20, 20), (5, 5, 15, 15), (1, 2, 9, 9)]] * 10)
        for c in range(3)
    ]
    first, second = (run(folder, tmp_path / name, draws=draws) for name in "bc")
    assert first.chosen == second.chosen
    assert {choice.box for choice in first.chosen} <= set(draws[0].boxes[0])
    assert first.chosen != free.chosen
