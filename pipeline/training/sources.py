"""Showers of one data set that write themselves into batches.

`ReadySource` holds hits in network space: a batch is the empty shower, copied, and the hits scattered over it.
`StoreSource` holds raw hits (visible MeV) and takes them through the recipe batch by batch, for symmetries in phi
that the recipe does not commute with. `PrefixSource` is for recipes whose suffix needs whole showers. All three
give the same showers. They hold ragged arrays, read no files and draw no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol, Union

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.data.hitwise import empty_cells, energy_of_prefix, is_cellwise, pointwise_hits, suffix_hits
from pipeline.data.steps import Crop, GeometryStep, Rebin
from pipeline.data.transforms import Transform
from pipeline.training.batches import Buffers, Turns

Rows = NDArray[np.integer]
_BLOCK = 32  # showers transformed together: their temporaries stay in a cache
_HIT = np.True_


class Source(Protocol):
    """Showers that can be written into a batch, in any order."""

    def __len__(self) -> int:
        """How many."""

    @property
    def mesh(self) -> CylinderMesh:
        """The mesh whose cells are turned: the raw one, or the network's where the recipe commutes with that."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) in network space."""

    def write(self, rows: Rows, places: Rows, turns: Turns | None, into: Buffers) -> None:
        """Write the showers at `rows` to `places` of a batch, turned where `turns` are given (one per row)."""


RaggedSource = Union["ReadySource", "StoreSource", "PrefixSource"]  # those that hold hits, in `showers`


