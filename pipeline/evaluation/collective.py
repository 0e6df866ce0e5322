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
    angle = hits.mesh.phi_rad[hits.phi]
    east, north = (hits.total(hits.energy * f(angle)) for f in (np.cos, np.sin))
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

    Hits that follow each other along z are one run; runs that touch along r or phi are edges of a graph.
    """
    shower, r, phi, z = hits.shower[chosen], hits.r[chosen], hits.phi[chosen], hits.z[chosen]
    if len(shower) == 0:
        return np.zeros(0, np.intp)
    n_r, n_phi, n_z = hits.mesh.shape
    first = shower - shower[0]
    cell = ((first * n_r + r) * n_phi + phi) * n_z + z
    starts = np.append(True, (np.diff(cell) != 1) | (z[1:] == 0))
    run = np.cumsum(starts, dtype=np.int32) - 1
    run_of_cell = np.full((first[-1] + 1) * hits.mesh.n_cells, -1, np.int32)
    run_of_cell[cell] = run
    inner, core = r < n_r - 1, r == 0
    axis_run = np.full((first[-1] + 1) * n_z, -1, np.int32)
    axis_run[(first * n_z + z)[core]] = run[core]
    edges = [
        _touching(run, run_of_cell[cell + np.where(phi == n_phi - 1, -(n_phi - 1) * n_z, n_z)]),
        _touching(run[inner], run_of_cell[(cell + n_phi * n_z)[inner]]),
        _touching(run[core], axis_run[(first * n_z + z)[core]]),
    ]
    ends = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(run[-1] + 1, run[-1] + 1))
    clusters, label = connected_components(graph.tocsr(), directed=False)
    shower_of_cluster = np.empty(clusters, np.intp)
    shower_of_cluster[label] = shower[starts]
    return shower_of_cluster


def _touching(run: Index, neighbour: Index) -> Index:
    """Pairs of a run and the run beside it, (2, pair); the same pair cell after cell counts once, -1 is nobody."""
    pairs = np.stack([run, neighbour])[:, neighbour >= 0]
    return pairs[:, np.append(True, (np.diff(pairs) != 0).any(axis=0))] if pairs.shape[1] else pairs
