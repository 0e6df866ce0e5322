"""Showers of a diffusion transformer.

In: the shower network, conditions, noise. Out: showers in network space (B, r, phi, z). Noise is added to the mean
shower: at a finite sigma_max, starting at zero would leave a share sigma* / sigma_max of the mean missing. The
probabilistic head ends in one draw of all cells at sigma*. The null model (no steps) draws the cells at once from
that start: independent, given the conditions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.config import SamplingSpec
from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.generation.samplers import SAMPLERS, at_level
from pipeline.models import Conditions, DiffusionTransformer
from pipeline.models.diffusion import CellDistribution
from pipeline.models.formulations import noise_levels


@torch.no_grad()
def sample_diffusion(
    network: DiffusionTransformer, conditions: Conditions, noise: ShowerNoise, spec: SamplingSpec
) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already."""
    high, steps, sampler = network.spec.sigma_max, spec.steps, SAMPLERS[spec.sampler]
    start = high * noise.normal(*network.shape)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return guided(lambda dropped: network.denoised(x, sigma, conditions, dropped), len(x), spec.guidance, x.device)

    def normal() -> Tensor:
        return noise.normal(*network.shape)

    start = start + denoised(start, at_level(start, high))  # at sigma_max showers keep their mean
    if network.spec.output == "pixels":
        levels = [*noise_levels(max(steps - 1, 1), high, network.spec.sigma_min, spec.rho), 0.0]
        values = sampler(denoised, start, levels, normal, spec.eta)
        return Drawn(values, values - network.empty[conditions.domain])
    if steps:
        start = sampler(denoised, start, noise_levels(steps, high, spec.sigma_stop, spec.rho), normal, spec.eta)
    return draw(network, start, spec.sigma_stop if steps else high, conditions, noise, spec.guidance)


def draw(
    network: DiffusionTransformer,
    noisy: Tensor,
    sigma: float,
    conditions: Conditions,
    noise: ShowerNoise,
    guidance: float = 1.0,
) -> Drawn:
    """One draw of all cells, given showers plus noise of level sigma (probabilistic output)."""
    uniform, normal = noise.uniform(*network.shape), noise.normal(*network.shape)

    def numbers(dropped: Tensor | None) -> Tensor:
        cell = network.distribution(noisy, at_level(noisy, sigma), conditions, dropped)
        return torch.stack([cell.logit, cell.mean, cell.log_width])

    cell = CellDistribution(*guided(numbers, len(noisy), guidance, noisy.device))
    probability = cell.logit.sigmoid()
    hit = uniform < probability
    value = network.hit_value(cell.mean + cell.log_width.exp() * normal, conditions)
    return Drawn(torch.where(hit, value, network.empty[conditions.domain]), probability, hit)


def guided(prediction: Callable[[Tensor | None], Tensor], n: int, weight: float, device: torch.device) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598): free + weight (conditioned - free).

    `prediction` takes (n,) which showers are dropped, or None; weight 0 is the prediction without conditions, 1 the
    one with them.
    """
    if weight == 1:
        return prediction(None)
    free = prediction(torch.ones(n, dtype=torch.bool, device=device))
    return free if weight == 0 else free + weight * (prediction(None) - free)
