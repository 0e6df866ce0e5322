"""How the calorimeter answers: mean response, resolution, and any mean, against the incident energy or the angle.

In: incident and visible (or predicted) energies (n,) in MeV, values of each shower (n,); out: one `ResponseBin` or
`MeanBin` per bin, the fit sigma/E = a / sqrt(E) (+) b (+) c / E with E in GeV, the growth of a depth per doubling of
the energy. Within a bin the ratio x = E_vis / E_inc is used, so the width of the bin does not enter.
Source: PDG review "Calorimeters", eq. for the resolution; docs/metrics.md. It names no observable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

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
class MeanBin:
    """The mean of a value of the n showers in [low, high] of x, its error, and the mean of x."""

    low: float
    high: float
    x: float
    n: int
    mean: float
    mean_error: float


@dataclass(frozen=True)
class ResolutionFit:
    """sigma/E = a / sqrt(E / GeV) (+) b (+) c / (E / GeV), with errors; a term held at 0 has error 0.

    chi2 is that of the squares (sigma/E)^2, ndf the bins less the terms that are not held.
    """

    stochastic: float
    stochastic_error: float
    constant: float
    constant_error: float
    noise: float
    noise_error: float
    chi2: float
    ndf: int


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


def angle_edges(theta: Array, bins: int) -> Array:
    """Edges of bins equal in theta, (bins + 1,) rad; few fixed angles (to 1e-3 rad) get one bin each."""
    values = np.unique(np.round(theta, 3))
    if len(values) <= bins:
        return np.concatenate([values[:1], 0.5 * (values[1:] + values[:-1]), values[-1:]])
    return np.linspace(theta.min(), theta.max(), bins + 1)


def energy_bins(values: Array, edges: Array) -> Iterator[tuple[float, float, NDArray[np.intp]]]:
    """(low, high, rows) of each bin that holds showers; the outer bins also take what lies beyond them."""
    code = np.searchsorted(edges[1:-1], values, side="right")
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


def means(x: Array, values: Array, edges: Array) -> list[MeanBin]:
    """Mean of the values and its error in each filled bin of x."""
    answer = []
    for low, high, rows in energy_bins(x, edges):
        error = spread_with_error(values[rows])[0] / float(np.sqrt(len(rows)))
        answer.append(MeanBin(low, high, float(x[rows].mean()), len(rows), float(values[rows].mean()), error))
    return answer


def growth_per_doubling(incident_energy: Array, values: Array) -> tuple[float, float] | None:
    """Slope of the values against log2 E and its error, by least squares; None when all energies are equal."""
    x = np.log2(incident_energy)
    x -= x.mean()
    square = float((x**2).sum())
    if len(x) < 3 or square <= 1e-9 * len(x):
        return None
    slope = float(x @ values) / square
    rest = values - values.mean() - slope * x
    return slope, float(np.sqrt((x**2) @ rest**2)) / square


def fit_resolution(bins: Sequence[ResponseBin]) -> ResolutionFit | None:
    """Least squares of (sigma/E)^2 = a^2 / E + b^2 + c^2 / E^2 over the bins; None below three bins with a width.

    Linear in (a^2, b^2, c^2); below four bins without c. A square that would be negative is held at 0: of all ways to
    hold terms that leave none negative, the one with the least chi2 (non-negative least squares).
    """
    used = [b for b in bins if b.resolution_error > 0]
    if len(used) < 3:
        return None
    inverse = np.array([1e3 / b.energy_mev for b in used])
    square = np.array([b.resolution**2 for b in used])
    weight = 1 / np.array([2 * b.resolution * b.resolution_error for b in used])
    columns = np.stack([inverse, np.ones_like(inverse), inverse**2], axis=1) * weight[:, None]
    terms = range(3 if len(used) > 3 else 2)
    chosen = [keep for size in (3, 2, 1) for keep in combinations(terms, size)]
    fits = [_squares(columns, square * weight, keep) for keep in chosen]
    chi2, squares, errors = min((fit for fit in fits if (fit[1] >= 0).all()), key=lambda fit: fit[0])
    value = np.sqrt(squares)
    error = np.divide(errors, 2 * value, out=np.zeros(3), where=value > 0)
    (a, b, c), (a_error, b_error, c_error) = value.tolist(), error.tolist()
    return ResolutionFit(a, a_error, b, b_error, c, c_error, chi2, len(used) - int((value > 0).sum()))


def _squares(columns: Array, target: Array, keep: tuple[int, ...]) -> tuple[float, Array, Array]:
    """chi2, and (a^2, b^2, c^2) with errors when only the terms `keep` are fitted."""
    design, chosen = columns[:, keep], list(keep)
    covariance = np.linalg.pinv(design.T @ design)
    squares, errors = np.zeros(3), np.zeros(3)
    squares[chosen] = covariance @ design.T @ target
    errors[chosen] = np.sqrt(np.diag(covariance))
    return float(((columns @ squares - target) ** 2).sum()), squares, errors
