"""Laws of samplers and formulations: on the exact denoiser of a Gaussian every sampler gives that Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.config import DiffusionSpec
from pipeline.generation.diffusion import guided
from pipeline.generation.samplers import SAMPLERS, ancestral, ddim, euler, heun
from pipeline.models.formulations import (
    cosine_sigma,
    linear_sigma,
    log_uniform,
    noise_levels,
    preconditioning,
    training_levels,
)

MEAN, SPREAD = 1.5, 0.4
PIXELS = {"patch": (2, 2, 1), "output": "pixels"}
FORMULATIONS = [
    {"formulation": "edm"},
    *({"formulation": f, "target": t} for f in ("ddpm", "flow") for t in ("x", "eps", "v")),
]


def gaussian(x, sigma):
    """The ideal denoiser of data N(MEAN, SPREAD^2)."""
    square = sigma[:, None] ** 2
    return (SPREAD**2 * x + square * MEAN) / (SPREAD**2 + square)


def normal_source(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------------ samplers


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_every_sampler_gives_the_gaussian_of_a_gaussian_denoiser(name, eta):
    normal = normal_source((20000, 1))
    start = MEAN + math.hypot(80, SPREAD) * normal()
    made = SAMPLERS[name](gaussian, start, [*noise_levels(200, 80.0, 1e-3, 7.0), 0.0], normal, eta)
    assert made.mean() == pytest.approx(MEAN, abs=0.015)
    assert made.std() == pytest.approx(SPREAD, rel=0.03)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (SAMPLERS["dpm_solver"], 2)])
def test_the_order_of_a_solver(sampler, order):
    """The exact way of a Gaussian: (x - MEAN) scales as sqrt(SPREAD^2 + sigma^2)."""
    exact = MEAN + math.sqrt((SPREAD**2 + 0.25) / (SPREAD**2 + 16))

    def error(steps):
        start = torch.full((1, 1), MEAN + 1, dtype=torch.float64)
        return abs(
            sampler(gaussian, start, noise_levels(steps, 4.0, 0.5, 4.0), normal_source((1, 1)), 0).item() - exact
        )

    assert error(20) / error(40) == pytest.approx(2**order, rel=0.3)


def test_ddim_lies_between_euler_and_ancestral():
    levels = [*noise_levels(8, 10.0, 0.1, 4.0), 0.0]
    start = 10 * normal_source((50, 3))()
    assert torch.allclose(
        ddim(gaussian, start, levels, normal_source((50, 3)), 0), euler(gaussian, start, levels), rtol=1e-12
    )
    both = [s(gaussian, start, levels, normal_source((50, 3)), 1) for s in (ddim, ancestral)]
    assert torch.allclose(both[0], both[1], rtol=1e-12)


def test_noise_levels_run_from_high_to_low():
    levels = noise_levels(8, 20.0, 1.0, 4.0)
    assert levels[0] == pytest.approx(20) and levels[-1] == pytest.approx(1) and len(levels) == 9
    assert np.allclose(np.diff(np.array(levels) ** 0.25), np.diff(np.array(levels) ** 0.25)[0])


def test_guidance_zero_is_unconditional_and_one_conditional():
    asked = []

    def prediction(dropped):
        asked.append(dropped)
        return torch.full((2,), 1.0 if dropped is None else 3.0)

    device = torch.device("cpu")
    assert guided(prediction, 2, 0.0, device).tolist() == [3, 3] and asked[0].tolist() == [True, True]
    assert guided(prediction, 2, 1.0, device).tolist() == [1, 1] and asked[1] is None and len(asked) == 2
    assert guided(prediction, 2, 2.0, device).tolist() == [-1, -1]


# -------------------------------------------------------------------------------- formulations


@pytest.mark.parametrize("choice", FORMULATIONS, ids=lambda c: "-".join(c.values()))
def test_the_clean_shower_follows_from_the_networks_target(choice):
    """D = skip noisy + out target gives the clean shower back, for every formulation."""
    clean, noise = torch.randn(2, 50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)[:, None]
    noisy = clean + sigma * noise
    by = preconditioning(DiffusionSpec(**PIXELS, **choice), sigma)
    assert torch.allclose(by.skip * noisy + by.out * by.target(clean, noisy), clean, atol=1e-9)


def test_targets_are_what_they_are_called():
    clean, noise = torch.randn(2, 50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)[:, None]
    alpha, time = (1 + sigma**2) ** -0.5, sigma / (1 + sigma)
    expected = {
        ("ddpm", "x"): clean,
        ("ddpm", "eps"): noise,
        ("ddpm", "v"): alpha * noise - sigma * alpha * clean,
        ("flow", "x"): clean,
        ("flow", "eps"): noise,
        ("flow", "v"): noise - clean,
    }
    for (formulation, target), wanted in expected.items():
        by = preconditioning(DiffusionSpec(**PIXELS, formulation=formulation, target=target), sigma)
        assert torch.allclose(by.target(clean, clean + sigma * noise), wanted, atol=1e-8), (formulation, target)
        seen = alpha * (clean + sigma * noise) if formulation == "ddpm" else (1 - time) * clean + time * noise
        assert torch.allclose(by.scale * (clean + sigma * noise), seen, atol=1e-9)


def test_schedules_match_their_papers():
    """DDPM's 1000 betas from 1e-4 to 0.02 (arXiv:2006.11239, section 4); cosine as in arXiv:2102.09672, eq. 17."""
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    at = np.array([99, 499, 899])
    sigma = linear_sigma(torch.tensor((at + 1) / 1000))
    assert np.allclose(1 / (1 + sigma.numpy() ** 2), signal[at], rtol=0.06)  # 1000 steps against a continuum
    time = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    f = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(1 / (1 + cosine_sigma(time) ** 2), f / f[0], rtol=1e-6)


@pytest.mark.parametrize("choice", [*FORMULATIONS[1:], {"formulation": "ddpm", "schedule": "linear"}])
def test_training_levels_stay_in_range_and_are_finite(choice):
    spec = DiffusionSpec(**PIXELS, **choice, sigma_min=0.02, sigma_max=50)
    sigma = training_levels(spec, 1000, torch.Generator().manual_seed(0))
    assert sigma.min() >= 0.02 and sigma.max() <= 50 and sigma.log().std() > 0.5


def test_noise_levels_are_uniform_in_log():
    sigma = log_uniform(1000, 0.5, 8.0, torch.Generator().manual_seed(0))
    assert sigma.min() >= 0.5 and sigma.max() <= 8
    assert sigma.log2().histc(4, -1, 3).std() < 3


def test_a_probabilistic_head_has_no_formulation():
    with pytest.raises(ValueError, match=r"expected edm with output 'probabilistic'.*got 'flow'; set output: pixels"):
        DiffusionSpec(patch=(2, 2, 1), formulation="flow")
