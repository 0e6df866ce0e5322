"""Configuration of the models with a bottleneck: VAE, VQ-VAE (a tokenizer), and the prior over its codes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.detectors import Cells
from pipeline.config.generators import Condition, GeneratorSpec, ModelSpec
from pipeline.config.spec import Spec

Output = Literal["probabilistic", "pixels"]


class VAESpec(GeneratorSpec):
    """A transformer VAE: one latent vector per shower, a standard normal given the conditions."""

    name: Literal["vae"] = "vae"
    patch: Cells = Field(description="cells of a patch along (r, phi, z)")
    width: PositiveInt = 96
    depth: PositiveInt = Field(2, description="blocks of the encoder, and of the decoder")
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 3.0
    output: Output = "probabilistic"
    latent: PositiveInt = Field(48, description="dimensions of the latent vector")
    decoder: Literal["dense", "broadcast"] = Field(
        "dense", description="latent to tokens: a matrix for each token, or the same for all, told apart by position"
    )
    free_bits: NonNegativeFloat = Field(0.3, description="nats of each latent dimension that cost nothing")
    kl_weight: NonNegativeFloat = 1.0
    kl_warmup_samples: NonNegativeInt = Field(0, description="showers over which the KL's weight grows from 0")


class LearnedCodebookSpec(Spec):
    """Vectors that follow the means of what is quantised to them (exponential moving averages)."""

    kind: Literal["learned"] = "learned"
    codes: Annotated[int, Field(ge=2)] = 1024
    width: PositiveInt = Field(8, description="dimensions of a code")
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    commitment: NonNegativeFloat = Field(0.25, description="weight of the distance between a vector and its code")
    renew_below: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.03, description="a code used less than this share of the mean use starts anew at a vector of the batch"
    )


class FiniteScalarsSpec(Spec):
    """Finite scalar quantisation: each dimension rounded to one of a few levels, nothing to learn."""

    kind: Literal["finite_scalars"] = "finite_scalars"
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field((8, 5, 5, 5), min_length=1)


Codebook = Annotated[LearnedCodebookSpec | FiniteScalarsSpec, Field(discriminator="kind")]


class VQVAESpec(ModelSpec):
    """A tokenizer: the shower as codes on a grid along (r, phi, z), in the order of depth.

    The recipe must end in standardise.
    """

    needs_standardised: ClassVar[bool] = True

    name: Literal["vqvae"] = "vqvae"
    patch: Cells = Field(description="cells of a patch along (r, phi, z)")
    grid: Cells | None = Field(None, description="codes along (r, phi, z); default: one for each patch")
    width: PositiveInt = 96
    depth: PositiveInt = Field(2, description="blocks of the encoder, and of the decoder")
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 3.0
    output: Output = "probabilistic"
    sees: Literal["shower", "layers_before"] = Field(
        "shower", description="what a code is made of: the whole shower, or its layers down to the code's own"
    )
    codebook: Codebook = FiniteScalarsSpec()
    given_layers: bool = Field(True, description="codes and cells are conditioned on the layer energies")
    conditions: tuple[Condition, ...] = ("incident_energy", "theta", "detector")

    def errors_on(self, mesh: Cells) -> list[str]:
        """Those of any network; a code that sees its own layers alone needs a patch that ends where it ends."""
        errors = super().errors_on(mesh)
        patches = mesh[2] // self.patch[2]
        if not errors and self.sees == "layers_before" and self.grid and self.grid[2] > patches:
            errors = [
                f"grid: expected at most {patches} codes along z, one for each patch, got {self.grid[2]}; "
                "take shorter patches, or sees: shower"
            ]
        return errors


class AutoregressiveSpec(GeneratorSpec):
    """A transformer that predicts a shower's codes one after the other, first layers first."""

    parent_models: ClassVar[dict[str, tuple[str, ...]]] = {"tokenizer": ("vqvae",)}

    name: Literal["autoregressive"] = "autoregressive"
    tokenizer: str = Field(description="the run of a vqvae whose codes these are, on the same data and recipe")
    width: PositiveInt = 96
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 3.0

    @property
    def parents(self) -> dict[str, str]:
        """The tokenizer."""
        return {"tokenizer": self.tokenizer}
