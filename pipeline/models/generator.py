"""A generator of any family: an energy network (or none) that makes the layer energies, and a shower network.

The shower network is conditioned on the layer energies that the energy network makes, and showers are rescaled to
them exactly; without an energy network a family makes whole showers from their conditions alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pipeline.config import GeneratorSpec
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.shower_network import ShowerNetwork


class ShowerGenerator(nn.Module):
    """Both networks; the family is that of the shower network."""

    def __init__(self, spec: GeneratorSpec, showers: ShowerNetwork, energies: LayerEnergyDiffusion | None) -> None:
        super().__init__()
        self.spec = spec
        self.showers = showers
        self.energies = energies
        self.trains_energies = energies is not None  # a student takes over its teacher's

    def take_over(self, parents: Mapping[str, nn.Module]) -> None:
        """Hand other runs' networks to the shower network, by their roles; a teacher's energy network is kept."""
        showers = {role: p.showers if isinstance(p, ShowerGenerator) else p for role, p in parents.items()}
        self.showers.take_over({role: p for role, p in showers.items() if isinstance(p, ShowerNetwork)})
        teacher = parents.get("teacher")
        if self.energies is not None and isinstance(teacher, ShowerGenerator) and teacher.energies is not None:
            self.energies.load_state_dict(teacher.energies.state_dict())
            self.energies.requires_grad_(False)
            self.trains_energies = False

    def follow(self, average: nn.Module) -> None:
        """Told the average of the weights when training starts."""
        assert isinstance(average, ShowerGenerator)
        self.showers.follow(average.showers)
