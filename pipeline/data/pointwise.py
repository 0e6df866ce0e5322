"""Maps of single values, each with forward and inverse together, for NumPy and torch alike.

In and out: arrays of any shape that `incident`, the incident energy in MeV, broadcasts against: (…, r, phi, z) or
(hit,). One implementation through the array API (data-apis.org/array-api). Sources stand at each map; all are
monotone in x. What is fitted, or looks at more than one value, is in `fitted` and `layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any


@dataclass(frozen=True)
class DivideByIncidentEnergy:
    """x / E_inc (Par04, MetaHEP); `unit_mev` is the unit of E_inc (1 or 1000 MeV)."""

    unit_mev: float

    def forward(self, x: Array, incident: Array) -> Array:
        """Dimensionless, or MeV per GeV."""
        return x / self._in_units(incident)

    def inverse(self, x: Array, incident: Array) -> Array:
        """MeV."""
        return x * self._in_units(incident)

    def _in_units(self, incident: Array) -> Array:
        return incident if self.unit_mev == 1 else incident / self.unit_mev


@dataclass(frozen=True)
class Log:
    """ln(x + epsilon), as in CaloDiT-2 (arXiv:2509.07700): its x is in GeV and epsilon 1e-6 GeV."""

    epsilon: float

    def forward(self, x: Array, incident: Array) -> Array:
        """x >= 0."""
        return array_namespace(x).log(x + self.epsilon)

    def inverse(self, x: Array, incident: Array) -> Array:
        """Exact to 1e-5 (x + epsilon) in float32."""
        return array_namespace(x).exp(x) - self.epsilon


@dataclass(frozen=True)
class Log1p:
    """ln(1 + x / scale): 0 stays exactly 0."""

    scale: float

    def forward(self, x: Array, incident: Array) -> Array:
        """x >= 0."""
        return array_namespace(x).log1p(x / self.scale)

    def inverse(self, x: Array, incident: Array) -> Array:
        """x >= 0."""
        return array_namespace(x).expm1(x) * self.scale


@dataclass(frozen=True)
class Power:
    """x ** exponent (CaloScore, arXiv:2206.11898); the inverse takes negative values for 0."""

    exponent: float

    def forward(self, x: Array, incident: Array) -> Array:
        """x >= 0."""
        return x**self.exponent

    def inverse(self, x: Array, incident: Array) -> Array:
        """Any real number."""
        xp = array_namespace(x)
        return xp.where(x < 0, xp.zeros_like(x), x) ** (1 / self.exponent)


@dataclass(frozen=True)
class Logit:
    """ln(o / (1 - o)), o = alpha + (1 - 2 alpha) x / scale; x in [0, scale] (arXiv:2308.03876)."""

    alpha: float
    scale: float

    def forward(self, x: Array, incident: Array) -> Array:
        """NaN above the scale."""
        xp = array_namespace(x)
        o = self.alpha + (1 - 2 * self.alpha) / self.scale * x
        return xp.log(o) - xp.log1p(-o)

    def inverse(self, x: Array, incident: Array) -> Array:
        """The logistic function in a form that neither overflows nor loses small values."""
        xp = array_namespace(x)
        o = xp.exp(xp.where(x > 0, xp.zeros_like(x), x)) / (1 + xp.exp(-xp.abs(x)))
        return (o - self.alpha) * (self.scale / (1 - 2 * self.alpha))
