"""All that is needed to build a network again: its spec, mesh, detectors and data sets, as a JSON-able record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from pipeline.config import (
    AutoregressiveSpec,
    ConsistencySpec,
    DiffusionSpec,
    GeneratorSpec,
    HeadSpec,
    MaskedViTSpec,
    VAESpec,
    VQVAESpec,
)
from pipeline.config.runs import Model
from pipeline.models.autoregressive import AutoregressivePrior
from pipeline.models.conditions import ConditionEncoder
from pipeline.models.consistency import ConsistencyTransformer
from pipeline.models.detectors import Descriptor, DetectorEmbedding
from pipeline.models.diffusion import DiffusionTransformer
from pipeline.models.generator import ShowerGenerator
from pipeline.models.heads import AngleRegression, Classification, EnergyRegression
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.tokens import Triple
from pipeline.models.vae import ShowerVAE
from pipeline.models.vqvae import ShowerVQVAE

DERIVED_BYTES = 1 << 28  # what a network makes of its tokens' places and saves nowhere: masks of 16,000 tokens


@dataclass(frozen=True)
class Architecture:
    """`domains` are the data sets in the order of their index, each with its detector; `detectors` likewise.

    `parents` are the architectures of the networks that this one is built on, by role; `particles` those of the
    domains, for a network that is conditioned on them or a head that tells them apart; `descriptors` the numbers of
    their detectors, where they are read.
    """

    model: Model
    head: HeadSpec | None
    shape: Triple
    domains: tuple[tuple[str, str], ...]
    detectors: tuple[str, ...]
    threshold_mev: float
    parents: Mapping[str, Architecture] = field(default_factory=dict)
    particles: tuple[str, ...] = ()
    descriptors: tuple[Descriptor, ...] = ()

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
            **({"parents": {role: p.state() for role, p in self.parents.items()}} if self.parents else {}),
            **({"particles": list(self.particles)} if self.particles else {}),
            **({"descriptors": [list(d) for d in self.descriptors]} if self.descriptors else {}),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Architecture:
        """The architecture that `state` describes; KeyError, TypeError or ValueError where it describes none."""
        head = HeadSpec.model_validate(state["head"]) if state["head"] else None
        r, phi, z = state["shape"]
        return cls(
            TypeAdapter[Any](Model).validate_python(state["model"]),
            head,
            (r, phi, z),
            tuple((name, detector) for name, detector in map(_names, state["domains"])),
            _names(state["detectors"]),
            _number(state["threshold_mev"]),
            {role: cls.from_state(parent) for role, parent in state.get("parents", {}).items()},
            _names(state.get("particles", ())),
            tuple(tuple(numbers) for numbers in state.get("descriptors", ())),
        )


def _names(values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected names, got {values!r}")
    return tuple(values)


def _number(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _masked_vit(architecture: Architecture) -> nn.Module:
    spec = architecture.model
    assert isinstance(spec, MaskedViTSpec)  # the registry's key
    if architecture.head:
        return _head(architecture, spec, architecture.head)
    return MaskedViT(spec, architecture.shape, len(architecture.domains), _told(architecture, spec))


def _told(architecture: Architecture, spec: MaskedViTSpec) -> DetectorEmbedding | None:
    """How a masked ViT is told the detectors, if it is."""
    if spec.detector_embedding is None:
        return None
    n = len(architecture.detectors)
    return DetectorEmbedding(spec.detector_embedding, architecture.detector_of, n, list(architecture.descriptors))


def _head(architecture: Architecture, spec: MaskedViTSpec, head: HeadSpec) -> nn.Module:
    backbone = MaskedViT(spec, architecture.shape, detector=_told(architecture, spec))
    if head.predict == "incident_energy":
        return EnergyRegression(backbone, head, len(architecture.domains))
    if head.predict == "theta":
        return AngleRegression(backbone, head)
    if head.predict == "energy_class":
        return Classification(backbone, head, head.energy_classes, [], head.energy_edges_mev)
    if head.predict == "detector":
        return Classification(backbone, head, list(architecture.detectors), architecture.detector_of, [])
    particles = list(dict.fromkeys(architecture.particles))
    own = [particles.index(particle) for particle in architecture.particles]
    return Classification(backbone, head, particles, own, [])


def _diffusion(architecture: Architecture, conditions: ConditionEncoder) -> ShowerNetwork:
    spec = architecture.model
    assert isinstance(spec, DiffusionSpec)  # the registry's key
    return DiffusionTransformer(spec, architecture.shape, conditions, len(architecture.domains))


def _consistency(architecture: Architecture, conditions: ConditionEncoder) -> ShowerNetwork:
    spec, teacher = architecture.model, architecture.parents["teacher"]
    assert isinstance(spec, ConsistencySpec)  # the registry's key
    if not isinstance(teacher.model, DiffusionSpec):
        raise ValueError(f"teacher: expected a run of a diffusion, got one of a {teacher.model.name}")
    own = condition_encoder(teacher, conditions.layers, teacher.model.condition_width)
    return ConsistencyTransformer(spec, teacher.model, architecture.shape, conditions, own, len(architecture.domains))


def _vae(architecture: Architecture, conditions: ConditionEncoder) -> ShowerNetwork:
    spec = architecture.model
    assert isinstance(spec, VAESpec)  # the registry's key
    return ShowerVAE(spec, architecture.shape, conditions, len(architecture.domains))


def _vqvae(architecture: Architecture) -> ShowerVQVAE:
    spec = architecture.model
    assert isinstance(spec, VQVAESpec)  # the registry's key, or checked by _autoregressive
    if architecture.head:
        raise ValueError("head: expected a run of a masked_vit, got one of a vqvae; start it from a representation")
    conditions = condition_encoder(architecture, architecture.shape[2] if spec.given_layers else 0, spec.width)
    return ShowerVQVAE(spec, architecture.shape, conditions, len(architecture.domains))


def _autoregressive(architecture: Architecture, conditions: ConditionEncoder) -> ShowerNetwork:
    spec, tokenizer = architecture.model, architecture.parents["tokenizer"]
    assert isinstance(spec, AutoregressiveSpec)  # the registry's key
    return AutoregressivePrior(spec, architecture.shape, conditions, len(architecture.domains), _vqvae(tokenizer))


def _generator(architecture: Architecture) -> nn.Module:
    """A family's shower network, and the energy network that its spec asks for."""
    spec = architecture.model
    assert isinstance(spec, GeneratorSpec)  # checked by build_network
    if architecture.head:
        raise ValueError(
            f"head: expected a run of a masked_vit, got one of a {spec.name}; start the head from a representation"
        )
    like = architecture.parents.get("teacher", architecture)  # a student's networks are its teacher's
    assert isinstance(like.model, GeneratorSpec)
    small, n_z = like.model.layer_energies, architecture.shape[2]
    conditions = condition_encoder(like, n_z if small else 0, like.model.condition_width)
    showers = SHOWER_NETWORKS[spec.name](architecture, conditions)
    energies = None
    if small:
        own = condition_encoder(like, 0, small.width)
        energies = LayerEnergyDiffusion(small, own, n_z, len(architecture.domains), architecture.threshold_mev)
    return ShowerGenerator(spec, showers, energies)


