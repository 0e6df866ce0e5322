"""`Transform`: a recipe on a mesh, from visible MeV to network space and back.

In: energies (…, r, phi, z) in visible MeV on the raw mesh, incident energies (…,) in MeV. Out: the values
that a network sees, on the recipe's own mesh. NumPy computes in float64, torch in the tensor's dtype on
its device. The recipe is cut at its first step that is fitted or makes zeros of many kinds (`n_prefix`): the prefix
needs one shower only and is stored per part, the suffix is fitted from merged statistics. A division fitted to the
training split is fitted first (`fit_division`), standardise then from what stands before it (`fit`).
The state is JSON and travels inside the checkpoint.
Laws: the inverse of an invertible recipe gives x back within 1e-5 (x + epsilon); forward, inverse, forward
is forward (for cells that are 0 or at least half the threshold, and cuts behind the rebinning).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import RecipeSpec
from pipeline.data.fitted import DivideByFitted, Standardise, TransformError
from pipeline.data.layers import LayerFractions, Noise
from pipeline.data.part_writer import mesh_attributes, mesh_of
from pipeline.data.spectrum import EnergySpectrum
from pipeline.data.statistics import CellStatistics
from pipeline.data.steps import GEOMETRY, POINTWISE, GeometryStep, Step, geometry_step

__all__ = ["Transform", "TransformError"]

Array = Any
Tables = dict[str, NDArray[np.float32]]
_NOT_STORED = (DivideByFitted, Standardise, LayerFractions, Noise)
_HITS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Transform:
    """A recipe's steps on a raw mesh; made by `from_recipe` or `from_state`."""

    recipe: RecipeSpec
    raw_mesh: CylinderMesh
    mesh: CylinderMesh
    geometry: tuple[GeometryStep, ...]
    steps: tuple[Step, ...]
    tables: Tables | None = None

    @classmethod
    def from_recipe(cls, spec: RecipeSpec, raw_mesh: CylinderMesh) -> Transform:
        """The unfitted transform; ValueError when a crop or rebin does not fit the mesh."""
        mesh, geometry = raw_mesh, []
        for step in spec.steps:
            if step.name in GEOMETRY:
                made, mesh = geometry_step(step, mesh)
                geometry.append(made)
        steps = tuple(POINTWISE[step.name](step) for step in spec.steps if step.name in POINTWISE)
        return cls(spec, raw_mesh, mesh, tuple(geometry), steps)

    @property
    def threshold_mev(self) -> float:
        """Energies below half of it come back as exactly 0."""
        return self.recipe.threshold_mev

    @property
    def n_prefix(self) -> int:
        """How many of the steps behind the geometry are stored per part: they need one hit and its labels only."""
        others = (i for i, step in enumerate(self.steps) if isinstance(step, _NOT_STORED))
        return next(others, len(self.steps))

    @property
    def n_observed(self) -> int:
        """How many of these steps stand before the next one to be fitted, a division or standardise."""
        waiting = (
            i
            for i, step in enumerate(self.steps)
            if isinstance(step, Standardise) or (isinstance(step, DivideByFitted) and step.scale_mev is None)
        )
        return next(waiting, len(self.steps))

    @property
    def division(self) -> DivideByFitted | None:
        """The division by a number of the training split, where the recipe has one."""
        return next((step for step in self.steps if isinstance(step, DivideByFitted)), None)

    @property
    def standardises(self) -> bool:
        """Whether the recipe has the step standardise."""
        return any(isinstance(step, Standardise) for step in self.steps)

    # ------------------------------------------------------------------------------- forward

    def forward(self, energy: Array, incident_energy: Array) -> Array:
        """Visible MeV on the raw mesh to network space."""
        return self.suffix(self.prefix(energy, incident_energy), incident_energy)

    def prefix(self, energy: Array, incident_energy: Array) -> Array:
        """All steps that are stored per part, on energies of the raw mesh."""
        x, incident = prepared(energy, incident_energy, self.raw_mesh)
        return applied((*self.geometry, *self.steps[: self.n_prefix]), x, incident)

    def suffix(self, values: Array, incident_energy: Array) -> Array:
        """The steps behind the prefix, on its output."""
        x, incident = prepared(values, incident_energy, self.mesh)
        return applied(self.steps[self.n_prefix :], x, incident)

    def pointwise(self, values_mev: Array, incident_energy: Array) -> Array:
        """All but crop, rebin and cut, on energies (MeV) that are on the network's mesh already."""
        x, incident = prepared(values_mev, incident_energy, self.mesh)
        return applied(self.steps, x, incident)

    def prefix_ragged(self, showers: RaggedShowers) -> RaggedShowers:
        """The prefix on hits alone, stored as float32; cells without hit hold `fill`."""
        return self.prefix_of_hits(self.on_mesh(showers))

    def on_mesh(self, showers: RaggedShowers) -> RaggedShowers:
        """Visible MeV on the raw mesh to visible MeV on the network's mesh, hits alone."""
        if showers.mesh != self.raw_mesh:
            raise TransformError(f"transform: expected showers on {self.raw_mesh}, got {showers.mesh}")
        for step in self.geometry:
            showers = step.ragged(showers)
        return showers

    def prefix_of_hits(self, showers: RaggedShowers) -> RaggedShowers:
        """Visible MeV on the network's mesh to the prefix's values (float32), hits alone."""
        return replace(showers, energy=_on_hits(self.steps[: self.n_prefix], showers))

    @property
    def fill(self) -> float:
        """What the prefix makes of an empty cell (float32, the same for every shower)."""
        value = applied(self.steps[: self.n_prefix], np.zeros(1), np.ones(1))
        return float(np.float32(value[0]))

    # ------------------------------------------------------------------------------- inverse

    def inverse(self, values: Array, incident_energy: Array, layer_energy: Array = None) -> Array:
        """Network space to visible MeV on the network's mesh; below half the threshold exactly 0.

        layer_energy: (…, z) visible MeV on that mesh, which `layer_fractions` alone needs; TransformError without.
        """
        x, incident = prepared(values, incident_energy, self.mesh)
        for step in reversed(self.steps):
            step = step.given(layer_energy, x) if isinstance(step, LayerFractions) else step
            x = step.inverse(x, incident)
        xp = array_namespace(x)
        return xp.where(x < self.threshold_mev / 2, xp.zeros_like(x), x)

    def inverse_raw(self, values: Array, incident_energy: Array, layer_energy: Array = None) -> Array:
        """Like `inverse`, on the raw mesh: rebinning spread evenly, what was cropped padded with zeros."""
        x = self.inverse(values, incident_energy, layer_energy)
        for step in reversed(self.geometry):
            x = step.inverse(x, incident_energy)
        return x

    # --------------------------------------------------------------------------------- fitting

    def fit_division(self, spectrum: EnergySpectrum) -> Transform:
        """The transform whose division, if it has one, is fitted to the energies behind the geometry."""
        return replace(self, steps=tuple(s.fit(spectrum) if isinstance(s, DivideByFitted) else s for s in self.steps))

    def fit(self, statistics: CellStatistics) -> Transform:
        """The transform fitted to (and carrying) the statistics of what it sees (`observed`)."""
        if statistics.shape != self.mesh.shape:
            raise TransformError(
                f"transform: expected statistics on the mesh {self.mesh.shape}, "
                f"got {statistics.shape}; merge parts preprocessed with this recipe"
            )
        if statistics.count == 0:
            raise TransformError(
                "transform: expected statistics of the training split, got those of no shower; "
                "add data or raise `splits.train`"
            )
        steps = tuple(s.fit(statistics) if isinstance(s, Standardise) else s for s in self.steps)
        tables = {name: table.astype(np.float32) for name, table in statistics.tables().items()}
        return replace(self, steps=steps, tables=tables)

    def cell_statistics(self) -> Tables:
        """Of what standardise sees (without it: the last step) over the training split, each (r, phi, z) float32.

        mean_all, std_all (all cells), hit_rate in [0, 1], mean_hit, std_hit (hits only).
        """
        if self.tables is None:
            raise TransformError("cell_statistics: expected a fitted transform, got a recipe; run merge, or call fit")
        return self.tables

    def state(self) -> dict[str, Any]:
        """Everything as JSON: recipe, raw mesh, fitted numbers, statistics."""
        fitted = next((s for s in self.steps if isinstance(s, Standardise) and s.mean is not None), None)
        division = self.division
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "raw_mesh": mesh_attributes(self.raw_mesh),
            "fitted": {k: _packed(getattr(fitted, k)) for k in ("mean", "deviation")} if fitted else None,
            "scale_mev": division.scale_mev if division else None,
            "statistics": {k: _packed(table) for k, table in self.tables.items()} if self.tables else None,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Transform:
        """The transform of a state; further keys are ignored. TransformError when the state is damaged."""
        try:
            fitted, tables = state["fitted"], state["statistics"]
            transform = cls.from_recipe(RecipeSpec.model_validate(state["recipe"]), mesh_of(state["raw_mesh"]))
            numbers: dict[str, Any] = {k: _unpacked(v) for k, v in (fitted or {}).items()}
            steps = tuple(replace(s, **numbers) if isinstance(s, Standardise) else s for s in transform.steps)
            scale = state.get("scale_mev")
            steps = tuple(replace(s, scale_mev=scale) if isinstance(s, DivideByFitted) else s for s in steps)
            return replace(transform, steps=steps, tables={k: _unpacked(v) for k, v in (tables or {}).items()} or None)
        except (KeyError, TypeError, ValueError) as error:
            raise TransformError(
                f"transform: expected a state written by merge, got: {error!r}; "
                "delete the transform and run merge again"
            ) from None


