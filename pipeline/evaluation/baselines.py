"""What a learned energy must beat: the calibrated cell sum.

ln E_inc = slope * ln E_vis + intercept, fitted on the training split; in and out MeV, (n,).
The uncertainty is the spread of ln E_inc around the line, times the prediction. It learns no shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CalibratedCellSum:
    """The fitted line and the standard deviation of ln E_inc around it."""

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
