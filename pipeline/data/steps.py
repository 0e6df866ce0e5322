"""The steps of a recipe, each with forward and inverse together, for NumPy and torch alike.

In and out: arrays of shape (…, r, phi, z), or (hit,) for the steps that act cell by cell; the first step
sees visible MeV. `incident` is the incident energy in MeV, of a shape that broadcasts against the array.
One implementation through the array API (data-apis.org/array-api); torch is never imported here.
Lossy inverses are defined: rebin spreads evenly, crop pads zeros, cut is the identity. Sources: Par04
(division by E_inc), CaloDiT (log), CaloDiffusion arXiv:2308.03876 (logit), CaloScore (power).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.config import recipes as recipe
from pipeline.data.statistics import CellStatistics

Array = Any


class TransformError(ValueError):
    """A transform that does not fit its data, or that was not fitted."""


class Step(Protocol):
    """What every step can do."""

    def forward(self, x: Array, incident: Array) -> Array:
        """Towards network space."""

    def inverse(self, x: Array, incident: Array) -> Array:
        """Back towards visible MeV."""


class GeometryStep(Step, Protocol):
    """A step on energies in MeV that changes the mesh or drops cells; it also acts on ragged showers."""

    def ragged(self, showers: RaggedShowers) -> RaggedShowers:
        """The same as `forward`, on hits only."""


# ------------------------------------------------------------------------------------ geometry


@dataclass(frozen=True)
class Crop:
    """Keep the first cells along (r, phi, z); the inverse pads zeros."""

    cells: tuple[int, int, int]
    whole: tuple[int, int, int]

    def forward(self, x: Array, incident: Array) -> Array:
        """(…, whole) to (…, cells)."""
        n_r, n_phi, n_z = self.cells
        return x[..., :n_r, :n_phi, :n_z]

    def inverse(self, x: Array, incident: Array) -> Array:
        """(…, cells) to (…, whole)."""
        xp = array_namespace(x)
        for axis, (n, whole) in enumerate(zip(self.cells, self.whole, strict=True), start=-3):
            shape = list(x.shape)
            shape[axis] = whole - n
            x = xp.concat([x, xp.zeros(tuple(shape), dtype=x.dtype, device=device(x))], axis=axis)
        return x

    def ragged(self, showers: RaggedShowers) -> RaggedShowers:
        """Hits outside are dropped and the others numbered anew."""
        mesh = showers.mesh.cropped(self.cells)
        index = np.unravel_index(showers.cell.astype(np.int64), self.whole)
        keep = (index[0] < self.cells[0]) & (index[1] < self.cells[1]) & (index[2] < self.cells[2])
        cell: Array = np.ravel_multi_index(tuple(i[keep] for i in index), self.cells).astype(index_dtype(mesh))
        row_size = np.bincount(showers.shower_of_hit[keep], minlength=len(showers)).astype(np.int64)
        return replace(showers, row_size=row_size, cell=cell, energy=showers.energy[keep], mesh=mesh)


@dataclass(frozen=True)
class Rebin:
    """Sum groups of cells; the inverse spreads the energy evenly."""

    factors: tuple[int, int, int]

    def forward(self, x: Array, incident: Array) -> Array:
        """(…, r, phi, z) to the coarser mesh."""
        xp = array_namespace(x)
        shape = [part for n, f in zip(x.shape[-3:], self.factors, strict=True) for part in (n // f, f)]
        return xp.sum(xp.reshape(x, (*x.shape[:-3], *shape)), axis=(-5, -3, -1))

    def inverse(self, x: Array, incident: Array) -> Array:
        """(…, r, phi, z) to the finer mesh."""
        xp = array_namespace(x)
        lead, cells = x.shape[:-3], x.shape[-3:]
        ones = [part for n in cells for part in (n, 1)]
        fine = [part for n, f in zip(cells, self.factors, strict=True) for part in (n, f)]
        spread = xp.broadcast_to(xp.reshape(x / math.prod(self.factors), (*lead, *ones)), (*lead, *fine))
        return xp.reshape(spread, (*lead, *(n * f for n, f in zip(cells, self.factors, strict=True))))

    def ragged(self, showers: RaggedShowers) -> RaggedShowers:
        """Hits of a group summed."""
        return showers.rebin(self.factors)


@dataclass(frozen=True)
class Cut:
    """Cells below the threshold become 0; the inverse is the identity."""

    threshold_mev: float

    def forward(self, x: Array, incident: Array) -> Array:
        """Energies in MeV."""
        xp = array_namespace(x)
        return xp.where(x < self.threshold_mev, xp.zeros_like(x), x)

    def inverse(self, x: Array, incident: Array) -> Array:
        """What was cut stays cut."""
        return x

    def ragged(self, showers: RaggedShowers) -> RaggedShowers:
        """Hits below the threshold dropped."""
        return showers.cut(self.threshold_mev)


# ----------------------------------------------------------------------------------- pointwise


@dataclass(frozen=True)
class DivideByIncidentEnergy:
    """x / E_inc; `unit_mev` is the unit of E_inc (1 or 1000 MeV)."""

    unit_mev: float

    def forward(self, x: Array, incident: Array) -> Array:
        """Dimensionless, or MeV per GeV."""
        return x / (incident / self.unit_mev)

    def inverse(self, x: Array, incident: Array) -> Array:
        """MeV."""
        return x * (incident / self.unit_mev)


@dataclass(frozen=True)
class Log:
    """ln(x + epsilon)."""

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
    """x ** exponent; the inverse takes negative values for 0."""

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
    """ln(o / (1 - o)), o = alpha + (1 - 2 alpha) x / scale; x in [0, scale]."""

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


GEOMETRY: dict[str, Callable[[Any, CylinderMesh], GeometryStep]] = {
    "crop": lambda spec, mesh: Crop(spec.cells, mesh.shape),
    "rebin": lambda spec, mesh: Rebin(spec.factors),
    "cut": lambda spec, mesh: Cut(spec.threshold_mev),
}
POINTWISE: dict[str, Callable[[Any], Step]] = {
    "divide_by_incident_energy": lambda spec: DivideByIncidentEnergy(1000.0 if spec.unit == "GeV" else 1.0),
    "log": lambda spec: Log(spec.epsilon_mev),
    "log1p": lambda spec: Log1p(spec.scale_mev),
    "power": lambda spec: Power(spec.exponent),
    "logit": lambda spec: Logit(spec.alpha, spec.scale),
    "standardise": lambda spec: Standardise(spec.per, spec.over),
}


def geometry_step(spec: recipe.Step, mesh: CylinderMesh) -> tuple[GeometryStep, CylinderMesh]:
    """A geometry step and the mesh behind it; ValueError when it does not fit the mesh."""
    after = mesh
    if isinstance(spec, recipe.Crop):
        after = mesh.cropped(spec.cells)
    elif isinstance(spec, recipe.Rebin):
        after = mesh.rebinned(spec.factors)
    return GEOMETRY[spec.name](spec, mesh), after
