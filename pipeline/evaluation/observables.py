"""What is measured of each shower: pure functions from a block of hits to numbers per shower.

In: `Hits`, the ragged hits of n showers (visible MeV, cut, with the mesh); out: float64 arrays whose first
axis is the shower, (n,) or (n, slices). Everything else of the evaluation (profiles with errors, metrics,
bootstrap, figures) is computed from the table of these arrays. `observe` fills it block by block in Dask's threads:
no more cells are in memory than the blocks at work, and a shower leaves 1.5 kB behind (without `WIDE`).
Definitions and sources: docs/metrics.md, `shapes` and `collective`. It compares nothing and knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.compute import Workers
from pipeline.data.stream import Piece, ShowerStream
from pipeline.evaluation.collective import azimuthal_asymmetry, cluster_count
from pipeline.evaluation.hits import Array, Hits, ratio
from pipeline.evaluation.shapes import (
    Convention,
    containment_radius,
    depth_of_maximum,
    first_moment_r,
    first_moment_z,
    layer_centres,
    layer_of_maximum,
    second_moment_r,
    second_moment_z,
)

Table = dict[str, NDArray[Any]]
Observables = Mapping[str, Callable[[Hits], Array]]

BLOCK_SHOWERS = 512
ONE_THREAD = Workers(1)
CELL_LOG10_EDGES = np.linspace(-5, 4, 361)  # log10(E / MeV), 40 bins per decade


# ------------------------------------------------------------------------------- energies and hits


def incident_energy(hits: Hits) -> Array:
    """Energy of the incoming particle, (n,) MeV."""
    return hits.incident_energy


def theta(hits: Hits) -> Array:
    """Polar angle of the incoming particle, (n,) rad."""
    return hits.theta


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
    return hits.sectors


def hit_count(hits: Hits) -> Array:
    """Number of cells above threshold, (n,)."""
    return hits.total()


def layer_hits(hits: Hits) -> Array:
    """Number of cells above threshold per z layer, (n, Z)."""
    return hits.by_layer()


def sparsity(hits: Hits) -> Array:
    """Fraction of cells at or below threshold, (n,); vit4hep counts the others."""
    return 1 - hit_count(hits) / hits.mesh.n_cells


def cell_spectrum(hits: Hits) -> Array:
    """Number of hits per bin of log10(E / MeV), (n, 360); energies beyond the range count in the last bins."""
    bins = len(CELL_LOG10_EDGES) - 1
    value = np.log10(hits.energy)
    step = CELL_LOG10_EDGES[1] - CELL_LOG10_EDGES[0]
    index = np.clip(((value - CELL_LOG10_EDGES[0]) / step).astype(np.intp), 0, bins - 1)
    index -= (value < CELL_LOG10_EDGES[index]) & (index > 0)  # the quotient may round over an edge
    index += (value >= CELL_LOG10_EDGES[index + 1]) & (index < bins - 1)
    return hits.along(index, bins)


# ------------------------------------------------------------------------------- the table


OBSERVABLES: dict[str, Callable[..., Array]] = {
    "incident_energy": incident_energy,
    "theta": theta,
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
    "containment_radius_50": partial(containment_radius, fraction=0.5),
    "containment_radius": containment_radius,
    "containment_radius_95": partial(containment_radius, fraction=0.95),
    "layer_of_maximum": layer_of_maximum,
    "depth_of_maximum": depth_of_maximum,
    "azimuthal_asymmetry": azimuthal_asymmetry,
    "clusters": cluster_count,
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
WIDE = ("layer_centres",)  # only of the showers whose cells are compared
_MOMENTS = {"first_moment_z", "first_moment_r", "second_moment_z", "second_moment_r"}


def observables(convention: Convention = "standard", wide: bool = True) -> Observables:
    """`OBSERVABLES` with the moments of a convention; `wide` False leaves out what takes most of a table."""
    return {
        name: partial(function, convention=convention) if name in _MOMENTS else function
        for name, function in OBSERVABLES.items()
        if wide or name not in WIDE
    }


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
