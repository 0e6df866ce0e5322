"""What a shower is conditioned on, and how a network reads it.

Incident energy in MeV, theta in rad, `domain`: the index of the data set the shower belongs to (which gives
its detector), layer energies in visible MeV. Energies enter as standardised logarithms; the numbers of the
standardisation are buffers, fitted on the training split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from pipeline.config.data import Particle
from pipeline.models.blocks import fourier_features
from pipeline.models.detectors import DetectorEmbedding

NOISE_FEATURES = 16
DETECTOR_FEATURES = 8
PARTICLES: tuple[str, ...] = get_args(Particle)


@dataclass(frozen=True)
class Conditions:
    """Conditions of B showers: incident_energy (B,) MeV, theta (B,) rad, domain (B,) int, layer_energy (B, Z) MeV."""

    incident_energy: Tensor
    theta: Tensor
    domain: Tensor
    layer_energy: Tensor

    def __len__(self) -> int:
        return len(self.incident_energy)

    def repeat(self, times: int) -> Conditions:
        """Each shower's conditions `times` times in a row."""
        return type(self)(*(value.repeat_interleave(times, dim=0) for value in vars(self).values()))

    def to(self, device: torch.device) -> Conditions:
        """The same on another device."""
        return type(self)(*(value.to(device) for value in vars(self).values()))


@dataclass(frozen=True)
class PartlyUnknown(Conditions):
    """Conditions of B showers, of which those that are `unknown` (B,) bool count as of a detector never seen."""

    unknown: Tensor


class ConditionEncoder(nn.Module):
    """Conditions and noise level as one vector.

    `names` are the conditions that are read, `detector_of` the detector index of each domain, `particles`
    the particle of each. With `layers` > 0 the layer energies are read too. `droppable`: a learned vector can stand
    for all conditions. `detector` is how detectors are told, by default learned rows.
    """

    log_energy_centre: Tensor
    log_energy_scale: Tensor
    layer_centre: Tensor
    layer_scale: Tensor
    detector_of: Tensor
    particle_of: Tensor

    def __init__(
        self,
        names: tuple[str, ...],
        detector_of: list[int],
        n_detectors: int,
        layers: int,
        width: int,
        threshold_mev: float,
        droppable: bool = False,
        particles: Sequence[str] = (),
        detector: DetectorEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.names = names
        self.layers = layers
        self.threshold_mev = threshold_mev
        self.detector: nn.Embedding | DetectorEmbedding | None = None
        if "detector" in names:
            self.detector = detector or nn.Embedding(n_detectors, DETECTOR_FEATURES)
        told = 0 if self.detector is None else detector.width if detector else DETECTOR_FEATURES
        self.register_buffer("detector_of", torch.tensor(detector_of, dtype=torch.int64))
        self.register_buffer("log_energy_centre", torch.zeros(()))
        self.register_buffer("log_energy_scale", torch.ones(()))
        self.register_buffer("layer_centre", torch.zeros(len(detector_of), layers))
        self.register_buffer("layer_scale", torch.ones(len(detector_of), layers))
        numbers = ("incident_energy" in names) + 2 * ("theta" in names) + told
        self.particle = None
        if "particle" in names:
            self.particle = nn.Embedding(len(PARTICLES), DETECTOR_FEATURES)
            self.register_buffer("particle_of", torch.tensor([PARTICLES.index(name) for name in particles]))
            numbers += DETECTOR_FEATURES
        features = numbers + layers + 2 * NOISE_FEATURES
        self.nothing = nn.Parameter(torch.zeros(numbers + layers)) if droppable else None
        self.mix = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def log_energy(self, conditions: Conditions) -> Tensor:
        """(B,) standardised log incident energy."""
        return (conditions.incident_energy.log() - self.log_energy_centre) / self.log_energy_scale

    def log_layers(self, conditions: Conditions) -> Tensor:
        """(B, Z) standardised log layer energies; an empty layer counts as the threshold."""
        log = (conditions.layer_energy + self.threshold_mev).log()
        return (log - self.layer_centre[conditions.domain]) / self.layer_scale[conditions.domain]

    def forward(self, conditions: Conditions, log_sigma: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """Conditions of B showers, (B,) log noise level (zero: none), (B,) which have no conditions -> (B, width)."""
        log_sigma = torch.zeros_like(conditions.incident_energy) if log_sigma is None else log_sigma  # (B,)
        noise = fourier_features(log_sigma / 4, NOISE_FEATURES)  # (B, 2 noise)
        features = []
        if "incident_energy" in self.names:
            features.append(self.log_energy(conditions)[:, None])  # (B, 1)
        if "theta" in self.names:
            features.append(torch.stack([conditions.theta.cos(), conditions.theta.sin()], dim=1))  # (B, 2)
        if isinstance(self.detector, DetectorEmbedding):
            unknown = conditions.unknown if isinstance(conditions, PartlyUnknown) else None
            features.append(self.detector(conditions.domain, unknown))  # (B, detector)
        elif self.detector is not None:
            features.append(self.detector(self.detector_of[conditions.domain]))  # (B, detector)
        if self.particle is not None:
            features.append(self.particle(self.particle_of[conditions.domain]))  # (B, detector)
        if self.layers:
            features.append(self.log_layers(conditions))  # (B, Z)
        if dropped is not None:
            assert self.nothing is not None  # only networks trained with dropped conditions are asked to
            features = [torch.where(dropped[:, None], self.nothing, torch.cat(features, dim=1))]  # (B, all of them)
        mixed: Tensor = self.mix(torch.cat([noise, *features], dim=1))  # (B, width)
        return mixed

    @torch.no_grad()
    def fit(self, conditions: Conditions) -> None:
        """Take the numbers of the standardisation from training showers."""
        log = conditions.incident_energy.double().log()
        self.log_energy_centre.fill_(log.mean())
        self.log_energy_scale.fill_(log.std(correction=0).clamp_min(0.1))
        if self.layers:
            for domain in sorted(set(conditions.domain.tolist())):
                rows = (conditions.layer_energy[conditions.domain == domain].double() + self.threshold_mev).log()
                self.layer_centre[domain] = rows.mean(0).float()
                self.layer_scale[domain] = rows.std(0, correction=0).clamp_min(0.1).float()
