"""Configuration of networks, and of the families that generate showers.

A `GeneratorSpec` is a family: a network that makes showers, behind an optional energy network that makes their layer
energies first. A spec that needs other runs' models names them in `parents`: each becomes an edge between the runs.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipeline.config.detector_embedding import DetectorEmbeddingSpec
from pipeline.config.detectors import Cells
from pipeline.config.spec import Spec

Condition = Literal["incident_energy", "theta", "detector", "particle"]
SMALLEST_WIDTH = 6


class ModelSpec(Spec):
    """Any network."""

    needs_standardised: ClassVar[bool] = False
    parent_models: ClassVar[dict[str, tuple[str, ...]]] = {}
    """For each role in `parents` the names of the models that can play it."""

    name: str

    @property
    def widths(self) -> tuple[str, ...]:
        """The keys of how many numbers a token has."""
        return ("width",) if hasattr(self, "width") else ()

    @property
    def needs_positions(self) -> bool:
        """Whether fixed positions are added to the tokens."""
        return True

    @property
    def parents(self) -> dict[str, str]:
        """Runs whose models this network is built on, without continuing them, by the part that they play."""
        return {}

    def errors_on(self, mesh: Cells) -> list[str]:
        """What is wrong with this network on a mesh of (r, phi, z) cells, each as `key: expected ..., got ...`."""
        patch: Cells | None = getattr(self, "patch", None)
        if patch and any(c % p for c, p in zip(mesh, patch, strict=True)):
            return [f"patch: expected a divisor of the mesh {list(mesh)}, got {list(patch)}", *self.width_errors()]
        return self.width_errors()

    def width_errors(self) -> list[str]:
        """What is wrong with the numbers of a token, each as `key: expected ..., got ...; remedy`."""
        errors, heads = [], getattr(self, "heads", 1)
        for key in self.widths:
            width: int = getattr(self, key)
            if self.needs_positions and width < SMALLEST_WIDTH:
                errors.append(
                    f"{key}: expected at least {SMALLEST_WIDTH}, a sine and a cosine for each direction of a token's "
                    f"place, got {width}; take a wider network"
                )
            if width % heads:
                errors.append(f"heads: expected a divisor of the {key} {width}, got {heads}; take fewer heads")
        return errors


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
    detector_embedding: DetectorEmbeddingSpec = DetectorEmbeddingSpec()

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
        description="per cell hit probability, mean and width of the log energy; or plain pixels",
    )
    formulation: Literal["edm", "ddpm", "flow"] = Field("edm", description="of pixels: EDM, DDPM or flow matching")
    target: Literal["x", "eps", "v"] = Field(
        "x", description="what the network gives: clean shower, noise or velocity (ddpm, flow; edm has its own)"
    )
    schedule: Literal["linear", "cosine"] = Field("cosine", description="noise levels that ddpm is trained at")
    sigma_min: PositiveFloat = 0.4
    sigma_max: PositiveFloat = 20.0
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of showers trained without conditions, for classifier-free guidance"
    )
    modulation: Literal["adaln_zero", "adaln"] = Field(
        "adaln_zero", description="conditions shift and scale the norms, and gate the branches, zero at the start"
    )
    norm: Literal["layer", "rms"] = "layer"
    qk_norm: bool = Field(False, description="normalise queries and keys")
    perceptron: Literal["gelu", "swiglu"] = "gelu"

    @model_validator(mode="after")
    def _pixels(self) -> DiffusionSpec:
        if self.output == "probabilistic" and self.formulation != "edm":
            raise ValueError(
                f"formulation: expected edm with output 'probabilistic', which is trained by its likelihood, got "
                f"'{self.formulation}'; set output: pixels"
            )
        return self


class ConsistencySpec(GeneratorSpec):
    """A model that a diffusion is distilled into: showers in one step or a few, with the teacher's layer energies."""

    parent_models: ClassVar[dict[str, tuple[str, ...]]] = {"teacher": ("diffusion",)}

    name: Literal["consistency"] = "consistency"
    teacher: str = Field(description="run of a diffusion; its network, energy network and conditions are taken")
    sigma_stop: PositiveFloat = Field(
        1.0, description="noise level where a step ends: sigma* of a probabilistic teacher, about 0.02 for pixels"
    )
    sub_intervals: PositiveInt = Field(32, description="pieces into which the noise levels are cut")
    rho: PositiveFloat = Field(4.0, description="their ends are even in sigma^(1/rho)")
    huber: NonNegativeFloat = Field(0.03, description="a difference of this size counts linearly; 0: squares")

    @property
    def parents(self) -> dict[str, str]:
        """The teacher."""
        return {"teacher": self.teacher}
