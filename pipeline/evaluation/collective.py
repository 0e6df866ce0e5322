"""What marginals cannot see: how the cells of one shower hang together.

In: `Hits` of n showers; out: float64 (n,). Cells drawn independently of each other at the right rates have all
profiles, spectra and hit counts right and these wrong. The correlation of layers is one of a set of showers
(`observables.layer_correlation`).
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.evaluation.hits import Array, Hits, ratio

Index = NDArray[np.integer]
_LABELLED_SHOWERS = 64  # showers whose cells are labelled together: their mesh fits into a cache


def azimuthal_asymmetry(hits: Hits) -> Array:
    """A_phi = |sum E exp(i phi)| / E_tot, (n,) in [0, 1]; independent cells of the right means have it too small."""
    east, north = (hits.sectors @ f(hits.mesh.phi_rad) for f in (np.cos, np.sin))
    return ratio(np.hypot(east, north), hits.total(hits.energy))


def cluster_count(hits: Hits) -> Array:
    """Number of connected clusters of hits, (n,).

    Cells are neighbours when they share a face: 6 neighbours along r, phi and z, phi closed to a circle. The wedges of
    the innermost ring meet on the axis, so within a layer all of them are neighbours.
    """
    ends = np.searchsorted(hits.shower, np.arange(0, len(hits) + _LABELLED_SHOWERS, _LABELLED_SHOWERS))
    counts = [_clusters(hits, slice(a, b)) for a, b in itertools.pairwise(ends)]
    found = np.concatenate([np.zeros(0, np.intp), *counts])
    return np.bincount(found, minlength=len(hits)).astype(np.float64)


def _clusters(hits: Hits, chosen: slice) -> NDArray[np.intp]:
    """The shower of each cluster among consecutive hits, (cluster,).

    Hits that follow each other along z are one run; runs that touch along r or phi are edges of a graph. The mesh is
    one cell larger along each axis, empty but for phi, where the first sector stands again behind the last.
    """
    shower = hits.shower[chosen]
    if len(shower) == 0:
        return np.zeros(0, np.intp)
    shape = (int(shower[-1] - shower[0]) + 1, *(n + 1 for n in hits.mesh.shape))
    r, phi, z = hits.r[chosen], hits.phi[chosen], hits.z[chosen]
    place = (((shower - shower[0]).astype(np.int32) * shape[1] + r) * shape[2] + phi) * shape[3] + z
    starts = np.append(True, place[1:] != place[:-1] + 1)
    run = np.cumsum(starts, dtype=np.int32) - 1
    run_of_cell = np.full(shape, -1, np.int32)
    flat = run_of_cell.reshape(-1)
    flat[place] = run
    run_of_cell[:, :, -1] = run_of_cell[:, :, 0]
    core = np.flatnonzero(r == 0)
    axis = (shower[core] - shower[0]) * shape[3] + z[core]
    axis_run = np.full(shape[0] * shape[3], -1, np.int32)
    axis_run[axis] = run[core]
    edges = [
        _touching(run, flat[place + shape[3]]),
        _touching(run, flat[place + shape[2] * shape[3]]),
        _touching(run[core], axis_run[axis]),
    ]
    first, second = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(run[-1] + 1, run[-1] + 1))
    clusters, label = connected_components(graph.tocsr(), directed=False)
    shower_of_cluster = np.empty(clusters, np.intp)
    shower_of_cluster[label] = shower[starts]
    return shower_of_cluster


def _touching(run: Index, neighbour: Index) -> tuple[Index, Index]:
    """Runs and the runs beside them, 2 x (pair,); the same pair cell after cell counts once, -1 is nobody."""
    new = neighbour >= 0
    new[1:] &= (run[1:] != run[:-1]) | (neighbour[1:] != neighbour[:-1])
    kept = np.flatnonzero(new)
    return run[kept], neighbour[kept]
