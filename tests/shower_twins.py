"""Slow twins of the observables: plain loops over the cells of one dense shower."""

from __future__ import annotations

import cmath
import math

import numpy as np
from scipy.special import digamma

from pipeline.calorimeter import CylinderMesh

Cells = list[tuple[int, int, int, float]]


def cells_of(energy: np.ndarray) -> Cells:
    return [(i, j, k, float(energy[i, j, k])) for i, j, k in np.ndindex(*energy.shape) if energy[i, j, k] > 0]


def scalars(energy: np.ndarray, mesh: CylinderMesh) -> dict[str, float]:
    """The scalar observables of one shower (r, phi, z), by name."""
    cells = cells_of(energy)
    total = sum(e for *_, e in cells)
    z1, z2 = moments([((k + 0.5) * mesh.dz_mm, e) for _, _, k, e in cells])
    r1, r2 = moments([((i + 0.5) * mesh.dr_mm, e) for i, _, _, e in cells])
    lean = sum((e * cmath.exp(1j * mesh.phi_rad[j]) for _, j, _, e in cells), start=0j)
    layers = [sum(e for _, _, k, e in cells if k == layer) for layer in range(mesh.n_z)]
    rings = [sum(e for i, _, _, e in cells if i == ring) for ring in range(mesh.n_r)]
    return {
        "visible_energy": total,
        "hits": len(cells),
        "sparsity": 1 - len(cells) / mesh.n_cells,
        "first_moment_z": z1,
        "first_moment_r": r1,
        "second_moment_z": z2,
        "second_moment_r": r2,
        "azimuthal_asymmetry": abs(lean) / total if total else 0,
        "containment_radius_50": containment(rings, 0.5, mesh.dr_mm),
        "containment_radius": containment(rings, 0.9, mesh.dr_mm),
        "containment_radius_95": containment(rings, 0.95, mesh.dr_mm),
        "layer_of_maximum": (layers.index(max(layers)) + 0.5) * mesh.dz_mm if total else 0,
        "depth_of_maximum": gamma_maximum(layers, mesh.dz_mm),
        "clusters": clusters(cells, mesh),
    }


def moments(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of positions weighted by energies."""
    total = sum(e for _, e in values)
    if total == 0:
        return 0.0, 0.0
    first = sum(x * e for x, e in values) / total
    return first, sum((x - first) ** 2 * e for x, e in values) / total


def containment(rings: list[float], fraction: float, dr_mm: float) -> float:
    """Walks outwards until the fraction is inside."""
    inside, wanted = 0.0, fraction * sum(rings)
    for ring, energy in enumerate(rings):
        if inside + energy >= wanted and energy > 0:
            return (ring + (wanted - inside) / energy) * dr_mm
        inside += energy
    return 0.0


def gamma_maximum(layers: list[float], dz_mm: float) -> float:
    """Bisects for the shape a of the likeliest gamma profile; its maximum is (a - 1) / a of the mean depth."""
    total = sum(layers)
    if not total:
        return 0.0
    depths = [(i + 0.5) * dz_mm for i in range(len(layers))]
    mean = sum(z * e for z, e in zip(depths, layers, strict=True)) / total
    spread = math.log(mean) - sum(math.log(z) * e for z, e in zip(depths, layers, strict=True)) / total
    low, high = 1e-3, 1e7
    while spread > 1e-7 and high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if math.log(middle) - float(digamma(middle)) > spread else (low, middle)
    return (low - 1) / low * mean if spread > 1e-7 and low > 1 else depths[layers.index(max(layers))]


def neighbours(i: int, j: int, k: int, mesh: CylinderMesh) -> set[tuple[int, int, int]]:
    """Cells that share a face with this one; wedges of the innermost ring all touch on the axis."""
    beside = {(i - 1, j, k), (i + 1, j, k), (i, j, k - 1), (i, j, k + 1)}
    beside |= {(i, (j + step) % mesh.n_phi, k) for step in (-1, 1)}
    return beside | ({(0, other, k) for other in range(mesh.n_phi)} if i == 0 else set())


def clusters(cells: Cells, mesh: CylinderMesh) -> int:
    """Flood fill."""
    left, found = {(i, j, k) for i, j, k, _ in cells}, 0
    while left:
        found += 1
        queue = [left.pop()]
        while queue:
            touched = neighbours(*queue.pop(), mesh) & left
            left -= touched
            queue += touched
    return found
