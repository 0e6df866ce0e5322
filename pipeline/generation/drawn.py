"""What a family's sampler hands back, before the inverse transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.config import SamplingSpec
from pipeline.generation.noise import ShowerNoise
from pipeline.models import Conditions


@dataclass(frozen=True)
class Drawn:
    """Showers (B, r, phi, z): network values, how likely each cell was to be hit (any increasing measure), and hits.

    Cells that are `hit` are raised to the threshold and all others emptied; `hit` None: the threshold decides.
    """

    values: Tensor
    likelihood: Tensor
    hit: Tensor | None = None


FamilySampler = Callable[[Any, Conditions, ShowerNoise, SamplingSpec], Drawn]
"""(the family's shower network, conditions with layer energies, noise, settings) -> showers in network space."""
