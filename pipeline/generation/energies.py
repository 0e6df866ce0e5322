"""Layer energies of showers, made by the energy network before the showers themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.generation.samplers import heun
from pipeline.models import Conditions, LayerEnergyDiffusion
from pipeline.models.formulations import noise_levels

SIGMAS = (0.005, 40.0)
RHO = 7.0


@torch.no_grad()
def sample_layer_energies(
    network: LayerEnergyDiffusion, conditions: Conditions, noise: Tensor, steps: int | None = None
) -> Tensor:
    """Normal noise (B, 1 + Z) -> layer energies (B, Z) in visible MeV, each 0 or above the threshold."""
    low, high = SIGMAS
    levels = [*noise_levels(max((steps or network.spec.steps) - 1, 1), high, low, RHO), 0.0]
    features = heun(lambda x, sigma: network(x, sigma, conditions), high * noise, levels)
    return network.layer_energies(features, conditions)