def condition_encoder(architecture: Architecture, layers: int, width: int) -> ConditionEncoder:
    """An encoder of the conditions that a generator's spec lists, and of the energies of `layers` layers."""
    spec = architecture.model
    assert isinstance(spec, GeneratorSpec | VQVAESpec)
    detectors, n = architecture.detector_of, len(architecture.detectors)
    droppable = layers > 0 and getattr(spec, "condition_dropout", 0) > 0
    told = None
    if isinstance(spec, GeneratorSpec) and "detector" in spec.conditions and not spec.detector_embedding.is_plain:
        told = DetectorEmbedding(spec.detector_embedding, detectors, n, list(architecture.descriptors))
    threshold, particles = architecture.threshold_mev, architecture.particles
    return ConditionEncoder(spec.conditions, detectors, n, layers, width, threshold, droppable, particles, told)


SHOWER_NETWORKS: dict[str, Callable[[Architecture, ConditionEncoder], ShowerNetwork]] = {
    "diffusion": _diffusion,
    "consistency": _consistency,
    "vae": _vae,
    "autoregressive": _autoregressive,
}
NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {
    "masked_vit": _masked_vit,
    "vqvae": _vqvae,
    **dict.fromkeys(SHOWER_NETWORKS, _generator),
}


def build_network(architecture: Architecture, seed: int = 0) -> nn.Module:
    """A new network; its initial weights depend on the seed alone. ValueError where positions and masks fill memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[architecture.model.name](architecture)
    saved = network.state_dict()
    derived = sum(buffer.nbytes for name, buffer in network.named_buffers() if name not in saved)
    if derived > DERIVED_BYTES:
        raise ValueError(
            f"model: expected positions and masks of the tokens of at most {DERIVED_BYTES} bytes, got {derived} on the "
            f"mesh {list(architecture.shape)}; take larger patches or a narrower network"
        )
    return network
