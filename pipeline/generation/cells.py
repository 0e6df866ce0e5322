"""Cells from what a decoder says of them: one draw, independent given the decoder's numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.models import CellNetwork, Conditions


def draw_cells(network: CellNetwork, numbers: Tensor, conditions: Conditions, noise: ShowerNoise) -> Drawn:
    """(B, numbers, r, phi, z) -> showers; pixels are what the decoder says, without a draw."""
    empty = network.empty[conditions.domain]
    if network.output == "pixels":
        values = network.pixels(numbers, conditions)
        return Drawn(values, values - empty)
    uniform, normal = noise.uniform(*network.shape), noise.normal(*network.shape)
    cell = network.distribution(numbers, conditions)
    probability = cell.logit.sigmoid()
    hit = uniform < probability
    value = network.hit_value(cell.mean + cell.log_width.exp() * normal, conditions)
    return Drawn(torch.where(hit, value, empty), probability, hit)
