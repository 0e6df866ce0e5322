"""Steps whose numbers come from the training split: divisions by one number, and standardise.

In and out: arrays of shape (…, r, phi, z); the divisions take (hit,) too, for their number is the same everywhere.
A step that was not fitted refuses to work. Sources: the divisions are the usual alternatives to dividing by the
incident energy, which a network that has to predict that energy must not see; standardise as in CaloDiT and
CaloDiffusion, which hard-code the numbers that are fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.data.spectrum import EnergySpectrum
from pipeline.data.statistics import CellStatistics

Array = Any


class TransformError(ValueError):
    """A transform that does not fit its data, or that was not fitted."""


@dataclass(frozen=True)
class DivideByFitted:
    """x / c with a number of the training split's energies; `scale_mev` is c, None until fitted.

    name: divide_by_largest_shower, divide_by_largest_cell or divide_by_quantile (with `q`).
    """

    name: str
    q: float = 1.0
    scale_mev: float | None = None

    def fit(self, spectrum: EnergySpectrum) -> DivideByFitted:
        """The step with its number; TransformError when the training split has no hit."""
        if self.name == "divide_by_largest_shower":
            scale = spectrum.largest_shower_mev
        elif self.name == "divide_by_largest_cell":
            scale = spectrum.largest_cell_mev
        else:
            scale = spectrum.quantile_mev(self.q)
        if not scale > 0:
            raise TransformError(f"{self.name}: expected training showers with hits, got none; add data")
        return replace(self, scale_mev=scale)

    def forward(self, x: Array, incident: Array) -> Array:
        """MeV to dimensionless."""
        return x / self._scale()

    def inverse(self, x: Array, incident: Array) -> Array:
        """Dimensionless to MeV."""
        return x * self._scale()

    def _scale(self) -> float:
        if self.scale_mev is None:
            raise TransformError(f"{self.name}: expected a fitted transform, got a recipe; run merge, or call fit")
        return self.scale_mev


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / deviation, numbers of shape (r or 1, phi or 1, z or 1); None until fitted."""

    per: tuple[str, ...]
    over: str
    mean: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None

    def fit(self, statistics: CellStatistics) -> Standardise:
        """Mean and deviation of the training split; a cell whose value never varies gets deviation 1."""
        mean, deviation = statistics.over(self.over).moments_per(self.per)
        constant = deviation <= 1e-10 * np.abs(mean)
        return replace(self, mean=mean, deviation=np.where(constant, 1.0, deviation))

    def forward(self, x: Array, incident: Array) -> Array:
        """(…, r, phi, z)."""
        mean, deviation = self._numbers(x)
        return (x - mean) / deviation

    def inverse(self, x: Array, incident: Array) -> Array:
        """(…, r, phi, z)."""
        mean, deviation = self._numbers(x)
        return x * deviation + mean

    def _numbers(self, x: Array) -> tuple[Array, Array]:
        if self.mean is None or self.deviation is None:
            raise TransformError("standardise: expected a fitted transform, got a recipe; run merge, or call fit")
        xp = array_namespace(x)
        mean, deviation = (xp.asarray(a, dtype=x.dtype, device=device(x)) for a in (self.mean, self.deviation))
        return mean, deviation
