"""Showers completed from their first layers: the given cells are kept, what lies behind is generated.

In: showers on the raw mesh, how many layers of the network's mesh are given. Out: those layers' cells; whole layer
energies that begin with the given ones; the codes of the given layers, from which an autoregressive prior goes on.
Layer energies: of several draws of the energy network the one nearest to the given layers, in logarithms, which is
an approximation of the conditional distribution. Codes: those of the shower with nothing
behind the given layers; exact for a tokenizer whose codes see `layers_before`, approximate for one that sees all.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.calorimeter import RaggedShowers
from pipeline.data.transforms import Transform
from pipeline.generation.energies import sample_layer_energies
from pipeline.generation.noise import ShowerNoise
from pipeline.models import AutoregressivePrior, Conditions, LayerEnergyDiffusion

CANDIDATES = 32


def first_layers(showers: RaggedShowers, transform: Transform, layers: int) -> NDArray[np.float32]:
    """(B, r, phi, z) MeV on the network's mesh, behind its cut; all but the first layers empty."""
    energy = transform.on_mesh(showers).dense().energy.copy()
    energy[..., layers:] = 0
    return energy


def complete_layer_energies(
    network: LayerEnergyDiffusion,
    conditions: Conditions,
    given: Tensor,
    noise: ShowerNoise,
    steps: int | None = None,
    sampler: str = "heun",
) -> Tensor:
    """(B, L) MeV of the first layers -> (B, Z) MeV that begin with them; steps and sampler of every draw."""
    n, layers = given.shape
    total = conditions.layer_energy.shape[1]
    normal = noise.normal(CANDIDATES, 1 + total).flatten(0, 1)  # (B C, 1 + Z)
    drawn = sample_layer_energies(network, conditions.repeat(CANDIDATES), normal, steps, sampler)  # (B C, Z)
    drawn = drawn.reshape(n, CANDIDATES, total)
    cut = network.threshold_mev
    distance = ((drawn[:, :, :layers] + cut).log() - (given[:, None] + cut).log()).square().sum(dim=2)  # (B, C)
    nearest = drawn[torch.arange(n), distance.argmin(dim=1)]  # (B, Z)
    return torch.cat([given, nearest[:, layers:]], dim=1)


def first_codes(
    network: AutoregressivePrior, begun: NDArray[np.float32], layers: int, transform: Transform, conditions: Conditions
) -> Tensor:
    """(B, r, phi, z) MeV of the first layers -> (B, t) codes that lie wholly within them."""
    incident = conditions.incident_energy.cpu().numpy().astype(np.float64)
    values = torch.from_numpy(np.asarray(transform.pointwise(begun, incident), np.float32)).to(conditions.theta.device)
    return network.tokenizer.encode(values, conditions)[:, : network.tokenizer.codes_within(layers)]
