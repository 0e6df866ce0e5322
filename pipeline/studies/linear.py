"""Linear heads: ridge regression of ln E_inc on features, its strength chosen on validation showers.

In: features (n, k), energies in MeV, rows of training, validation and test. Out: the error on test showers. Features
are standardised over the training rows, the intercept is free. Source: Hastie, Tibshirani, Friedman, "The Elements of
Statistical Learning", eq. 3.44 and 3.47 (all strengths from one singular value decomposition).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.studies.pool import Array, Rows, relative_error

STRENGTHS = np.logspace(-3, 4, 22)
_CONSTANT = 1e-9  # relative spread of a feature below which it says nothing


@dataclass(frozen=True)
class Fitted:
    """A head's error on test and validation showers (RMS of (predicted - true) / true), and the strength chosen."""

    error: float
    validation: float
    strength: float


def ridge(x: Array, y: Array, strengths: NDArray[np.floating]) -> Array:
    """(k, strengths) weights w that minimise |y - x w|^2 + strength |w|^2, for centred x (n, k) and y (n,)."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    shrunk = s[:, None] / (s[:, None] ** 2 + strengths)
    return np.asarray(vt.T @ (shrunk * (u.T @ y)[:, None]))


def standardised(features: Array, rows: Rows) -> Array:
    """Features with mean 0 and deviation 1 over some rows; one that is constant there becomes 0."""
    mean, spread = features[rows].mean(axis=0), features[rows].std(axis=0)
    scale = np.where(spread > _CONSTANT * np.maximum(np.abs(mean), 1), spread, np.inf)
    return np.asarray((features - mean) / scale)


def linear_head(features: Array, energy_mev: Array, train: Rows, validation: Rows, test: Rows) -> Fitted:
    """Fit on `train`, choose on `validation`, measure on `test`.

    Predictions are held within the labels of `train`: a straight line in logarithms may not run away.
    """
    x, log = standardised(features, train), np.log(energy_mev)
    centre, low, high = log[train].mean(), log[train].min(), log[train].max()
    weights = ridge(x[train], log[train] - centre, STRENGTHS)

    def errors(rows: Rows) -> list[float]:
        predicted = np.exp(np.clip(x[rows] @ weights + centre, low, high))
        return [relative_error(p, energy_mev[rows]) for p in predicted.T]

    chosen = errors(validation)
    best = int(np.argmin(chosen))
    return Fitted(errors(test)[best], chosen[best], float(STRENGTHS[best]))
