"""Configuration of networks, and of the families that generate showers.

A `GeneratorSpec` is a family: a network that makes showers, behind an optional energy network that makes their layer
energies first. A spec that needs other runs' models names them in `parents`: each becomes an edge between the runs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.config.detectors import Cells
from pipeline.config.spec import Spec

Condition = Literal["incident_energy", "theta", "detector"]


class ModelSpec(Spec):
    """Any network."""

    needs_standardised: ClassVar[bool] = False

    name: str

    @property
    def parents(self) -> dict[str, str]:
        """Runs whose models this network is built on, without continuing them, by the part that they play."""
        return {}

    def errors_on(self, mesh: Cells) -> list[str]:
        """What is wrong with this network on a mesh of (r, phi, z) cells, each as `key: expected ..., got ...`."""
        patch: Cells | None = getattr(self, "patch", None)
        if patch and any(c % p for c, p in zip(mesh, patch, strict=True)):
            return [f"patch: expected a divisor of the mesh {list(mesh)}, got {list(patch)}"]
        return []


class LayerEnergiesSpec(Spec):
    """A small diffusion of the layer energies, which the shower is then rescaled to."""

    width: PositiveInt = 192
    depth: PositiveInt = 3
    steps: PositiveInt = Field(24, description="Heun steps when sampling")
    repeats: PositiveInt = Field(4, description="noise levels per shower and training step")


class GeneratorSpec(ModelSpec):
    """A family that generates showers; the recipe must end in standardise."""

    needs_standardised: ClassVar[bool] = True

    layer_energies: LayerEnergiesSpec | None = LayerEnergiesSpec()
    conditions: tuple[Condition, ...] = ("incident_energy", "theta", "detector")

    @property
    def condition_width(self) -> int:
        """Width of the vector that the conditions become: the network's own."""
        return int(getattr(self, "width", 96))


class DiffusionSpec(GeneratorSpec):
    """A diffusion transformer over patches."""

    name: Literal["diffusion"] = "diffusion"
    patch: Cells = Field(description="cells of a patch along (r, phi, z)")
    width: PositiveInt = 96
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 3.0
    output: Literal["probabilistic", "pixels"] = Field(
        "probabilistic",
        description="per cell hit probability, mean and width of the log energy; or plain EDM pixels",
    )
    sigma_min: PositiveFloat = 0.4
    sigma_max: PositiveFloat = 20.0
