"""The steps of a recipe: those on the mesh, and the tables that make every step from its spec.

In and out: energies (…, r, phi, z) in visible MeV, or ragged showers. Forward and inverse stand together, for NumPy
and torch alike, through the array API (data-apis.org/array-api); torch is never imported here. The three are lossy,
but their inverses are defined: rebin spreads evenly, crop pads zeros, cut is the identity; crop keeps the energy of
what it keeps, rebin all of it. `pointwise`, `fitted` and `layers` hold the other steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.config import recipes as recipe
from pipeline.data.fitted import DivideByFitted, Standardise, TransformError
from pipeline.data.layers import LayerFractions, Noise
from pipeline.data.pointwise import DivideByIncidentEnergy, Log, Log1p, Logit, Power

__all__ = ["GEOMETRY", "POINTWISE", "GeometryStep", "Step", "TransformError", "geometry_step"]

Array = Any


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


GEOMETRY: dict[str, Callable[[Any, CylinderMesh], GeometryStep]] = {
    "crop": lambda spec, mesh: Crop(spec.cells, mesh.shape),
    "rebin": lambda spec, mesh: Rebin(spec.factors),
    "cut": lambda spec, mesh: Cut(spec.threshold_mev),
}
POINTWISE: dict[str, Callable[[Any], Step]] = {
    "divide_by_incident_energy": lambda spec: DivideByIncidentEnergy(1000.0 if spec.unit == "GeV" else 1.0),
    "divide_by_largest_shower": lambda spec: DivideByFitted(spec.name),
    "divide_by_largest_cell": lambda spec: DivideByFitted(spec.name),
    "divide_by_quantile": lambda spec: DivideByFitted(spec.name, spec.q),
    "layer_fractions": lambda spec: LayerFractions(),
    "noise": lambda spec: Noise(spec.width),
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