@dataclass(frozen=True)
class ReadySource:
    """Showers whose hit values are in network space already.

    layer_energy: (n, z) visible MeV; empty: (r, phi, z) float32, an empty shower in network space; distinct: no hit
    has the value of an empty cell, so that hits can be told by their values.
    """

    showers: RaggedShowers
    layer_energy: NDArray[np.float32]
    empty: NDArray[np.float32]
    distinct: bool = False

    @classmethod
    def of_prefix(cls, showers: RaggedShowers, fill: float, transform: Transform) -> ReadySource:
        """From hits behind the recipe's prefix, where an empty cell is `fill`; the recipe must be cellwise."""
        values, energies = np.empty(len(showers.energy), np.float32), []
        offsets, n_z = showers.offsets, showers.mesh.n_z
        incident_of = np.asarray(showers.incident_energy, dtype=np.float64)
        layer_of = np.arange(showers.mesh.n_cells) % n_z
        suffixed = transform.suffix(np.full((1, *transform.mesh.shape), fill), np.ones(1))[0]
        empty, distinct = np.asarray(suffixed, dtype=np.float32).reshape(-1), True
        for start in range(0, len(showers), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(showers)))
            hits = slice(int(offsets[rows.start]), int(offsets[rows.stop]))
            sizes, n = np.asarray(showers.row_size[rows]), rows.stop - rows.start
            incident, prefix = np.repeat(incident_of[rows], sizes), showers.energy[hits]
            cell = showers.cell[hits].astype(np.intp)
            values[hits] = suffix_hits(transform, prefix, cell, incident)
            distinct &= bool((values[hits] != empty[cell]).all())
            layer = np.repeat(np.arange(n) * n_z, sizes) + layer_of[cell]
            energy = np.bincount(layer, energy_of_prefix(transform, prefix, incident), minlength=n * n_z)
            energies.append(energy.reshape(n, n_z).astype(np.float32))
        layer_energy = np.concatenate([np.zeros((0, n_z), np.float32), *energies])
        return cls(replace(showers, energy=values), layer_energy, empty.reshape(transform.mesh.shape), distinct)

    def __len__(self) -> int:
        return len(self.showers)

    @property
    def mesh(self) -> CylinderMesh:
        """Of the hits."""
        return self.showers.mesh

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) in network space."""
        return self.showers.mesh.shape

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return self.showers.offsets

    def write(self, rows: Rows, places: Rows, turns: Turns | None, into: Buffers) -> None:
        """A copy of the empty shower, and one scatter of the hits."""
        values, hit = _flat(into)
        empty, (cells, energies) = self.empty.reshape(-1), (self.showers.cell, self.showers.energy)
        table = None if turns is None else _turned_cells(self.showers.mesh)[_index(turns, self.showers.mesh)]
        bounds = zip(places.tolist(), self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), strict=True)
        for i, (place, start, stop) in enumerate(bounds):
            cell = cells[start:stop]
            index = (cell if table is None else table[i].take(cell)).astype(np.intp)
            row = values[place]
            row[:] = empty
            row[index] = energies[start:stop]
            if self.distinct:
                np.not_equal(row, empty, out=hit[place])
            else:
                hit[place] = False
                hit[place][index] = _HIT
        _write_conditions(self.showers, self.layer_energy[rows], rows, places, into)


@dataclass(frozen=True)
class StoreSource:
    """Raw showers, taken through the recipe batch by batch."""

    showers: RaggedShowers
    transform: Transform

    def __len__(self) -> int:
        return len(self.showers)

    @property
    def mesh(self) -> CylinderMesh:
        """Of the hits."""
        return self.showers.mesh

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) in network space."""
        return self.transform.mesh.shape

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return self.showers.offsets

    @cached_property
    def _empty(self) -> NDArray[np.float32]:
        return empty_cells(self.transform)

    def energies(self, rows: Rows, turns: Turns | None) -> NDArray[np.float32]:
        """(rows, r, phi, z) visible MeV on the network's mesh, behind crop, rebin and cut."""
        coarse_of, steps, mesh = _coarse_cells(self.showers.mesh, self.transform.geometry)
        tables = np.zeros(len(rows), np.int64) if turns is None else _index(turns, self.showers.mesh)
        dense = np.empty((len(rows), mesh.n_cells), dtype=np.float32)
        bounds = zip(tables.tolist(), self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), strict=True)
        for i, (table, start, stop) in enumerate(bounds):
            cell = coarse_of[table].take(self.showers.cell[start:stop])
            dense[i] = np.bincount(cell, self.showers.energy[start:stop], mesh.n_cells + 1)[:-1]
        energy: NDArray[np.float32] = dense.reshape(-1, *mesh.shape)
        for step in steps:
            energy = step.forward(energy, None)
        return energy

    def write(self, rows: Rows, places: Rows, turns: Turns | None, into: Buffers) -> None:
        """Turn the raw cells, sum them to the network's, and transform the hits."""
        energy, (values, hit) = self.energies(rows, turns), _flat(into)
        incident = np.asarray(self.showers.incident_energy[rows], dtype=np.float64)
        flat = energy.reshape(len(rows), -1)
        hit[places] = flat > 0
        if is_cellwise(self.transform):
            row, cell = np.divmod(np.flatnonzero(flat > 0), flat.shape[1])
            values[places] = self._empty.reshape(-1)
            values[places[row], cell] = pointwise_hits(self.transform, flat[row, cell], cell, incident[row])
        else:
            values[places] = self.transform.pointwise(energy, incident).reshape(len(rows), -1)
        layer_energy = energy.sum(axis=(1, 2), dtype=np.float64).astype(np.float32)
        _write_conditions(self.showers, layer_energy, rows, places, into)


