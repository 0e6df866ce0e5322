"""What is measured of each shower: pure functions from a block of hits to numbers per shower.

In: `Hits`, the ragged hits of n showers (visible MeV, cut, with the mesh); out: float64 arrays whose first
axis is the shower, (n,) or (n, slices). Everything else of the evaluation (profiles with errors, metrics,
bootstrap, figures) is computed from the table of these arrays, some kB per shower: memory does not grow with
the number of cells, and showers are read block by block.
Sources: Geant4 11.4 Par04 (moments); CaloChallenge `HighLevelFeatures` (centres, widths); definitions in
docs/metrics.md. An empty shower or layer has moments, centres and widths 0.
It compares nothing and knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers

Array = NDArray[np.float64]
Table = dict[str, Array]
Convention = Literal["standard", "par04"]

BLOCK_SHOWERS = 4096
CELL_LOG10_EDGES = np.linspace(-5, 4, 361)  # log10(E / MeV), 40 bins per decade


@dataclass(frozen=True)
class Hits:
    """The hits of n showers, one entry per cell above threshold.

    shower, r, phi, z: (hit,) indices; energy: (hit,) visible MeV; incident_energy: (n,) MeV.
    """

    shower: NDArray[np.intp]
    r: NDArray[np.intp]
    phi: NDArray[np.intp]
    z: NDArray[np.intp]
    energy: Array
    incident_energy: Array
    mesh: CylinderMesh

    @classmethod
    def of(cls, showers: RaggedShowers) -> Hits:
        """The hits of ragged showers, their flat cell index taken apart."""
        r, phi, z = np.unravel_index(showers.cell.astype(np.intp), showers.mesh.shape)
        return cls(
            showers.shower_of_hit,
            r,
            phi,
            z,
            showers.energy.astype(np.float64),
            np.asarray(showers.incident_energy, dtype=np.float64),
            showers.mesh,
        )

    def __len__(self) -> int:
        """Number of showers."""
        return len(self.incident_energy)

    def total(self, weights: NDArray[np.generic] | None = None) -> Array:
        """Sum of the weights (none: number of hits) per shower, (n,)."""
        return np.bincount(self.shower, weights=weights, minlength=len(self)).astype(np.float64)

    def along(self, index: NDArray[np.intp], slices: int, weights: NDArray[np.generic] | None = None) -> Array:
        """Sum of the weights (none: number of hits) per shower and slice, (n, slices)."""
        flat = np.bincount(self.shower * slices + index, weights=weights, minlength=len(self) * slices)
        return flat.reshape(len(self), slices).astype(np.float64)

    @cached_property
    def layers(self) -> Array:
        """Energy per z layer, (n, Z) MeV; many observables need it."""
        return self.along(self.z, self.mesh.n_z, self.energy)

    @cached_property
    def rings(self) -> Array:
        """Energy per r ring, (n, R) MeV."""
        return self.along(self.r, self.mesh.n_r, self.energy)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


# ------------------------------------------------------------------------------- energies and hits


def incident_energy(hits: Hits) -> Array:
    """Energy of the incoming particle, (n,) MeV."""
    return hits.incident_energy


def visible_energy(hits: Hits) -> Array:
    """E_tot: visible energy of the shower, (n,) MeV."""
    return hits.total(hits.energy)


def energy_response(hits: Hits) -> Array:
    """E_tot / E_inc, (n,)."""
    return visible_energy(hits) / hits.incident_energy


def layer_energy(hits: Hits) -> Array:
    """Energy per z layer, (n, Z) MeV."""
    return hits.layers


def ring_energy(hits: Hits) -> Array:
    """Energy per r ring, (n, R) MeV."""
    return hits.rings


def sector_energy(hits: Hits) -> Array:
    """Energy per phi sector, (n, PHI) MeV."""
    return hits.along(hits.phi, hits.mesh.n_phi, hits.energy)


def hit_count(hits: Hits) -> Array:
    """Number of cells above threshold, (n,)."""
    return hits.total()


def layer_hits(hits: Hits) -> Array:
    """Number of cells above threshold per z layer, (n, Z)."""
    return hits.along(hits.z, hits.mesh.n_z)


def sparsity(hits: Hits) -> Array:
    """Fraction of cells at or below threshold, (n,); vit4hep counts the others."""
    return 1 - hit_count(hits) / hits.mesh.n_cells


def cell_spectrum(hits: Hits) -> Array:
    """Number of hits per bin of log10(E / MeV), (n, 360); energies beyond the range count in the last bins."""
    bins = len(CELL_LOG10_EDGES) - 1
    index = np.searchsorted(CELL_LOG10_EDGES, np.log10(hits.energy), side="right") - 1
    return hits.along(np.clip(index, 0, bins - 1), bins)


# ------------------------------------------------------------------------------- shapes


def moment_origin(convention: Convention) -> float:
    """Where a cell lies, in cells after its lower edge: its centre, or with Par04 its edge (D sum i E_i / E)."""
    return 0.5 if convention == "standard" else 0.0


def moments(energy: Array, size_mm: float, convention: Convention = "standard") -> tuple[Array, Array]:
    """First (mm) and second central (mm^2) moment of slice energies (n, slices); Par04 `validate`."""
    position = (np.arange(energy.shape[1]) + moment_origin(convention)) * size_mm
    total = energy.sum(axis=1)
    first = ratio(energy @ position, total)
    return first, ratio((energy * (position - first[:, None]) ** 2).sum(axis=1), total)


def first_moment_z(hits: Hits) -> Array:
    """Energy-weighted mean depth, (n,) mm."""
    return moments(hits.layers, hits.mesh.dz_mm)[0]


def second_moment_z(hits: Hits) -> Array:
    """Energy-weighted variance of the depth, (n,) mm^2."""
    return moments(hits.layers, hits.mesh.dz_mm)[1]


def first_moment_r(hits: Hits) -> Array:
    """Energy-weighted mean radius, (n,) mm."""
    return moments(hits.rings, hits.mesh.dr_mm)[0]


def second_moment_r(hits: Hits) -> Array:
    """Energy-weighted variance of the radius, (n,) mm^2."""
    return moments(hits.rings, hits.mesh.dr_mm)[1]


def containment_radius(hits: Hits, fraction: float = 0.9) -> Array:
    """Radius that holds a fraction of the energy (R90, the Moliere radius), (n,) mm; linear within a ring."""
    inside = np.cumsum(hits.rings, axis=1)
    wanted = fraction * inside[:, -1]
    ring = np.argmax(inside >= wanted[:, None], axis=1)
    row = np.arange(len(hits))
    missing = wanted - (inside[row, ring] - hits.rings[row, ring])
    radius: Array = (ring + ratio(missing, hits.rings[row, ring])) * hits.mesh.dr_mm
    return radius


def azimuthal_asymmetry(hits: Hits) -> Array:
    """A_phi = |sum E exp(i phi)| / E_tot, (n,) in [0, 1]; independent cells of the right means have it too small."""
    angle = hits.mesh.phi_rad[hits.phi]
    east, north = (hits.total(hits.energy * f(angle)) for f in (np.cos, np.sin))
    return ratio(np.hypot(east, north), visible_energy(hits))


def _layer_centre(hits: Hits, position: Array) -> tuple[Array, Array]:
    """Centre and width of the energy per layer, 2 x (n, Z) mm: sum x E / E, sqrt(max(<x^2> - <x>^2, 0))."""
    mean, square = (ratio(hits.along(hits.z, hits.mesh.n_z, hits.energy * position**p), hits.layers) for p in (1, 2))
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def layer_centres(hits: Hits) -> Array:
    """Per layer the centre and width along x, y and r (CaloChallenge `HighLevelFeatures`), (n, 6 Z) mm."""
    radius, angle = hits.mesh.r_mm[hits.r], hits.mesh.phi_rad[hits.phi]
    along = (radius * np.cos(angle), radius * np.sin(angle), radius)
    return np.concatenate([part for position in along for part in _layer_centre(hits, position)], axis=1)


OBSERVABLES: dict[str, Callable[[Hits], Array]] = {
    "incident_energy": incident_energy,
    "visible_energy": visible_energy,
    "energy_response": energy_response,
    "layer_energy": layer_energy,
    "ring_energy": ring_energy,
    "sector_energy": sector_energy,
    "hits": hit_count,
    "layer_hits": layer_hits,
    "sparsity": sparsity,
    "cell_energy": cell_spectrum,
    "first_moment_z": first_moment_z,
    "first_moment_r": first_moment_r,
    "second_moment_z": second_moment_z,
    "second_moment_r": second_moment_r,
    "containment_radius": containment_radius,
    "azimuthal_asymmetry": azimuthal_asymmetry,
    "layer_centres": layer_centres,
}


def observe(showers: RaggedShowers, observables: Mapping[str, Callable[[Hits], Array]] = OBSERVABLES) -> Table:
    """The table of all observables of the showers, taken block by block: name -> (n, ...) float64."""
    starts = range(0, max(len(showers), 1), BLOCK_SHOWERS)
    blocks = (showers.take(np.arange(s, min(s + BLOCK_SHOWERS, len(showers)))) for s in starts)
    return joined(observe_block(Hits.of(block), observables) for block in blocks)


def observe_block(hits: Hits, observables: Mapping[str, Callable[[Hits], Array]] = OBSERVABLES) -> Table:
    """The table of one block."""
    return {name: function(hits) for name, function in observables.items()}


def joined(tables: Iterable[Table]) -> Table:
    """Tables of consecutive blocks behind each other."""
    pieces = list(tables)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def rows_of(table: Table, rows: NDArray[np.generic]) -> Table:
    """The table of the chosen showers (indices or a mask)."""
    return {name: column[rows] for name, column in table.items()}


def profile(slices: Array) -> tuple[Array, Array]:
    """Mean energy per slice over the showers and its standard error, 2 x (slices,) MeV."""
    n = len(slices)
    mean = slices.sum(axis=0) / n
    variance = np.maximum((slices**2).sum(axis=0) / n - mean**2, 0) * n / max(n - 1, 1)
    return mean, np.sqrt(variance / n)


def layer_correlation(layers: Array) -> Array:
    """Pearson matrix of the layer energies, (Z, Z); 0 for a layer that never varies."""
    centred = layers - layers.mean(axis=0)
    covariance = centred.T @ centred
    width = np.sqrt(np.diag(covariance))
    return ratio(covariance, np.outer(width, width))
