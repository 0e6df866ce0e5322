"""The plain NumPy way to the same observables: all showers dense in memory, a formula per observable.

In: dense showers (shower, r, phi, z), float32 MeV; out: the table that `observe` makes, float64.
Written as one would for a notebook, without loops over cells: sums over axes, masks, `scipy.ndimage.label`.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import digamma, polygamma

from pipeline.calorimeter import CylinderMesh
from pipeline.evaluation.observables import CELL_LOG10_EDGES

Array = np.ndarray
Table = dict[str, Array]


def table_of(energy: Array, incident_energy: Array, mesh: CylinderMesh, threshold_mev: float) -> Table:
    """All observables of dense showers."""
    energy = np.where(energy < threshold_mev, 0, energy)
    layers, rings, sectors = (energy.sum(axis=axes, dtype=np.float64) for axes in ((1, 2), (2, 3), (1, 3)))
    hit, total = energy > 0, layers.sum(axis=1)
    hits = hit.sum(axis=(1, 2, 3))
    first_z, second_z = moments(layers, mesh.z_mm)
    first_r, second_r = moments(rings, mesh.r_mm)
    lean = (sectors * np.exp(1j * mesh.phi_rad)).sum(axis=1)
    log_energy = [np.log10(shower[shower > 0], dtype=np.float64) for shower in energy]
    return {
        "incident_energy": incident_energy,
        "visible_energy": total,
        "energy_response": total / incident_energy,
        "layer_energy": layers,
        "ring_energy": rings,
        "sector_energy": sectors,
        "hits": hits,
        "layer_hits": hit.sum(axis=(1, 2)),
        "sparsity": 1 - hits / mesh.n_cells,
        "cell_energy": np.stack([np.histogram(values, CELL_LOG10_EDGES)[0] for values in log_energy]),
        "first_moment_z": first_z,
        "first_moment_r": first_r,
        "second_moment_z": second_z,
        "second_moment_r": second_r,
        "containment_radius_50": radius(rings, 0.5, mesh.dr_mm),
        "containment_radius": radius(rings, 0.9, mesh.dr_mm),
        "containment_radius_95": radius(rings, 0.95, mesh.dr_mm),
        "layer_of_maximum": mesh.z_mm[layers.argmax(axis=1)],
        "depth_of_maximum": gamma_maximum(layers, mesh.z_mm),
        "azimuthal_asymmetry": np.abs(lean) / total,
        "clusters": np.array([clusters(shower) for shower in hit]),
        "layer_centres": centres(energy, layers, mesh),
    }


def moments(slices: Array, position: Array) -> tuple[Array, Array]:
    """Mean and variance of the position."""
    mean = (slices * position).sum(axis=1) / slices.sum(axis=1)
    return mean, (slices * (position - mean[:, None]) ** 2).sum(axis=1) / slices.sum(axis=1)


def radius(rings: Array, fraction: float, dr_mm: float) -> Array:
    """Radius that holds a fraction of the energy, linear within a ring."""
    inside = np.cumsum(rings, axis=1) / rings.sum(axis=1, keepdims=True)
    edges = np.arange(rings.shape[1] + 1) * dr_mm
    return np.array([np.interp(fraction, np.append(0, row), edges) for row in inside])


def gamma_maximum(layers: Array, depth: Array) -> Array:
    """Likeliest gamma profile, by Newton's method."""
    total = layers.sum(axis=1)
    mean = layers @ depth / total
    spread = np.log(mean) - layers @ np.log(depth) / total
    shape = 0.5 / spread
    for _ in range(20):
        shape -= (np.log(shape) - digamma(shape) - spread) / (1 / shape - polygamma(1, shape))
    return (shape - 1) / shape * mean


def clusters(hit: Array) -> int:
    """Connected clusters, joined over the seam in phi and around the axis."""
    labels, count = label(hit)
    seam = [labels[:, 0].ravel(), labels[:, -1].ravel()]
    axis = [labels[0, :-1].ravel(), labels[0].max(axis=0, keepdims=True).repeat(hit.shape[1] - 1, axis=0).ravel()]
    last = [labels[0, -1], labels[0].max(axis=0)]
    pairs = np.concatenate([np.stack(seam), np.stack(axis), np.stack(last)], axis=1)
    pairs = pairs[:, (pairs > 0).all(axis=0)] - 1
    if count == 0:
        return 0
    graph = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(count, count))
    return int(connected_components(graph, directed=False)[0])


def centres(energy: Array, layers: Array, mesh: CylinderMesh) -> Array:
    """Centre and width per layer along x, y and r."""
    radius_mm, angle = mesh.r_mm[:, None, None], mesh.phi_rad[None, :, None]
    columns = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for position in (radius_mm * np.cos(angle), radius_mm * np.sin(angle), radius_mm + 0 * angle):
            mean = (energy * position).sum(axis=(1, 2)) / layers
            square = (energy * position**2).sum(axis=(1, 2)) / layers
            columns += [mean, np.sqrt(np.maximum(square - mean**2, 0))]
    return np.nan_to_num(np.concatenate(columns, axis=1))
