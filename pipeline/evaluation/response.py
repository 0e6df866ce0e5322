"""How the calorimeter answers: mean response, resolution and their dependence on the incident energy.

In: incident and visible (or predicted) energies (n,) in MeV; out: one `ResponseBin` per energy bin, and the fit
sigma/E = a / sqrt(E) (+) b with E in GeV. Within a bin the ratio x = E_vis / E_inc is used, so the width of the
bin does not enter. Source: PDG review "Calorimeters", eq. for the resolution; docs/metrics.md.
It chooses no bins beyond `energy_edges`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ResponseBin:
    """x = E_vis / E_inc of the n showers in [low, high] MeV.

    energy_mev: the energy E with 1/E = <1/E_inc>, where a stochastic resolution is the bin's own.
    """

    low_mev: float
    high_mev: float
    energy_mev: float
    n: int
    mean: float
    mean_error: float
    sigma: float
    sigma_error: float

    @property
    def resolution(self) -> float:
        """sigma / mean."""
        return self.sigma / self.mean if self.mean else 0.0

    @property
    def resolution_error(self) -> float:
        """Error of sigma / mean, that of the mean neglected."""
        return self.sigma_error / self.mean if self.mean else 0.0


@dataclass(frozen=True)
class ResolutionFit:
    """sigma/E = a / sqrt(E / GeV) (+) b, with errors."""

    stochastic: float
    stochastic_error: float
    constant: float
    constant_error: float


def energy_edges(incident_energy: Array, bins: int) -> Array:
    """Edges of bins equal in log E over the range of the energies, (bins + 1,) MeV.

    Energies of few fixed values (no more than the bins) get one bin each, with edges between them.
    """
    values = np.unique(incident_energy)
    if len(values) <= bins:
        middles = np.sqrt(values[1:] * values[:-1])
        return np.concatenate([values[:1], middles, values[-1:]]).astype(np.float64)
    edges = np.geomspace(values[0], values[-1], bins + 1)
    edges[0], edges[-1] = values[0], values[-1]
    return edges


def energy_bins(incident_energy: Array, edges: Array) -> Iterator[tuple[float, float, NDArray[np.intp]]]:
    """(low, high, rows) of each bin that holds showers; the outer bins also take what lies beyond them."""
    code = np.searchsorted(edges[1:-1], incident_energy, side="right")
    for i in range(len(edges) - 1):
        rows = np.flatnonzero(code == i)
        if len(rows):
            yield float(edges[i]), float(edges[i + 1]), rows


def spread_with_error(values: Array) -> tuple[float, float]:
    """Standard deviation and its error from the fourth moment: sqrt((m4 - s^4) / n) / (2 s)."""
    n = len(values)
    sigma = float(values.std(ddof=1)) if n > 1 else 0.0
    if sigma == 0:
        return sigma, 0.0
    fourth = float(((values - values.mean()) ** 4).mean())
    return sigma, float(np.sqrt(max(fourth - sigma**4, 0) / n) / (2 * sigma))


def response(incident_energy: Array, energy: Array, edges: Array) -> list[ResponseBin]:
    """Mean and spread of energy / incident energy in each filled bin."""
    answer = []
    for low, high, rows in energy_bins(incident_energy, edges):
        x = energy[rows] / incident_energy[rows]
        sigma, sigma_error = spread_with_error(x)
        answer.append(
            ResponseBin(
                low,
                high,
                float(1 / np.mean(1 / incident_energy[rows])),
                len(rows),
                float(x.mean()),
                sigma / float(np.sqrt(len(rows))),
                sigma,
                sigma_error,
            )
        )
    return answer


def fit_resolution(bins: Sequence[ResponseBin]) -> ResolutionFit | None:
    """Least squares of (sigma/E)^2 = a^2 / E + b^2 over the bins; None below three bins with a width.

    Linear in (a^2, b^2); where the best b^2 (or a^2) is negative it is held at 0 and has no error of its own.
    """
    used = [b for b in bins if b.resolution_error > 0]
    if len(used) < 3:
        return None
    inverse = np.array([1e3 / b.energy_mev for b in used])
    square = np.array([b.resolution**2 for b in used])
    weight = 1 / np.array([2 * b.resolution * b.resolution_error for b in used])
    columns = np.stack([inverse, np.ones_like(inverse)], axis=1)
    for keep in ([0, 1], [0], [1]):
        design = columns[:, keep] * weight[:, None]
        covariance = np.linalg.pinv(design.T @ design)
        squares = np.zeros(2)
        squares[keep] = covariance @ design.T @ (square * weight)
        if (squares >= 0).all():
            break
    errors = np.zeros(2)
    errors[keep] = np.sqrt(np.diag(covariance))
    a, b = np.sqrt(np.maximum(squares, 0))
    half = [float(e / (2 * v)) if v > 0 else 0.0 for e, v in zip(errors, (a, b), strict=True)]
    return ResolutionFit(float(a), half[0], float(b), half[1])
