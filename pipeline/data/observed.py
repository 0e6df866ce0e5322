"""Statistics of what the next step to be fitted sees, from hits behind the stored prefix of a recipe.

In: a transform, fitted as far as it is, and ragged showers behind its prefix. Out: `CellStatistics` on the recipe's
mesh. Hits alone are looked at, except behind noise, which fills every cell: there blocks of dense showers are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.layers import LayerFractions, Noise, fractions
from pipeline.data.statistics import CellStatistics, merged
from pipeline.data.steps import Step
from pipeline.data.transforms import Transform, applied, prepared

_DENSE_SHOWERS = 32


def observed(transform: Transform, stored: RaggedShowers) -> CellStatistics:
    """The statistics of ragged showers behind the prefix, in front of the transform's next step to be fitted."""
    steps = transform.steps[transform.n_prefix : transform.n_observed]
    if not steps:
        return CellStatistics.of(stored, transform.fill)
    if any(isinstance(step, Noise) for step in steps):
        return _dense(transform, steps, stored)
    fill, values = np.array([transform.fill]), stored.energy.astype(np.float64)
    incident = np.repeat(np.asarray(stored.incident_energy, np.float64), stored.row_size)
    for step in steps:
        if isinstance(step, LayerFractions):
            values = _of_layers(stored)
        else:
            fill, values = step.forward(fill, np.ones(1)), step.forward(values, incident)
    return CellStatistics.of(stored, float(fill[0]), values)


def _dense(transform: Transform, steps: Sequence[Step], stored: RaggedShowers) -> CellStatistics:
    """All cells of some showers at a time."""
    states = [CellStatistics.empty(transform.mesh.shape)]
    for start in range(0, len(stored), _DENSE_SHOWERS):
        some = stored.take(np.arange(start, min(start + _DENSE_SHOWERS, len(stored))))
        block = np.full((len(some), some.mesh.n_cells), transform.fill)
        block[some.shower_of_hit, some.cell] = some.energy
        x, incident = prepared(block.reshape(-1, *some.mesh.shape), some.incident_energy, some.mesh)
        states.append(CellStatistics.of_dense(applied(steps, x, incident)))
    return merged(states)


def _of_layers(showers: RaggedShowers) -> NDArray[np.float64]:
    """Energies of hits over those of their layers."""
    n_z = showers.mesh.n_z
    layer = showers.shower_of_hit * n_z + showers.cell.astype(np.intp) % n_z
    energy = np.bincount(layer, weights=showers.energy, minlength=len(showers) * n_z)
    return np.asarray(fractions(showers.energy.astype(np.float64), energy[layer]))