def applied(steps: Iterable[Step], x: Array, incident: Array) -> Array:
    """The steps one after another."""
    for step in steps:
        x = step.forward(x, incident)
    return x


def _on_hits(steps: Sequence[Step], showers: RaggedShowers) -> NDArray[np.float32]:
    """Stored steps on hits: float64 on so few at a time that they stay in the cache."""
    result = np.empty(len(showers.energy), np.float32)
    offsets, incident = showers.offsets, np.asarray(showers.incident_energy, np.float64)
    stride = max(1, _HITS_AT_ONCE * len(showers) // max(len(result), 1))
    for start in range(0, len(showers), stride):
        rows = slice(start, start + stride)
        hits = slice(offsets[start], offsets[min(start + stride, len(showers))])
        labels = np.repeat(incident[rows], showers.row_size[rows])
        result[hits] = applied(steps, showers.energy[hits].astype(np.float64), labels)
    return result


def prepared(x: Array, incident_energy: Array, mesh: CylinderMesh) -> tuple[Array, Array]:
    """The array (float64 if NumPy) and the incident energy as (…, 1, 1, 1) beside it."""
    if tuple(x.shape[-3:]) != mesh.shape:
        raise TransformError(f"transform: expected (…, {', '.join(map(str, mesh.shape))}), got {tuple(x.shape)}")
    xp = array_namespace(x)
    if is_numpy_array(x):
        x = x.astype(np.float64)
    incident = xp.asarray(incident_energy, dtype=x.dtype, device=device(x))
    return x, xp.reshape(incident, (*incident.shape, 1, 1, 1))


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON: shape, dtype and little-endian bytes in base64."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    text = base64.b64encode(little.tobytes()).decode()
    return {"shape": list(array.shape), "dtype": little.dtype.str, "base64": text}


def _unpacked(content: dict[str, Any]) -> NDArray[Any]:
    raw = np.frombuffer(base64.b64decode(content["base64"]), dtype=content["dtype"])
    return raw.reshape(content["shape"]).astype(raw.dtype.newbyteorder("="))
