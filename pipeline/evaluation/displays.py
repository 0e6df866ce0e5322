"""The small tables behind shower displays: a few single showers with their cells, and average showers.

In: `ShowerStream`s of reference and sample on one mesh (visible MeV); out: JSON-able dictionaries, energies in MeV,
lengths in mm. The same showers are chosen each time: evenly spaced ranks of the incident energy. Of a shower with very
many cells only those of most energy are kept, and their number is said. It projects and averages; it compares nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.comparisons import same_conditions
from pipeline.evaluation.tables import plain

Record = dict[str, Any]

IMAGES = 8
MOST_CELLS = 2000  # of one shower, in a display
AVERAGED = 1000  # showers of a side, at most
_BLOCK = 256
_DIGITS = 4


def image_rows(incident: NDArray[np.float64], count: int = IMAGES) -> NDArray[np.intp]:
    """Showers at evenly spaced ranks of the incident energy."""
    ranks = (np.arange(count) + 0.5) / count * len(incident)
    return np.argsort(incident, kind="stable")[np.unique(ranks.astype(np.intp))]


def side_view(showers: RaggedShowers) -> NDArray[np.float64]:
    """Energy summed over each half of the azimuth, (n, 2 R, Z) MeV: outermost ring of phi > 0 first, phi < 0 last."""
    energy = showers.dense(np.float64).energy
    middle = showers.mesh.n_phi // 2
    below, above = energy[:, :, :middle].sum(axis=2), energy[:, :, middle:].sum(axis=2)
    return np.concatenate([above[:, ::-1], below], axis=1)


def image_tables(reference: ShowerStream, sample: ShowerStream) -> Record:
    """Single showers, projected and cell by cell: the same conditions on both sides, or the nearest incident energy."""
    ours, theirs = reference.incident_energy, sample.incident_energy
    partners = rows = image_rows(ours)
    if not same_conditions(ours, theirs):
        away = np.abs(np.log(theirs[None, :] / ours[rows][:, None]))
        partners = away.argmin(axis=1)
    mesh = reference.mesh
    return {
        "r_mm": mesh.n_r * mesh.dr_mm,
        "z_mm": mesh.n_z * mesh.dz_mm,
        "cells": list(mesh.shape),
        "reference": _images(reference.take(rows).read()),
        "sample": _images(sample.take(partners).read()),
    }


def _images(showers: RaggedShowers) -> list[Record]:
    """energy_mev: side view (2 R, Z); unrolled_mev: seen from the axis (phi, Z); hits: cells of most energy."""
    unrolled = showers.dense(np.float64).energy.sum(axis=1)
    return [
        {
            "incident_energy_mev": float(e),
            "energy_mev": np.round(view, 4).tolist(),
            "unrolled_mev": np.round(phi_z, 4).tolist(),
            "hits": _hits(showers, i),
        }
        for i, (e, view, phi_z) in enumerate(zip(showers.incident_energy, side_view(showers), unrolled, strict=True))
    ]


def _hits(showers: RaggedShowers, row: int) -> Record:
    """Cells (flat index in (r, phi, z)) of most energy and their MeV in the order of cells, and how many there are."""
    span = slice(showers.offsets[row], showers.offsets[row + 1])
    cell, energy = showers.cell[span].astype(np.int64), showers.energy[span].astype(np.float64)
    kept = np.sort(np.lexsort((cell, -energy))[:MOST_CELLS])
    return {"cell": cell[kept].tolist(), "energy_mev": plain(energy[kept], _DIGITS), "of": len(cell)}


def average_tables(reference: ShowerStream, sample: ShowerStream) -> Record:
    """The average shower of each side, in two projections with the standard errors of the means."""
    return {
        "r_mm": reference.mesh.n_r * reference.mesh.dr_mm,
        "z_mm": reference.mesh.n_z * reference.mesh.dz_mm,
        "reference": average(reference.first(AVERAGED)),
        "sample": average(sample.first(AVERAGED)),
    }


def average(showers: ShowerStream) -> Record:
    """Mean energy per shower and its standard error, MeV: r_z (R, Z), phi_z (phi, Z); the number of showers."""
    mesh, n = showers.mesh, len(showers)
    sums = {name: np.zeros((2, cells[0] * cells[1])) for name, cells in _shapes(mesh).items()}
    for piece in showers.pieces(_BLOCK):
        block = showers.block(piece)
        r, phi, z = np.unravel_index(block.cell.astype(np.int64), mesh.shape)
        for name, first in (("r_z", r), ("phi_z", phi)):
            bins = sums[name].shape[1]
            place = (block.shower_of_hit.astype(np.int64) * bins) + first * mesh.n_z + z
            view = np.bincount(place, block.energy, len(block) * bins).reshape(len(block), bins)
            sums[name] += view.sum(axis=0), (view**2).sum(axis=0)
    table: Record = {"showers": n}
    for name, cells in _shapes(mesh).items():
        mean, square = sums[name] / n
        error = np.sqrt(np.clip(square - mean**2, 0, None) / max(n - 1, 1))
        table[name] = {
            "mean": plain(mean.reshape(cells), _DIGITS),
            "error": plain(error.reshape(cells), _DIGITS),
        }
    return table


def _shapes(mesh: CylinderMesh) -> dict[str, tuple[int, int]]:
    return {"r_z": (mesh.n_r, mesh.n_z), "phi_z": (mesh.n_phi, mesh.n_z)}
