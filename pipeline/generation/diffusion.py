"""Showers of a diffusion transformer.

In: the shower network, conditions, noise. Out: showers in network space (B, r, phi, z). Noise is added to the mean
shower: at a finite sigma_max, starting at zero would leave a share sigma* / sigma_max of the mean missing. The
probabilistic head ends in one draw of all cells at sigma*. The null model (no steps) draws the cells at once from
that start: independent, given the conditions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.config import SamplingSpec
from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.generation.samplers import at_level, heun, noise_levels
from pipeline.models import Conditions, DiffusionTransformer

RHO = 4.0


@torch.no_grad()
def sample_diffusion(
    network: DiffusionTransformer, conditions: Conditions, noise: ShowerNoise, spec: SamplingSpec
) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already."""
    high, steps = network.spec.sigma_max, spec.steps
    start = high * noise.normal(*network.shape)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return network.denoised(x, sigma, conditions)

    start = start + denoised(start, at_level(start, high))  # at sigma_max showers keep their mean
    if network.spec.output == "pixels":
        values = heun(denoised, start, [*noise_levels(max(steps - 1, 1), high, network.spec.sigma_min, RHO), 0.0])
        return Drawn(values, values - network.empty[conditions.domain])
    if steps:
        start = heun(denoised, start, noise_levels(steps, high, spec.sigma_stop, RHO))
    return draw(network, start, spec.sigma_stop if steps else high, conditions, noise)


def draw(
    network: DiffusionTransformer, noisy: Tensor, sigma: float, conditions: Conditions, noise: ShowerNoise
) -> Drawn:
    """One draw of all cells, given showers plus noise of level sigma (probabilistic output)."""
    uniform, normal = noise.uniform(*network.shape), noise.normal(*network.shape)
    cell = network.distribution(noisy, at_level(noisy, sigma), conditions)
    probability = cell.logit.sigmoid()
    hit = uniform < probability
    value = network.hit_value(cell.mean + cell.log_width.exp() * normal, conditions)
    return Drawn(torch.where(hit, value, network.empty[conditions.domain]), probability, hit)
