"""Configuration of heads, and of how inherited weights are trained further."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.spec import Spec

Prediction = Literal["incident_energy", "energy_class", "theta", "particle", "detector"]
OLD_DATA = "old_data"  # observable of the rows that say what a run forgot of its parents' data


class HeadSpec(Spec):
    """A label predicted from the encoder's tokens: a number with its uncertainty, or the probability of each class."""

    predict: Prediction = Field(
        description="incident_energy and theta: Gaussian mean and width; energy_class, particle and detector: classes"
    )
    width: NonNegativeInt = Field(96, description="of the hidden layer; 0: none, a linear probe")
    classes_gev: tuple[PositiveFloat, ...] | None = Field(
        None,
        description="energy_class: a class for each energy, such as [64, 128, 256]; a shower's is the nearest",
    )
    edges_gev: tuple[PositiveFloat, ...] | None = Field(
        None, description="energy_class: rising edges of the classes, such as [1, 2, 4, 8] for three octaves"
    )

    @model_validator(mode="after")
    def _classes(self) -> HeadSpec:
        given = [key for key in ("classes_gev", "edges_gev") if getattr(self, key) is not None]
        if len(given) != (self.predict == "energy_class"):
            expected = "one of classes_gev and edges_gev" if self.predict == "energy_class" else "neither"
            raise ValueError(f"head: expected {expected} with predict: {self.predict}, got {given or 'none'}")
        for key, least in (("classes_gev", 2), ("edges_gev", 3)):
            values = getattr(self, key)
            if values is not None and (len(values) < least or list(values) != sorted(set(values))):
                raise ValueError(f"{key}: expected at least {least} rising energies, got {list(values)}")
        return self

    @property
    def label(self) -> str:
        """The label of a shower that is predicted, or that its class is made from."""
        return "incident_energy" if self.predict == "energy_class" else self.predict

    @property
    def energy_edges_mev(self) -> list[float]:
        """Inner edges of the energy classes: a class of one energy ends half-way, in log, to the next."""
        if self.classes_gev is not None:
            pairs = pairwise(self.classes_gev)
            return [1e3 * (low * high) ** 0.5 for low, high in pairs]
        return [1e3 * edge for edge in (self.edges_gev or ())[1:-1]]

    @property
    def energy_classes(self) -> list[str]:
        """Names of the energy classes."""
        if self.classes_gev is not None:
            return [f"{energy:g} GeV" for energy in self.classes_gev]
        edges = self.edges_gev or ()
        return [f"{low:g}-{high:g} GeV" for low, high in pairwise(edges)]


class ReplaySpec(Spec):
    """Old showers among the new ones: of the data sets in `data` that a run before this one was trained on."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="of each batch, spread evenly over it")
    showers: PositiveInt | None = Field(
        None, description="replay the first N training showers of each of these data sets only; left out: all"
    )


class AdaptSpec(Spec):
    """How weights from `start_from` are trained on; the weights of a fresh head are always trained."""

    train: Literal["all", "head", "last_blocks", "biases", "low_rank"] = Field(
        "all",
        description="of the inherited weights: all; none (head); those of the last `blocks` blocks; biases alone "
        "(BitFit, arXiv:2106.10199); a low-rank change of attention (LoRA, arXiv:2106.09685)",
    )
    blocks: PositiveInt = Field(1, description="last_blocks: how many")
    rank: PositiveInt = Field(4, description="low_rank: of the change of each matrix")
    alpha: PositiveFloat = Field(8.0, description="low_rank: the change is scaled by alpha / rank")
    rate: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="learning rate of inherited weights, as a share of training.learning_rate"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor of the learning rate from each block to the one before it (arXiv:2106.08254)"
    )
    l2_sp: NonNegativeFloat = Field(
        0.0, description="strength of the pull towards the inherited weights (L2-SP, arXiv:1802.01483)"
    )
    patch_embedder: Literal["keep", "interpolate", "fresh"] = Field(
        "keep",
        description="on another mesh or patch: carried over by overlap (masked_vit), or started afresh",
    )
