"""Configuration of pre-training: the masked ViT, its pretext tasks and their losses.

A pretext task corrupts a shower and asks for what was lost. Tasks are listed under `pretext:` of a model, by name alone
or with options, and mixed with weights; definitions and sources stand in docs/pretraining.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.config.detector_embedding import DetectorEmbeddingSpec
from pipeline.config.detectors import Cells
from pipeline.config.generators import SMALLEST_WIDTH, ModelSpec
from pipeline.config.recipes import RecipeSpec, named
from pipeline.config.spec import Spec

PATCHES: dict[str, tuple[int, int, int]] = {"seeds_1x10x15": (18, 5, 3)}
Fill = Literal["drop", "token", "zero", "empty", "noise", "climatology", "mixture"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _patch(value: Any) -> Any:
    """The cells of a patch of a known name."""
    if isinstance(value, str) and value not in PATCHES:
        raise ValueError(f"expected cells along (r, phi, z) or one of {sorted(PATCHES)}, got '{value}'")
    return PATCHES[value] if isinstance(value, str) else value


def _ratio(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and not value[0] < value[1]:
        raise ValueError(f"expected a ratio, or [lowest, highest] of a sampled one, got {list(value)}")
    return value


def _list_of_named(value: Any) -> Any:
    """Accept `[masked_patches, {denoising: {sigma: 0.5}}]`."""
    return [named(item) for item in value] if isinstance(value, list | tuple) else value


Patch = Annotated[Cells, BeforeValidator(_patch)]
Ratio = Annotated[Fraction | tuple[Fraction, Fraction], BeforeValidator(_ratio)]


class LossSpec(Spec):
    """How a prediction is compared with the cells that it should have been."""

    name: Literal["mse", "mae", "huber", "bce", "sinkhorn"]
    weight: PositiveFloat = 1.0
    scale: PositiveFloat = Field(1.0, description="mse, mae, huber: errors are counted in this unit of network space")
    delta: PositiveFloat = Field(1.0, description="huber: error, in `scale`, above which the loss is linear")
    blur: PositiveFloat = Field(
        0.05, description="sinkhorn: length below which energy may move freely, mesh radius = 1"
    )


Losses = Annotated[tuple[LossSpec, ...], BeforeValidator(_list_of_named), Field(min_length=1)]


class _Pretext(Spec):
    weight: PositiveFloat = Field(1.0, description="factor of this task's terms in the loss")


class _Reconstruction(_Pretext):
    """Cells of corrupted tokens are predicted from the others."""

    losses: Losses = (LossSpec(name="mse"),)
    on: Literal["hidden", "all"] = Field("hidden", description="tokens that the loss counts")
    fill: Fill = Field(
        "drop",
        description="what the encoder sees of a hidden token: nothing at all (drop), a learned token, the value 0, "
        "that of an empty cell, the cells plus noise, their mean over the training showers, or a mixture",
    )
    sigma: PositiveFloat = Field(1.0, description="fill noise and mixture: its standard deviation in network space")
    shares: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        (0.8, 0.1, 0.1), description="mixture: shares of token, noise and climatology among hidden tokens"
    )

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> _Reconstruction:
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares: expected three shares that sum to 1, got {list(self.shares)}")
        return self


class MaskedPatches(_Reconstruction):
    """Random tokens are hidden (masked autoencoder, arXiv:2111.06377; SimMIM, arXiv:2111.09886, with fill token)."""

    name: Literal["masked_patches"] = "masked_patches"
    ratio: Ratio = Field(0.75, description="share of hidden tokens, or [lowest, highest]: drawn for each batch")


class Blocks(_Reconstruction):
    """Whole blocks of tokens are hidden (arXiv:2106.08254, section 2.3, for blocks of one size)."""

    name: Literal["blocks"] = "blocks"
    ratio: Ratio = 0.75
    size: Cells = Field((1, 2, 2), description="tokens of a block along (r, phi, z)")


class Neighbourhoods(_Reconstruction):
    """A random token and those nearest to it are hidden (AtmoRep, arXiv:2308.13280)."""

    name: Literal["neighbourhoods"] = "neighbourhoods"
    ratio: Ratio = 0.5


class Mixture(_Reconstruction):
    """Hidden tokens are masked, noisy or climatology (AtmoRep, arXiv:2308.13280; shares of BERT, arXiv:1810.04805)."""

    name: Literal["mixture"] = "mixture"
    ratio: Ratio = 0.75
    fill: Literal["mixture"] = "mixture"


class Denoising(_Reconstruction):
    """Noise on all cells is removed (denoising autoencoder, Vincent et al. 2008)."""

    name: Literal["denoising"] = "denoising"
    fill: Literal["noise"] = "noise"
    on: Literal["all"] = "all"


class Inpainting(_Reconstruction):
    """A box of tokens is hidden, at random or at a fixed place."""

    name: Literal["inpainting"] = "inpainting"
    size: Cells = Field(description="tokens of the box along (r, phi, z)")
    first: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] | None = Field(
        None, description="the box's first token along (r, phi, z); left out: at random"
    )


class NextLayer(_Reconstruction):
    """The tokens up to a random depth predict those of the next depth; deeper ones are hidden and not asked for."""

    name: Literal["next_layer"] = "next_layer"
    on: Literal["hidden"] = "hidden"


class ReplacedTokens(_Pretext):
    """Tell tokens that were replaced by others of the same shower (ELECTRA, arXiv:2003.10555, without generator)."""

    name: Literal["replaced_tokens"] = "replaced_tokens"
    ratio: Ratio = Field(0.15, description="share of replaced tokens")


class Jigsaw(_Pretext):
    """Tell where exchanged tokens came from (arXiv:1603.09246, for tokens)."""

    name: Literal["jigsaw"] = "jigsaw"
    ratio: Ratio = Field(0.5, description="share of exchanged tokens")


class SecondaryEnergy(_Pretext):
    """Regress the standardised log incident energy from the mean visible token: uses the label of every shower."""

    name: Literal["incident_energy"] = "incident_energy"
    ratio: Ratio = Field(0.75, description="share of hidden tokens")


Pretext = Annotated[
    MaskedPatches
    | Blocks
    | Neighbourhoods
    | Mixture
    | Denoising
    | Inpainting
    | NextLayer
    | ReplacedTokens
    | Jigsaw
    | SecondaryEnergy,
    Field(discriminator="name"),
]
Reconstruction = MaskedPatches | Blocks | Neighbourhoods | Mixture | Denoising | Inpainting | NextLayer


class MaskedViTSpec(ModelSpec):
    """A ViT pre-trained on pretext tasks, by default by predicting masked patches from the visible tokens."""

    name: Literal["masked_vit"] = "masked_vit"
    patch: Patch = Field(description="cells of a patch along (r, phi, z), or seeds_1x10x15 for 18x5x3")
    width: PositiveInt = 96
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    mlp_ratio: PositiveFloat = 3.0
    decoder_width: PositiveInt = 48
    decoder_depth: PositiveInt = 1
    mask_ratio: Fraction = Field(0.75, description="of masked patches where `pretext` is left out")
    pretext: Annotated[tuple[Pretext, ...], BeforeValidator(_list_of_named)] = Field(
        (), description="tasks, by name or {name: options}; empty: masked_patches at mask_ratio"
    )
    output: Literal["linear", "sigmoid"] = Field("linear", description="of the decoder; sigmoid: showers in [0, 1]")
    positions: Literal["sine_cosine", "learned", "none"] = Field(
        "sine_cosine", description="added to the tokens: fixed, a third of the width per direction; or a learned table"
    )
    rotary: bool = Field(False, description="attention turns queries and keys by their places along r, phi and z, too")
    periodic_phi: bool = Field(True, description="fixed and rotary positions: the last sector is next to the first")
    detector_embedding: DetectorEmbeddingSpec | None = Field(
        None, description="how encoder and decoder are told the detector; left out: they are not"
    )
    shuffle_cells: bool = Field(False, description="control: pre-train on cells permuted within each shower")

    @model_validator(mode="after")
    def _each_task_once(self) -> MaskedViTSpec:
        names = [task.name for task in self.pretext]
        if len(set(names)) < len(names):
            raise ValueError(f"pretext: expected each task once, got {names}; give one of them several losses")
        return self

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of encoder and decoder."""
        return ("width", "decoder_width")

    @property
    def needs_positions(self) -> bool:
        """A learned table has any width."""
        return self.positions != "learned"

    def width_errors(self) -> list[str]:
        """Those of any network; rotary positions turn pairs of a head's numbers, one at least for each direction."""
        errors = super().width_errors()
        for key in self.widths if self.rotary and not errors else ():
            own = getattr(self, key) // self.heads
            if own % 2 or own < SMALLEST_WIDTH:
                errors.append(
                    f"rotary: expected an even number of at least {SMALLEST_WIDTH} of the {key} for each head, got "
                    f"{own}; take fewer heads"
                )
        return errors

    @property
    def tasks(self) -> tuple[Pretext, ...]:
        """The pretext tasks, the default one where none is given."""
        return self.pretext or (MaskedPatches(ratio=self.mask_ratio),)

    def task_errors(self, mesh: Cells, recipe: RecipeSpec) -> list[str]:
        """What is wrong with the tasks on a mesh of (r, phi, z) cells behind a recipe: `key: expected ..., got ...`."""
        grid = tuple(n // p for n, p in zip(mesh, self.patch, strict=True))
        errors = []
        for task in self.tasks:
            key = f"pretext.{task.name}"
            first = task.first or (0, 0, 0) if isinstance(task, Inpainting) else (0, 0, 0)
            size = task.size if isinstance(task, Blocks | Inpainting) else (1, 1, 1)
            if any(f + s > g for f, s, g in zip(first, size, grid, strict=True)) or size == grid:
                errors.append(f"{key}.size: expected less than the {list(grid)} tokens, got {list(size)}")
            if isinstance(task, NextLayer) and grid[2] < 2:
                errors.append(f"{key}: expected two tokens along z, got {grid[2]}; use a patch of fewer layers")
            for loss in getattr(task, "losses", ()):
                errors += [f"{key}.losses.{loss.name}: {text}" for text in self._range_errors(loss, recipe)]
        return errors

    def _range_errors(self, loss: LossSpec, recipe: RecipeSpec) -> list[str]:
        if loss.name not in ("bce", "sinkhorn"):
            return []
        errors = [] if self.output == "sigmoid" else ["expected output: sigmoid, got linear; set model.output"]
        if not recipe.within_unit_interval:
            steps = [step.name for step in recipe.steps]
            errors.append(f"expected a recipe with values in [0, 1], got {steps}; divide_by_incident_energy gives one")
        return errors
