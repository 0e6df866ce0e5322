"""Where in the mesh a shower's energy lies: moments, containment, centres, depth of the maximum.

In: `Hits` of n showers; out: float64 (n,) or (n, slices), mm and mm^2. Positions are cell centres but for the moments
of convention `par04`. Sources: Geant4 11.4 Par04 (moments); CaloChallenge `HighLevelFeatures` (centres, widths); Longo
and Sestili, NIM 128 (1975) 283 (gamma profile). An empty shower or layer has 0 everywhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import digamma, polygamma

from pipeline.evaluation.hits import Array, Hits, ratio

_NARROWEST = 1e-9  # of ln <z> - <ln z>; below it all energy lies in one layer
Convention = Literal["standard", "par04"]


# ------------------------------------------------------------------------------- moments


def moment_origin(convention: Convention) -> float:
    """Where a cell lies, in cells after its lower edge: its centre, or with Par04 its edge (D sum i E_i / E)."""
    return 0.5 if convention == "standard" else 0.0


def moments(energy: Array, size_mm: float, convention: Convention = "standard") -> tuple[Array, Array]:
    """First (mm) and second central (mm^2) moment of slice energies (n, slices); Par04 `validate`."""
    position = (np.arange(energy.shape[1]) + moment_origin(convention)) * size_mm
    total = energy.sum(axis=1)
    first = ratio(energy @ position, total)
    return first, ratio((energy * (position - first[:, None]) ** 2).sum(axis=1), total)


def first_moment_z(hits: Hits, convention: Convention = "standard") -> Array:
    """Energy-weighted mean depth, (n,) mm."""
    return moments(hits.layers, hits.mesh.dz_mm, convention)[0]


def second_moment_z(hits: Hits, convention: Convention = "standard") -> Array:
    """Energy-weighted variance of the depth, (n,) mm^2."""
    return moments(hits.layers, hits.mesh.dz_mm, convention)[1]


def first_moment_r(hits: Hits, convention: Convention = "standard") -> Array:
    """Energy-weighted mean radius, (n,) mm."""
    return moments(hits.rings, hits.mesh.dr_mm, convention)[0]


def second_moment_r(hits: Hits, convention: Convention = "standard") -> Array:
    """Energy-weighted variance of the radius, (n,) mm^2."""
    return moments(hits.rings, hits.mesh.dr_mm, convention)[1]


# ------------------------------------------------------------------------------- containment and depth


def containment_radius(hits: Hits, fraction: float = 0.9) -> Array:
    """Radius that holds a fraction of the energy (R90, the Moliere radius), (n,) mm; linear within a ring."""
    inside = np.cumsum(hits.rings, axis=1)
    wanted = fraction * inside[:, -1]
    ring = np.argmax(inside >= wanted[:, None], axis=1)
    row = np.arange(len(hits))
    missing = wanted - (inside[row, ring] - hits.rings[row, ring])
    radius: Array = (ring + ratio(missing, hits.rings[row, ring])) * hits.mesh.dr_mm
    return radius


def layer_of_maximum(hits: Hits) -> Array:
    """Depth of the centre of the layer with the most energy (the first of equals), (n,) mm."""
    return np.where(hits.layers.any(axis=1), hits.mesh.z_mm[hits.layers.argmax(axis=1)], 0.0)


def depth_of_maximum(hits: Hits) -> Array:
    """Maximum (a - 1)/b of the gamma profile E(z) = c z^(a-1) exp(-b z) fitted to the layers, (n,) mm.

    Maximum likelihood of the depths, each weighted by its energy: ln a - psi(a) = ln <z> - <ln z>, b = a / <z>; empty
    layers count, energy behind the mesh is missed. Where a <= 1 (energy falls from the first layer on) or all energy
    lies in one layer it is `layer_of_maximum`.
    """
    depth, total = hits.mesh.z_mm, hits.layers.sum(axis=1)
    mean = ratio(hits.layers @ depth, total)
    spread = np.log(np.where(total > 0, mean, 1.0)) - ratio(hits.layers @ np.log(depth), total)
    shape = gamma_shape(np.maximum(spread, _NARROWEST))
    found = (total > 0) & (spread > _NARROWEST) & (shape > 1)
    return np.where(found, (shape - 1) / shape * mean, layer_of_maximum(hits))


def gamma_shape(spread: Array) -> Array:
    """The a with ln a - psi(a) = spread > 0: Minka's Newton steps (2002, "Estimating a gamma distribution")."""
    shape = (3 - spread + np.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    for _ in range(4):
        step = (np.log(shape) - digamma(shape) - spread) / (shape**2 * (1 / shape - polygamma(1, shape)))
        shape = 1 / (1 / shape + step)
    return shape


# ------------------------------------------------------------------------------- centres of layers


def layer_centres(hits: Hits) -> Array:
    """Per layer the centre and width along x, y and r (CaloChallenge `HighLevelFeatures`), (n, 6 Z) mm.

    Centre sum x E / E, width sqrt(<x^2> - <x>^2), 0 within rounding; <r^2> is <x^2> + <y^2>.
    """
    radius, column = hits.mesh.r_mm, hits.r * hits.mesh.n_phi + hits.phi
    means, squares = [], []
    for direction in (np.cos(hits.mesh.phi_rad), np.sin(hits.mesh.phi_rad)):
        position = np.outer(radius, direction).ravel()[column]
        weighted = hits.energy * position
        means.append(ratio(hits.by_layer(weighted), hits.layers))
        squares.append(ratio(hits.by_layer(weighted * position), hits.layers))
    means.append(ratio(hits.by_layer(hits.energy * radius[hits.r]), hits.layers))
    squares.append(squares[0] + squares[1])
    widths = [_width(mean, square) for mean, square in zip(means, squares, strict=True)]
    return np.concatenate([part for pair in zip(means, widths, strict=True) for part in pair], axis=1)


def _width(mean: Array, square: Array) -> Array:
    """sqrt(<x^2> - <x>^2), exactly 0 where the difference is no more than rounding.

    A layer whose hits lie in one ring has no width; one of 1e-7 mm would be the scale of a normalised feature.
    """
    variance = square - mean**2
    return np.sqrt(np.where(variance > 1e-9 * square, variance, 0))
