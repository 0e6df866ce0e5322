"""What is measured of each shower: pure functions from a block of hits to numbers per shower.

In: `Hits`, the ragged hits of n showers (visible MeV, cut, with the mesh); out: float64 arrays whose first
axis is the shower, (n,) or (n, slices). Everything else of the evaluation (profiles with errors, metrics,
bootstrap, figures) is computed from the table of these arrays. `observe` fills it block by block in Dask's threads:
no more cells are in memory than the blocks at work, and a shower leaves `STREAMED`'s 1.5 kB behind.
Sources: Geant4 11.4 Par04 (moments); CaloChallenge `HighLevelFeatures` (centres, widths); definitions in
docs/metrics.md. An empty shower or layer has moments, centres and widths 0.
It compares nothing and knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.compute import Workers
from pipeline.data.stream import Piece, ShowerStream
from pipeline.evaluation.hits import Array, Hits, ratio

Table = dict[str, NDArray[Any]]
Convention = Literal["standard", "par04"]
Observables = Mapping[str, Callable[[Hits], Array]]

BLOCK_SHOWERS = 512
ONE_THREAD = Workers(1)
CELL_LOG10_EDGES = np.linspace(-5, 4, 361)  # log10(E / MeV), 40 bins per decade


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


OBSERVABLES: Observables = {
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


STORED: dict[str, type[np.generic]] = {
    "layer_energy": np.float32,
    "ring_energy": np.float32,
    "sector_energy": np.float32,
    "layer_hits": np.float32,
    "cell_energy": np.uint16,
    "layer_centres": np.float32,
}  # how a table keeps its wide columns; all others stay float64
STREAMED = {name: function for name, function in OBSERVABLES.items() if name != "layer_centres"}


def observe(
    showers: RaggedShowers | ShowerStream, observables: Observables = OBSERVABLES, workers: Workers = ONE_THREAD
) -> Table:
    """The table of the showers, in their order: name -> (n, ...), float64 but for `STORED`.

    Blocks of 512 showers are measured by Dask; the table is the same wherever and however parallel it runs.
    """
    stream = showers if isinstance(showers, ShowerStream) else ShowerStream.of(showers)
    source, pieces = stream.first(0), stream.pieces(BLOCK_SHOWERS)
    table = _allocated(stream, observables)
    for piece, columns in zip(pieces, workers.in_order(partial(_observed, source, observables), pieces), strict=True):
        for name, column in columns.items():
            table[name][piece.places] = column
    return table


def _allocated(stream: ShowerStream, observables: Observables) -> Table:
    """The empty table; the width of its columns is that of no showers."""
    nothing = observe_block(Hits.of(stream.first(0).read()), observables)
    return {name: np.empty((len(stream), *c.shape[1:]), STORED.get(name, np.float64)) for name, c in nothing.items()}


def _observed(source: ShowerStream, observables: Observables, piece: Piece) -> Table:
    """The table of one block, as small as it is kept."""
    table = observe_block(Hits.of(source.block(piece)), observables)
    return {name: column.astype(STORED.get(name, np.float64)) for name, column in table.items()}


def observe_block(hits: Hits, observables: Observables = OBSERVABLES) -> Table:
    """The table of one block, all float64."""
    return {name: function(hits) for name, function in observables.items()}


def joined(tables: Iterable[Table]) -> Table:
    """Tables of consecutive showers behind each other."""
    pieces = list(tables)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def rows_of(table: Table, rows: NDArray[np.generic]) -> Table:
    """The table of the chosen showers (indices or a mask)."""
    return {name: column[rows] for name, column in table.items()}


def profile(slices: NDArray[Any]) -> tuple[Array, Array]:
    """Mean energy per slice over the showers and its standard error, 2 x (slices,) MeV."""
    n = len(slices)
    mean = slices.sum(axis=0, dtype=np.float64) / n
    variance = np.maximum(np.square(slices, dtype=np.float64).sum(axis=0) / n - mean**2, 0) * n / max(n - 1, 1)
    return mean, np.sqrt(variance / n)


def layer_correlation(layers: NDArray[Any]) -> Array:
    """Pearson matrix of the layer energies, (Z, Z); 0 for a layer that never varies."""
    centred = layers - layers.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred
    width = np.sqrt(np.diag(covariance))
    return ratio(covariance, np.outer(width, width))
