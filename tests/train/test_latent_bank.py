"""Latent priors: fresh ones, counter-based normals, differentiable samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddfast.runs import seeds
from ddfast.train.latent import initial_latents, noise, sample
from ddfast.train.latent.normals import philox_words


def test_fresh_latents_are_standard_normal_in_both_parts() -> None:
    state = torch.get_rng_state()
    latents = initial_latents(5, 4, 1000, seed=3, stream="init")
    assert latents.shape == (20, 1000, 2)
    assert latents.dtype == torch.float32
    for part in latents.unbind(2):
        assert abs(float(part.mean())) < 4 / math.sqrt(part.numel())
        assert abs(float(part.var()) - 1) < 4 * math.sqrt(2 / part.numel())
    assert abs(float(torch.corrcoef(latents.flatten(0, 1).T)[0, 1])) < 4 / math.sqrt(20_000)
    assert torch.equal(torch.get_rng_state(), state)


def test_latents_of_a_class_do_not_depend_on_how_many_follow() -> None:
    few, many = (initial_latents(classes, 3, 7, seed=0, stream="x") for classes in (2, 6))
    assert torch.equal(few, many[:6])


def test_normals_have_the_normal_distribution() -> None:
    drawn = noise(0, "test", 1, shape=(250, 1001)).flatten().double().sort().values
    normal = torch.special.ndtr(drawn)
    steps = torch.arange(len(drawn), dtype=torch.float64) / len(drawn)
    assert float((normal - steps).abs().max()) < 1.95 / math.sqrt(len(drawn))  # Kolmogorov-Smirnov at 0.1 %
    neighbours = noise(0, "test", 2, shape=(2000, 8)).double()
    correlation = torch.corrcoef(neighbours.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(2000)


def test_a_row_depends_on_its_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise(4, "rows", 2, 9, shape=(11, 3, 5))
    assert torch.equal(noise(4, "rows", 2, 9, shape=(4, 3, 5), first=5), whole[5:9])
    assert torch.equal(noise(4, "rows", 2, 9, shape=(11, 15)).view(11, 3, 5), whole)
    monkeypatch.setattr("ddfast.train.latent.normals._PART", 40)
    assert torch.equal(noise(4, "rows", 2, 9, shape=(11, 3, 5)), whole)
    for other in (noise(5, "rows", 2, 9, shape=(11, 3, 5)), noise(4, "row", 2, 9, shape=(11, 3, 5)),
                  noise(4, "rows", 2, 8, shape=(11, 3, 5)), noise(4, "rows", 3, 9, shape=(11, 3, 5))):  # fmt: skip
        assert not torch.isclose(other, whole).any()
    assert noise(0, "none", shape=(0, 4)).shape == (0, 4)
    assert noise(0, "none", shape=(4, 0)).shape == (4, 0)
    assert noise(0, "one", shape=(6,)).unique().numel() == 6


@pytest.mark.parametrize("keys", [(), (7,), (7, 2**32 - 1)])
def test_words_made_by_torch_are_philox(keys: tuple[int, ...]) -> None:
    words = philox_words(5, "device", keys, 2**31, 9, 3, torch.device("cpu"))
    expected = seeds.counter_words(5, "device", *keys, np.arange(2**31, 2**31 + 9), words=12)
    np.testing.assert_array_equal(words.numpy(), expected)


def test_normals_are_box_mullers() -> None:
    words = seeds.counter_words(0, "formula", 3, np.arange(2), words=4).astype(np.float64)
    u, v = (words[:, 0] + 1) / 2**32, words[:, 1] / 2**32
    found = noise(0, "formula", 3, shape=(2, 2)).double().numpy()
    np.testing.assert_allclose(found[:, 0], np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v), rtol=1e-6)


@pytest.mark.gpu
def test_gpu_draws_the_same_normals() -> None:
    torch.testing.assert_close(
        noise(1, "gpu", 2, shape=(50, 33), device="cuda").cpu(),
        noise(1, "gpu", 2, shape=(50, 33)),
        rtol=3e-7,
        atol=1e-7,
    )


def test_samples_have_the_priors_moments_and_gradients() -> None:
    latents = initial_latents(1, 1, 6, seed=0, stream="moments").double().requires_grad_()
    eps = noise(0, "moments/eps", shape=(40_000, 6)).double()
    drawn = sample(latents.expand(40_000, 6, 2), eps)
    mean, deviation = latents[0, :, 0], (latents[0, :, 1] / 2).exp()
    assert bool(((drawn.mean(0) - mean).abs() < 4.5 * deviation / 200).all())
    assert bool(((drawn.std(0) / deviation - 1).abs() < 4.5 / math.sqrt(80_000)).all())
    small = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sample(x, eps[:3, :4]), (small,))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="lpc: got 0, expected 1 or more"):
        initial_latents(3, 0, 4, seed=0, stream="x")
    with pytest.raises(ValueError, match="at most two keys"):
        noise(0, "x", 1, 2, 3, shape=(4,))
    with pytest.raises(ValueError, match=r"keys\[0\]: got values -1"):
        noise(0, "x", -1, shape=(4,))
    with pytest.raises(ValueError, match="first: got -2"):
        noise(0, "x", shape=(4,), first=-2)
    with pytest.raises(ValueError, match=r"got shapes \[3, 4, 2\] and \[3, 5\], expected \[n, z, 2\] and \[n, z\]"):
        sample(torch.zeros(3, 4, 2), torch.zeros(3, 5))
