"""Showers of a consistency model, in one step or a few (arXiv:2303.01469, algorithm 1).

Every step carries the shower to the level epsilon; between steps noise is added again. The first step starts from
noise about the network's own mean shower, at no further evaluation. With a probabilistic teacher the teacher's head
then draws the cells at epsilon: one evaluation more.
"""

from __future__ import annotations

import torch

from pipeline.config import SamplingSpec
from pipeline.generation.diffusion import draw
from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.generation.samplers import at_level
from pipeline.models import Conditions
from pipeline.models.consistency import ConsistencyTransformer
from pipeline.models.formulations import noise_levels


@torch.no_grad()
def sample_consistency(
    network: ConsistencyTransformer, conditions: Conditions, noise: ShowerNoise, spec: SamplingSpec
) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already."""
    high, low, steps = network.spec.sigma_max, network.own.sigma_stop, max(spec.steps, 1)
    start = high * noise.normal(*network.shape)
    made = (low / high) * start + network.denoised(start, at_level(start, high), conditions)
    for sigma in noise_levels(steps, high, low, spec.rho)[1:-1]:
        noisy = made + (sigma**2 - low**2) ** 0.5 * noise.normal(*network.shape)
        made = network.step(noisy, at_level(noisy, sigma), conditions)
    if network.spec.output == "probabilistic":
        return draw(network.teacher, made, low, conditions, noise)
    return Drawn(made, made - network.empty[conditions.domain])
