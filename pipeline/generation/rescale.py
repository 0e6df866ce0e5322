"""Scales a shower, layer by layer, to given layer energies: exactly, and with no cell below the cut.

In: energies (B, r, phi, z) in MeV with all hits marked, layer energies (B, Z) in MeV, how likely each cell was
to be hit. Out: energies (B, r, phi, z) whose layer sums are the given ones. A layer with energy but no hit gets its
most likely cell. Scaling once and cutting afterwards would lose 2-3 % of the energy; scaling, cutting and scaling
again loses none: the last factor is at least one, so no cell falls below the cut again. NumPy, float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rescale_layers(energy: NDArray[Any], layer_energy: NDArray[Any], likelihood: NDArray[Any], cut_mev: float) -> Array:
    """Energies with exactly the given layer sums; a layer given less than the cut is empty.

    A layer keeps at least its strongest cell, whose share is what the others lose.
    """
    n, n_r, n_phi, n_z = energy.shape
    cells = np.asarray(energy, np.float64).transpose(0, 3, 1, 2).reshape(n, n_z, n_r * n_phi)
    likely = np.asarray(likelihood).transpose(0, 3, 1, 2).reshape(cells.shape)
    target = np.where(layer_energy < cut_mev, 0.0, layer_energy.astype(np.float64))[:, :, None]
    best = _only(likely.argmax(axis=2), cells.shape)
    cells = np.where(~(cells > 0).any(axis=2, keepdims=True) & best, cut_mev, cells)
    cells = _scaled(cells, target)
    strongest = _only(cells.argmax(axis=2), cells.shape)
    cells = _scaled(np.where((cells < cut_mev) & ~strongest, 0.0, cells), target)
    return np.ascontiguousarray(cells.reshape(n, n_z, n_r, n_phi).transpose(0, 2, 3, 1))


def _scaled(cells: Array, target: Array) -> Array:
    total = cells.sum(axis=2, keepdims=True)
    factor: Array = np.divide(target, total, out=np.zeros_like(total), where=total > 0)
    return cells * factor


def _only(index: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """True at one cell of each layer."""
    return np.asarray(np.arange(shape[2]) == index[:, :, None])
