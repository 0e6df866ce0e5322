"""What a learned energy must beat: predictors from sums and hand-made features, fitted on the training split.

In: the `Table` of the training showers with their incident energies; out: predicted energies with uncertainties, (n,)
MeV. `calibrated_cell_sum` and `hit_count` are straight lines in logarithms; `boosted_features` are boosted trees that
correct the cell sum from the shower's shape, and can predict the angle where it varies. The uncertainty is the
spread of ln E around the fit, times the prediction. No feature reads the incident energy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.evaluation.observables import OBSERVABLES, Table

Array = NDArray[np.float64]
SHAPE_FEATURES = (
    "layer_hits",
    "layer_centres",
    "first_moment_z",
    "first_moment_r",
    "second_moment_z",
    "second_moment_r",
    "containment_radius",
    "azimuthal_asymmetry",
)
MOST_TRAINING_SHOWERS = 50_000
BASELINE = "calibrated_cell_sum"
PREDICTIVE = {
    name: OBSERVABLES[name] for name in ("incident_energy", "visible_energy", "layer_energy", "hits", *SHAPE_FEATURES)
}


@dataclass(frozen=True)
class CalibratedCellSum:
    """ln E_inc = slope ln x + intercept for any x that grows with the energy, and the spread of ln E_inc around it."""

    slope: float
    intercept: float
    spread: float

    @classmethod
    def fit(cls, visible_energy: Array, incident_energy: Array) -> CalibratedCellSum:
        """Least squares of ln E_inc on ln E_vis; showers without visible energy are left out."""
        seen = visible_energy > 0
        if seen.sum() < 2:
            raise ValueError(
                f"calibrated cell sum: expected at least 2 training showers with visible energy, "
                f"got {int(seen.sum())}; add training data"
            )
        x, y = np.log(visible_energy[seen]), np.log(incident_energy[seen])
        variance = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / variance) if variance > 0 else 0.0
        intercept = float(y.mean() - slope * x.mean())
        return cls(slope, intercept, float((y - slope * x - intercept).std()))

    def predict(self, visible_energy: Array) -> tuple[Array, Array]:
        """Predicted incident energy and its uncertainty, 2 x (n,) MeV; no visible energy predicts 0."""
        energy = np.zeros(len(visible_energy))
        seen = visible_energy > 0
        energy[seen] = np.exp(self.slope * np.log(visible_energy[seen]) + self.intercept)
        return energy, np.maximum(self.spread * energy, 1e-300)


@dataclass(frozen=True)
class BoostedFeatures:
    """Boosted trees from shower shapes to any number per shower, and the spread of the rest on showers not fitted."""

    trees: HistGradientBoostingRegressor
    spread: float

    @classmethod
    def fit(cls, features: Array, target: Array, seed: int = 0) -> BoostedFeatures:
        """Fitted on four fifths of the training showers, (n, k) and (n,); the last fifth measures the spread."""
        trees = HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.05, max_leaf_nodes=15, early_stopping=False, random_state=seed
        )
        cut = max(int(0.8 * len(target)), 1)
        with threadpool_limits(limits=1):
            trees.fit(features[:cut], target[:cut])
            rest = target[cut:] - trees.predict(features[cut:]) if cut < len(target) else np.zeros(1)
        return cls(trees, float(rest.std()))

    def predict(self, features: Array) -> Array:
        """The predicted number of each shower, (n,)."""
        with threadpool_limits(limits=1):
            return np.asarray(self.trees.predict(features), dtype=np.float64)


def shape_features(table: Table) -> Array:
    """Energies as logarithms and shapes, (n, k), nothing of the incident energy."""
    logs = [np.log10(table[name] + 1e-8) for name in ("visible_energy", "layer_energy")]
    columns = [*logs, np.log10(table["hits"] + 1.0), *(table[name] for name in SHAPE_FEATURES)]
    return np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1).astype(np.float64)


# --------------------------------------------------------------------------- predictors of the energy


def cell_sum(training: Table, reference: Table) -> tuple[Array, Array]:
    """The calibrated cell sum."""
    return _line("visible_energy", training, reference)


def hit_count(training: Table, reference: Table) -> tuple[Array, Array]:
    """The calibrated number of hits: no cell's energy is used."""
    return _line("hits", training, reference)


def boosted_features(training: Table, reference: Table) -> tuple[Array, Array]:
    """The calibrated cell sum times a correction from the shower's shape."""
    energies = np.asarray(training["incident_energy"], dtype=np.float64)
    line = CalibratedCellSum.fit(np.asarray(training["visible_energy"], dtype=np.float64), energies)
    ours, theirs = (line.predict(np.asarray(t["visible_energy"], dtype=np.float64))[0] for t in (training, reference))
    seen = ours > 0
    correction = BoostedFeatures.fit(shape_features(training)[seen], np.log(energies[seen] / ours[seen]))
    energy = theirs * np.exp(correction.predict(shape_features(reference)))
    return energy, np.maximum(correction.spread * energy, 1e-300)


def _line(column: str, training: Table, reference: Table) -> tuple[Array, Array]:
    known, asked = (np.asarray(t[column], dtype=np.float64) for t in (training, reference))
    return CalibratedCellSum.fit(known, np.asarray(training["incident_energy"], dtype=np.float64)).predict(asked)


PREDICTORS: dict[str, Callable[[Table, Table], tuple[Array, Array]]] = {
    "calibrated_cell_sum": cell_sum,
    "hit_count": hit_count,
    "boosted_features": boosted_features,
}