@dataclass(frozen=True)
class PrefixSource:
    """Showers behind the materialised prefix whose suffix needs whole showers: hit values are the prefix's."""

    showers: RaggedShowers
    fill: float
    transform: Transform

    def __len__(self) -> int:
        return len(self.showers)

    @property
    def mesh(self) -> CylinderMesh:
        """Of the hits."""
        return self.showers.mesh

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) in network space."""
        return self.transform.mesh.shape

    def write(self, rows: Rows, places: Rows, turns: Turns | None, into: Buffers) -> None:
        """The suffix on dense showers; they cannot be turned here."""
        own, (values, hit) = self.showers.take(rows), _flat(into)
        prefix, found = np.full((len(rows), own.mesh.n_cells), self.fill), np.zeros((len(rows), own.mesh.n_cells), bool)
        prefix[own.shower_of_hit, own.cell], found[own.shower_of_hit, own.cell] = own.energy, True
        suffixed = self.transform.suffix(prefix.reshape(-1, *self.shape), own.incident_energy)
        values[places], hit[places] = suffixed.reshape(len(rows), -1), found
        incident = np.repeat(np.asarray(own.incident_energy, dtype=np.float64), own.row_size)
        layer, n_z = own.shower_of_hit * own.mesh.n_z + own.cell % own.mesh.n_z, own.mesh.n_z
        energy = np.bincount(layer, energy_of_prefix(self.transform, own.energy, incident), minlength=len(rows) * n_z)
        _write_conditions(self.showers, energy.reshape(-1, n_z).astype(np.float32), rows, places, into)


def prefix_source(showers: RaggedShowers, fill: float, transform: Transform) -> ReadySource | PrefixSource:
    """The fastest source for showers behind the materialised prefix."""
    if is_cellwise(transform):
        return ReadySource.of_prefix(showers, fill, transform)
    return PrefixSource(showers, fill, transform)


def write_batch(sources: Sequence[Source], which: Rows, rows: Rows, turns: Turns | None, into: Buffers) -> None:
    """Write shower `rows[i]` of source `which[i]` to place i, for all B of them."""
    for index in np.unique(which):
        places = np.flatnonzero(which == index)
        sources[int(index)].write(rows[places], places, None if turns is None else turns.take(places), into)


def _flat(into: Buffers) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values and hits as (B, cells)."""
    n = len(into.values)
    return into.values.numpy().reshape(n, -1), into.hit.numpy().reshape(n, -1)


def _write_conditions(
    showers: RaggedShowers, layer_energy: NDArray[np.float32], rows: Rows, places: Rows, into: Buffers
) -> None:
    into.layer_energy.numpy()[places] = layer_energy
    into.incident_energy.numpy()[places] = showers.incident_energy[rows]
    into.theta.numpy()[places] = showers.theta[rows]


@lru_cache(maxsize=8)
def _turned_cells(mesh: CylinderMesh) -> NDArray[np.unsignedinteger]:
    """(2 n_phi, cells): where each cell goes when it is mirrored in phi (second half), then turned by `shift`."""
    r, phi, z = np.indices(mesh.shape).reshape(3, -1)
    turned = np.empty((2 * mesh.n_phi, mesh.n_cells), index_dtype(mesh))
    for half, start in enumerate((phi, mesh.n_phi - 1 - phi)):
        for shift in range(mesh.n_phi):
            turned[half * mesh.n_phi + shift] = (r * mesh.n_phi + (start + shift) % mesh.n_phi) * mesh.n_z + z
    return turned


@lru_cache(maxsize=8)
def _coarse_cells(
    mesh: CylinderMesh, geometry: tuple[GeometryStep, ...]
) -> tuple[NDArray[np.int32], tuple[GeometryStep, ...], CylinderMesh]:
    """Coarse cell of each raw cell for each turn (n_cells: cropped away), the steps left to do, the coarse mesh."""
    raw, steps = mesh, list(geometry)
    index = np.indices(mesh.shape).reshape(3, -1)
    inside = np.ones(index.shape[1], dtype=bool)
    while steps and isinstance(steps[0], Crop | Rebin):
        step = steps.pop(0)
        if isinstance(step, Crop):
            mesh = mesh.cropped(step.cells)
            inside &= (index < np.array(mesh.shape)[:, None]).all(axis=0)
        elif isinstance(step, Rebin):
            mesh = mesh.rebinned(step.factors)
            index = index // np.array(step.factors)[:, None]
    coarse = np.where(inside, (index[0] * mesh.n_phi + index[1]) * mesh.n_z + index[2], mesh.n_cells)
    return coarse.astype(np.int32)[_turned_cells(raw)], tuple(steps), mesh


def _index(turns: Turns, mesh: CylinderMesh) -> NDArray[np.int64]:
    """The row of `_turned_cells` for each shower."""
    return turns.mirror * mesh.n_phi + turns.shift
