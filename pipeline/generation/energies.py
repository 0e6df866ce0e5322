"""Layer energies of showers, made by the energy network before the showers themselves.

Heun's steps go down to a low level, as in EDM. DPM-Solver++ of few steps ends earlier: the errors of its last steps
widen the energies, and what lies below sigma 0.1 is a tenth of a feature's spread at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.generation.samplers import SAMPLERS
from pipeline.models import Conditions, LayerEnergyDiffusion
from pipeline.models.formulations import noise_levels

SIGMA_MAX, RHO = 40.0, 7.0
SIGMA_MIN = {"heun": 0.005, "dpm_solver": 0.1}


@torch.no_grad()
def sample_layer_energies(
    network: LayerEnergyDiffusion,
    conditions: Conditions,
    noise: Tensor,
    steps: int | None = None,
    sampler: str = "heun",
) -> Tensor:
    """Normal noise (B, 1 + Z) -> layer energies (B, Z) in visible MeV, each 0 or above the threshold."""
    levels = [*noise_levels(max((steps or network.spec.steps) - 1, 1), SIGMA_MAX, SIGMA_MIN[sampler], RHO), 0.0]
    start = SIGMA_MAX * noise
    features = SAMPLERS[sampler](
        lambda x, sigma: network(x, sigma, conditions), start, levels, lambda: torch.zeros_like(start), 0.0
    )
    return network.layer_energies(features, conditions)
