"""Samplers: pure functions over a network and given noise.

In: noise of unit spread, conditions. Out: showers in network space (B, r, phi, z), or layer energies (B, Z) in
MeV. Heun's method in sigma^(1/rho) (arXiv:2206.00364, eq. 5 and algorithm 1) serves the EDM denoisers and the
posterior mean of the probabilistic head alike; that head ends in one draw of all cells at sigma*. Noise is added to
the mean shower: at a finite sigma_max, starting at zero would leave a share sigma* / sigma_max of the mean missing.
The null model (no steps) draws the cells at once from that start: independent, given the conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.models import Conditions, LayerEnergyDiffusion, ShowerDiffusion

Denoiser = Callable[[Tensor, Tensor], Tensor]

RHO = 4.0
ENERGY_SIGMAS = (0.005, 40.0)
ENERGY_RHO = 7.0


@dataclass(frozen=True)
class Noise:
    """Random numbers of B showers: layers (B, 1 + Z), cells and draw (B, r, phi, z) normal; hit uniform in [0, 1)."""

    layers: Tensor
    cells: Tensor
    hit: Tensor
    draw: Tensor


@dataclass(frozen=True)
class Drawn:
    """Showers (B, r, phi, z): network values, hits, and how likely each cell was to be hit."""

    values: Tensor
    hit: Tensor
    likelihood: Tensor


def noise_levels(steps: int, high: float, low: float, rho: float) -> list[float]:
    """`steps` + 1 levels from high to low, even in sigma^(1/rho) (arXiv:2206.00364, eq. 5)."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return [float((ends[0] + (ends[1] - ends[0]) * i / steps) ** rho) for i in range(steps + 1)]


def heun(denoiser: Denoiser, start: Tensor, levels: list[float]) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma through the levels (arXiv:2206.00364, algorithm 1)."""
    x = start
    for sigma, following in pairwise(levels):
        slope = (x - denoiser(x, _level(x, sigma))) / sigma
        proposed = x + (following - sigma) * slope
        if following > 0:
            corrected = (proposed - denoiser(proposed, _level(x, following))) / following
            proposed = x + (following - sigma) * 0.5 * (slope + corrected)
        x = proposed
    return x


def _level(x: Tensor, sigma: float) -> Tensor:
    return torch.full((len(x),), sigma, device=x.device)


@torch.no_grad()
def sample_layer_energies(network: LayerEnergyDiffusion, conditions: Conditions, noise: Tensor) -> Tensor:
    """Normal noise (B, 1 + Z) -> layer energies (B, Z) in visible MeV, each 0 or above the threshold."""
    low, high = ENERGY_SIGMAS
    levels = [*noise_levels(network.spec.steps - 1, high, low, ENERGY_RHO), 0.0]
    features = heun(lambda x, sigma: network(x, sigma, conditions), high * noise, levels)
    return network.layer_energies(features, conditions)


@torch.no_grad()
def sample_showers(
    network: ShowerDiffusion, conditions: Conditions, noise: Noise, steps: int, sigma_stop: float
) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already."""
    spec, showers = network.spec, network.showers
    start = spec.sigma_max * noise.cells

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return showers.denoised(x, sigma, conditions)

    start = start + denoised(start, _level(start, spec.sigma_max))  # at sigma_max showers keep their mean
    if spec.output == "pixels":
        values = heun(denoised, start, [*noise_levels(max(steps - 1, 1), spec.sigma_max, spec.sigma_min, RHO), 0.0])
        empty = showers.empty[conditions.domain]
        return Drawn(values, values > empty, values - empty)
    stop = sigma_stop if steps else spec.sigma_max
    if steps:
        start = heun(denoised, start, noise_levels(steps, spec.sigma_max, stop, RHO))
    cell = showers.distribution(start, _level(start, stop), conditions)
    probability = cell.logit.sigmoid()
    hit = noise.hit < probability
    value = showers.hit_value(cell.mean + cell.log_width.exp() * noise.draw, conditions)
    return Drawn(torch.where(hit, value, showers.empty[conditions.domain]), hit, probability)


def sample(
    network: ShowerDiffusion, conditions: Conditions, noise: Noise, steps: int, sigma_stop: float
) -> tuple[Drawn, Conditions]:
    """Layer energies first where the network has an energy network, then the showers; (showers, conditions)."""
    if network.energies is not None:
        energies = sample_layer_energies(network.energies, conditions, noise.layers)
        conditions = replace(conditions, layer_energy=energies)
    return sample_showers(network, conditions, noise, steps, sigma_stop), conditions
