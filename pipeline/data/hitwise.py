"""A transform on hits alone: the steps behind the geometry, applied to a tenth of the cells.

In: values of hits (hit,), their flat cell on the network's mesh (hit,) and the incident energy of their shower
(hit,) in MeV. Out: float64 values of the same hits, equal to those of the dense transform. It works where every
step acts on a cell alone and an empty cell becomes the same in every shower (`is_cellwise`); steps that are not
listed in CELLWISE are taken for steps that do not, and showers then go through the dense transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.fitted import DivideByFitted, Standardise
from pipeline.data.pointwise import DivideByIncidentEnergy, Log, Log1p, Logit, Power
from pipeline.data.steps import Rebin, Step
from pipeline.data.transforms import Transform

CELLWISE = (DivideByIncidentEnergy, DivideByFitted, Log, Log1p, Logit, Power, Standardise)
Values = NDArray[np.float64]


def is_cellwise(transform: Transform) -> bool:
    """Whether hits can be transformed without their neighbours."""
    return all(isinstance(step, CELLWISE) for step in transform.steps)


def commutes_with_phi(transform: Transform) -> bool:
    """Whether turning raw showers by whole cells in phi, or mirroring them, does the same to the network's values.

    It does unless cells are summed along phi or a fitted number depends on phi.
    """
    summed = any(isinstance(step, Rebin) and step.factors[1] > 1 for step in transform.geometry)
    fitted = any(isinstance(step, Standardise) and "phi" in step.per for step in transform.steps)
    return is_cellwise(transform) and not summed and not fitted


def empty_cells(transform: Transform) -> NDArray[np.float32]:
    """What an empty cell becomes, (r, phi, z) in network space."""
    values = transform.pointwise(np.zeros((1, *transform.mesh.shape)), np.ones(1))[0]
    return np.asarray(values, dtype=np.float32)


def pointwise_hits(
    transform: Transform, energy_mev: NDArray[np.floating], cell: NDArray[np.integer], incident: Values
) -> Values:
    """Energies on the network's mesh to network space."""
    return _applied(transform, transform.steps, energy_mev, cell, incident)


def suffix_hits(
    transform: Transform, values: NDArray[np.floating], cell: NDArray[np.integer], incident: Values
) -> Values:
    """The prefix's values to network space."""
    return _applied(transform, transform.steps[transform.n_prefix :], values, cell, incident)


def energy_of_prefix(transform: Transform, values: NDArray[np.floating], incident: Values) -> Values:
    """The prefix's values back to visible MeV; below half the threshold exactly 0."""
    x = np.asarray(values, dtype=np.float64)
    for step in reversed(transform.steps[: transform.n_prefix]):
        x = step.inverse(x, incident)
    return np.asarray(x * (x >= transform.threshold_mev / 2), dtype=np.float64)


def _applied(
    transform: Transform,
    steps: Iterable[Step],
    values: NDArray[np.floating],
    cell: NDArray[np.integer],
    incident: Values,
) -> Values:
    x = np.asarray(values, dtype=np.float64)
    for step in steps:
        own = _at(step, cell, transform.mesh.shape) if isinstance(step, Standardise) else step
        x = own.forward(x, incident)
    return x


def _at(step: Standardise, cell: NDArray[np.integer], shape: tuple[int, int, int]) -> Standardise:
    """The step with the numbers of each hit instead of each cell's."""
    if step.mean is None or step.deviation is None:
        return step
    if step.mean.size == 1:
        return replace(step, mean=step.mean.reshape(1), deviation=step.deviation.reshape(1))
    mean, deviation = (np.broadcast_to(a, shape).reshape(-1)[cell] for a in (step.mean, step.deviation))
    return replace(step, mean=mean, deviation=deviation)
