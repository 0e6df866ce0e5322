"""Detectors as vectors: a learned row, a one-hot with free slots, numbers of the stack, or a row beside the numbers.

The descriptor of a data set is made of natural logarithms: radiation length and Moliere radius (mm), sampling fraction,
absorber and active thickness (mm), thickness of a layer in X0, cell sizes in Moliere radii and X0, sectors in phi, and
depth of the stack in X0, each minus that of SiW on its own mesh. It passes Fourier features (arXiv:2006.10739) and a
perceptron. A detector that is `unknown` has no row: with the numbers it is still told by them. Reads no data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config import BUILT_IN_DETECTORS, DetectorSpec, MeshSpec
from pipeline.config.detector_embedding import DetectorEmbeddingSpec
from pipeline.models.blocks import fourier_features

Descriptor = tuple[float, ...]


def descriptor(detector: DetectorSpec, mesh: MeshSpec) -> Descriptor:
    """The numbers of a detector read out on a mesh, each of order one, 0 for SiW on its own mesh."""
    siw = BUILT_IN_DETECTORS["SiW"]
    return tuple(a - b for a, b in zip(_logs(detector, mesh), _logs(siw, siw.mesh), strict=True))


def _logs(detector: DetectorSpec, mesh: MeshSpec) -> list[float]:
    layer_mm = detector.absorber.thickness_mm + detector.active.thickness_mm
    x0, moliere = detector.radiation_length_mm, detector.moliere_radius_mm
    numbers = [
        x0,
        moliere,
        detector.sampling_fraction,
        detector.absorber.thickness_mm,
        detector.active.thickness_mm,
        layer_mm / x0,
        mesh.dr_mm / moliere,
        mesh.dz_mm / x0,
        mesh.cells[1],
        detector.layers * layer_mm / x0,
    ]
    return [math.log(number) for number in numbers]


class DetectorEmbedding(nn.Module):
    """(B,) data set, (B,) whether its detector counts as unknown -> (B, width)."""

    descriptors: Tensor
    detector_of: Tensor

    def __init__(
        self, spec: DetectorEmbeddingSpec, detector_of: list[int], n_detectors: int, descriptors: list[Descriptor]
    ) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("detector_of", torch.tensor(detector_of, dtype=torch.int64), persistent=False)
        self.register_buffer("descriptors", torch.tensor(descriptors), persistent=False)
        if spec.kind == "one_hot" and n_detectors > spec.slots:
            raise ValueError(
                f"detector_embedding.slots: expected at least the {n_detectors} detectors of the run and its parents, "
                f"got {spec.slots}; pre-train with more slots"
            )
        self.rows = nn.Embedding(n_detectors, spec.width) if spec.has_rows else None
        self.perceptron: nn.Sequential | None = None
        if spec.has_numbers:
            inputs = 2 * spec.features * self.descriptors.shape[1]
            self.perceptron = nn.Sequential(
                nn.Linear(inputs, 2 * spec.width), nn.SiLU(), nn.Linear(2 * spec.width, spec.width)
            )

    @property
    def width(self) -> int:
        """Features of a detector."""
        return self.spec.slots if self.spec.kind == "one_hot" else self.spec.width

    def forward(self, domain: Tensor, unknown: Tensor | None = None) -> Tensor:
        """(B,) int, (B,) bool or None -> (B, width)."""
        index = self.detector_of[domain]  # (B,)
        if self.spec.kind == "one_hot":
            row = nn.functional.one_hot(index, self.spec.slots).float()  # (B, slots)
        else:
            row = self.rows(index) if self.rows is not None else torch.zeros((), device=domain.device)  # (B, width)
        if unknown is not None:
            row = row * (~unknown)[:, None]  # (B, width)
        if self.perceptron is None:
            return row  # (B, width)
        numbers = self.descriptors[domain]  # (B, K)
        features = fourier_features(numbers.flatten(), self.spec.features).reshape(len(domain), -1)  # (B, 2 K features)
        told: Tensor = row + self.perceptron(features)  # (B, width)
        return told
