"""The hits of a block of showers, taken apart into (r, phi, z): what every observable is computed from.

In: `RaggedShowers` (visible MeV, cut); out: sums of weights per shower or per slice of it. It names no observable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """The hits of n showers, one entry per cell above threshold.

    shower, r, phi, z: (hit,) indices; energy: (hit,) visible MeV; incident_energy: (n,) MeV; theta: (n,) rad.
    """

    shower: NDArray[np.intp]
    r: NDArray[np.int32]
    phi: NDArray[np.int32]
    z: NDArray[np.int32]
    energy: Array
    incident_energy: Array
    theta: Array
    mesh: CylinderMesh

    @classmethod
    def of(cls, showers: RaggedShowers) -> Hits:
        """The hits of ragged showers, their flat cell index taken apart."""
        places = np.indices(showers.mesh.shape, dtype=np.int32).reshape(3, -1)
        r, phi, z = (place[showers.cell] for place in places)
        return cls(
            showers.shower_of_hit,
            r,
            phi,
            z,
            showers.energy.astype(np.float64),
            np.asarray(showers.incident_energy, dtype=np.float64),
            np.asarray(showers.theta, dtype=np.float64),
            showers.mesh,
        )

    def __len__(self) -> int:
        """Number of showers."""
        return len(self.incident_energy)

    def total(self, weights: NDArray[np.generic] | None = None) -> Array:
        """Sum of the weights (none: number of hits) per shower, (n,)."""
        return np.bincount(self.shower, weights=weights, minlength=len(self)).astype(np.float64, copy=False)

    def along(self, index: NDArray[np.integer], slices: int, weights: NDArray[np.generic] | None = None) -> Array:
        """Sum of the weights (none: number of hits) per shower and slice, (n, slices)."""
        flat = np.bincount(self.shower * slices + index, weights=weights, minlength=len(self) * slices)
        return flat.reshape(len(self), slices).astype(np.float64, copy=False)

    @cached_property
    def _layer(self) -> NDArray[np.intp]:
        return self.shower * self.mesh.n_z + self.z

    def by_layer(self, weights: NDArray[np.generic] | None = None) -> Array:
        """Sum of the weights (none: number of hits) per shower and z layer, (n, Z)."""
        flat = np.bincount(self._layer, weights=weights, minlength=len(self) * self.mesh.n_z)
        return flat.reshape(len(self), self.mesh.n_z).astype(np.float64, copy=False)

    @cached_property
    def layers(self) -> Array:
        """Energy per z layer, (n, Z) MeV; many observables need it."""
        return self.by_layer(self.energy)

    @cached_property
    def rings(self) -> Array:
        """Energy per r ring, (n, R) MeV."""
        return self.along(self.r, self.mesh.n_r, self.energy)

    @cached_property
    def sectors(self) -> Array:
        """Energy per phi sector, (n, PHI) MeV."""
        return self.along(self.phi, self.mesh.n_phi, self.energy)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
