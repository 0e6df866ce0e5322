"""All that is needed to build a network again: its spec, mesh, detectors and data sets, as a JSON-able record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from pipeline.config import DiffusionSpec, HeadSpec, MaskedViTSpec
from pipeline.config.runs import Model
from pipeline.models.diffusion import ShowerDiffusion
from pipeline.models.heads import EnergyRegression
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.tokens import Triple


@dataclass(frozen=True)
class Architecture:
    """`domains` are the data sets in the order of their index, each with its detector; `detectors` likewise."""

    model: MaskedViTSpec | DiffusionSpec
    head: HeadSpec | None
    shape: Triple
    domains: tuple[tuple[str, str], ...]
    detectors: tuple[str, ...]
    threshold_mev: float

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets in the order of their index."""
        return tuple(name for name, _ in self.domains)

    @property
    def detector_of(self) -> list[int]:
        """The detector's index for each domain."""
        return [self.detectors.index(detector) for _, detector in self.domains]

    def state(self) -> dict[str, Any]:
        """JSON-able record; `from_state` is its inverse."""
        return {
            "model": self.model.model_dump(mode="json"),
            "head": self.head.model_dump(mode="json") if self.head else None,
            "shape": list(self.shape),
            "domains": [list(d) for d in self.domains],
            "detectors": list(self.detectors),
            "threshold_mev": self.threshold_mev,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Architecture:
        """The architecture that `state` describes."""
        head = HeadSpec.model_validate(state["head"]) if state["head"] else None
        r, phi, z = state["shape"]
        return cls(
            TypeAdapter[Any](Model).validate_python(state["model"]),
            head,
            (r, phi, z),
            tuple((name, detector) for name, detector in state["domains"]),
            tuple(state["detectors"]),
            state["threshold_mev"],
        )


def _masked_vit(architecture: Architecture) -> nn.Module:
    spec = architecture.model
    assert isinstance(spec, MaskedViTSpec)  # the registry's key
    if architecture.head:
        return EnergyRegression(spec, architecture.head, architecture.shape, len(architecture.domains))
    return MaskedViT(spec, architecture.shape)


def _diffusion(architecture: Architecture) -> nn.Module:
    spec = architecture.model
    assert isinstance(spec, DiffusionSpec)  # the registry's key
    if architecture.head:
        raise ValueError(
            "head: expected a run of a masked_vit, got one of a diffusion; start the head from a representation"
        )
    return ShowerDiffusion(
        spec, architecture.shape, architecture.detector_of, len(architecture.detectors), architecture.threshold_mev
    )


NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {"masked_vit": _masked_vit, "diffusion": _diffusion}


def build_network(architecture: Architecture, seed: int = 0) -> nn.Module:
    """A new network; its initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[architecture.model.name](architecture)
