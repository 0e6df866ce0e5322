"""Configuration of how a network is told which detector a shower belongs to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.spec import Spec


class DetectorEmbeddingSpec(Spec):
    """The condition `detector` as a vector."""

    kind: Literal["learned", "one_hot", "descriptor", "learned_and_descriptor"] = Field(
        "learned",
        description="a learned row for each detector; a one-hot with free slots; numbers of stack and mesh through "
        "Fourier features; or the row added to those",
    )
    width: PositiveInt = Field(8, description="features of a detector; of a one-hot: `slots`")
    slots: PositiveInt = Field(8, description="one_hot: detectors that fit, those to come included")
    features: PositiveInt = Field(4, description="descriptor: wave numbers for each number")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of training showers whose row is left out, as an unseen detector's is"
    )

    @model_validator(mode="after")
    def _dropout_needs_rows(self) -> DetectorEmbeddingSpec:
        if self.dropout and self.kind == "descriptor":
            raise ValueError("dropout: expected a detector_embedding with rows, got kind: descriptor; leave it out")
        return self

    @property
    def has_rows(self) -> bool:
        """Whether each detector has a learned row."""
        return self.kind in ("learned", "learned_and_descriptor")

    @property
    def has_numbers(self) -> bool:
        """Whether the descriptor is read."""
        return self.kind in ("descriptor", "learned_and_descriptor")

    @property
    def is_plain(self) -> bool:
        """Learned rows and nothing else: the default."""
        return self.kind == "learned" and not self.dropout and self.width == 8
