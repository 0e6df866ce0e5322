"""Which showers of a raw file are wanted: `select:` of a data set, applied to the labels before any cell is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SelectSpec
from pipeline.data.formats import Description, FormatError, Labels

_ENERGY_TOLERANCE = 1e-5  # relative: files hold float32
_ANGLE_TOLERANCE_DEG = 1e-3


def wanted(select: SelectSpec | None, description: Description, labels: Labels) -> NDArray[np.bool_]:
    """Whether each shower is ingested, shape (shower,); raises `FormatError` when none is.

    An impossible incident energy counts as wanted: the reader refuses it.
    """
    incident = labels.incident_energy
    chosen = np.ones(len(incident), bool)
    if select is None:
        return chosen
    if select.energy_gev is not None:
        chosen &= _energies(incident / 1000, select) | ~(np.isfinite(incident) & (incident > 0))
    if select.angle_deg is not None:
        low, high = select.angle_deg
        theta = np.degrees(labels.theta)
        chosen &= (theta >= low - _ANGLE_TOLERANCE_DEG) & (theta <= high + _ANGLE_TOLERANCE_DEG)
    if not chosen.any():
        raise FormatError(
            f"{description.path}: select: expected showers with {_asked(select)}, found energy_gev "
            f"{_span(incident / 1000)} and angle_deg {_span(np.degrees(labels.theta))}; "
            "widen `select:` or take the file out of `files:`"
        )
    if select.showers is not None:
        chosen &= np.cumsum(chosen) <= select.showers
    return chosen


def _energies(energy_gev: NDArray[np.float64], select: SelectSpec) -> NDArray[np.bool_]:
    if select.energy_range is not None:
        low, high = select.energy_range
        return np.asarray(
            (energy_gev >= low * (1 - _ENERGY_TOLERANCE)) & (energy_gev <= high * (1 + _ENERGY_TOLERANCE)), dtype=bool
        )
    near = [np.isclose(energy_gev, energy, rtol=_ENERGY_TOLERANCE, atol=0) for energy in select.energy_gev or ()]
    return np.asarray(np.logical_or.reduce(near), dtype=bool)


def _asked(select: SelectSpec) -> str:
    energies = select.energy_range or select.energy_gev
    asked = []
    if energies is not None:
        joined = (" to " if select.energy_range else ", ").join(f"{energy:g}" for energy in energies)
        asked.append(f"energy_gev {joined}")
    if select.angle_deg is not None:
        asked.append(f"angle_deg {select.angle_deg[0]:g} to {select.angle_deg[1]:g}")
    return " and ".join(asked)


def _span(values: NDArray[np.float64]) -> str:
    return f"{values.min():.6g} to {values.max():.6g}"
