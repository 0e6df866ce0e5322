"""Showers of a VAE: a latent vector of the prior, decoded once."""

from __future__ import annotations

import torch

from pipeline.config import SamplingSpec
from pipeline.generation.cells import draw_cells
from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.models import Conditions, ShowerVAE


@torch.no_grad()
def sample_vae(network: ShowerVAE, conditions: Conditions, noise: ShowerNoise, spec: SamplingSpec) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already; no setting concerns it."""
    latent = noise.normal(network.spec.latent)
    return draw_cells(network, network.decode(latent, conditions), conditions, noise)
