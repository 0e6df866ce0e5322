"""From ragged showers in memory to dense batches in network space.

In: the training showers of each data set, either raw (cells of the raw mesh, visible MeV) or behind the
materialised prefix, and their fitted transform. Out: `Batch` of torch tensors (B, r, phi, z). Random rotation
and reflection in phi act on the raw cell indices, before any rebinning. The order of the showers is a
permutation that depends on (seed, epoch), the random symmetries on (seed, samples seen). Reads no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.calorimeter import RaggedShowers
from pipeline.config import AugmentSpec
from pipeline.data.steps import Crop, GeometryStep, Rebin
from pipeline.data.transforms import Transform
from pipeline.models.conditions import Conditions

_BLOCK = 128
_NO_SYMMETRY = AugmentSpec()


@dataclass(frozen=True)
class Batch:
    """B showers: values and hit (B, r, phi, z) in network space, and their conditions."""

    values: Tensor
    hit: Tensor
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.values)

    @property
    def visible_energy(self) -> Tensor:
        """(B,) visible MeV on the network's mesh, behind the recipe's cut."""
        return self.conditions.layer_energy.sum(dim=1)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.values.to(device), self.hit.to(device), self.conditions.to(device))


@dataclass(frozen=True)
class Dense:
    """Showers as arrays: values, hit (n, r, phi, z); layer_energy (n, z) MeV."""

    values: NDArray[np.float32]
    hit: NDArray[np.bool_]
    layer_energy: NDArray[np.float32]


class Source(Protocol):
    """Showers of one data set."""

    @property
    def showers(self) -> RaggedShowers:
        """All of them."""

    def dense(self, rows: NDArray[np.int64], random: np.random.Generator) -> Dense:
        """The showers at `rows`."""


@dataclass(frozen=True)
class Ragged:
    """Fast access to some rows of ragged showers."""

    showers: RaggedShowers

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each shower among the hits, computed once."""
        return self.showers.offsets

    def hits(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """For the showers at `rows`: the place in `rows` of each hit, and the index of each hit."""
        starts, sizes = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        place = np.repeat(np.arange(len(rows)), sizes)
        first = np.cumsum(sizes) - sizes
        return place, np.arange(int(sizes.sum())) + (starts - first)[place]


@dataclass(frozen=True)
class StoreSource:
    """Raw showers, preprocessed batch by batch, with random symmetries of the raw mesh."""

    showers: RaggedShowers
    transform: Transform
    augment: AugmentSpec = _NO_SYMMETRY
    _ragged: Ragged = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ragged", Ragged(self.showers))

    @cached_property
    def _steps(self) -> tuple[NDArray[np.int64], tuple[GeometryStep, ...], tuple[int, int, int]]:
        """Coarse cell of each raw cell (-1: cropped away), the steps left to do, and the coarse shape."""
        mesh, steps = self.showers.mesh, list(self.transform.geometry)
        index = np.indices(mesh.shape).reshape(3, -1)
        while steps and isinstance(steps[0], Crop | Rebin):
            step = steps.pop(0)
            if isinstance(step, Crop):
                mesh = mesh.cropped(step.cells)
                index = np.where((index < np.array(mesh.shape)[:, None]).all(axis=0), index, -1)
            elif isinstance(step, Rebin):
                mesh = mesh.rebinned(step.factors)
                index = np.where(index < 0, -1, index // np.array(step.factors)[:, None])
        flat = (index[0] * mesh.n_phi + index[1]) * mesh.n_z + index[2]
        return np.where(index[0] < 0, -1, flat), tuple(steps), mesh.shape

    def dense(self, rows: NDArray[np.int64], random: np.random.Generator) -> Dense:
        """The showers at `rows`, each turned and mirrored at random where the spec says so."""
        place, hits = self._ragged.hits(rows)
        cell = self._turned(self.showers.cell[hits].astype(np.int64), place, len(rows), random)
        coarse_of, steps, shape = self._steps
        coarse, energy = coarse_of[cell], self.showers.energy[hits].astype(np.float64)
        inside, n_cells = coarse >= 0, int(np.prod(shape))
        flat = np.bincount((place * n_cells + coarse)[inside], weights=energy[inside], minlength=len(rows) * n_cells)
        dense = flat.astype(np.float32).reshape(len(rows), *shape)
        for step in steps:
            dense = step.forward(dense, None)
        values = self.transform.pointwise(dense, self.showers.incident_energy[rows])
        return Dense(
            np.asarray(values, np.float32), dense > 0, dense.sum(axis=(1, 2), dtype=np.float64).astype(np.float32)
        )

    def _turned(
        self, cell: NDArray[np.int64], place: NDArray[np.intp], n: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Cell indices after each shower's random rotation (all phi steps) and reflection."""
        if not (self.augment.rotate_phi or self.augment.reflect_phi):
            return cell
        _, n_phi, n_z = self.showers.mesh.shape
        phi, rest = cell // n_z % n_phi, cell - cell // n_z % n_phi * n_z
        if self.augment.reflect_phi:
            phi = np.where(random.integers(2, size=n)[place] == 1, n_phi - 1 - phi, phi)
        if self.augment.rotate_phi:
            phi = (phi + random.integers(n_phi, size=n)[place]) % n_phi
        return np.asarray(rest + phi * n_z)


@dataclass(frozen=True)
class PrefixSource:
    """Showers behind the materialised prefix: `showers.energy` are prefix values, empty cells are `fill`."""

    showers: RaggedShowers
    fill: float
    transform: Transform
    _ragged: Ragged = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ragged", Ragged(self.showers))

    @cached_property
    def _layer_energy(self) -> NDArray[np.float32]:
        """(n, z) visible MeV of all showers, by the transform's inverse."""
        energies = []
        for start in range(0, len(self.showers), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self.showers)))
            values, hit = self._values(rows)
            energy = np.asarray(self.transform.inverse(values, self.showers.incident_energy[rows]))
            energies.append(np.where(hit, energy, 0).sum(axis=(1, 2)).astype(np.float32))
        return np.concatenate(energies)

    def _values(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        place, hits = self._ragged.hits(rows)
        shape = self.showers.mesh.shape
        values = np.full((len(rows), self.showers.mesh.n_cells), self.fill, dtype=np.float64)
        hit = np.zeros(values.shape, dtype=bool)
        cell = self.showers.cell[hits]
        values[place, cell], hit[place, cell] = self.showers.energy[hits], True
        suffixed = self.transform.suffix(values.reshape(-1, *shape), self.showers.incident_energy[rows])
        return np.asarray(suffixed), hit.reshape(-1, *shape)

    def dense(self, rows: NDArray[np.int64], random: np.random.Generator) -> Dense:
        """The showers at `rows`; nothing is random here."""
        values, hit = self._values(rows)
        return Dense(values.astype(np.float32), hit, self._layer_energy[rows])


@dataclass(frozen=True)
class Loader:
    """Batches over the sources of several data sets; source i is domain i."""

    sources: Sequence[Source]
    seed: int

    def __len__(self) -> int:
        return sum(len(source.showers) for source in self.sources)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        return np.cumsum([0] + [len(source.showers) for source in self.sources])

    def batch(self, rows: NDArray[np.int64], random: np.random.Generator) -> Batch:
        """The showers at `rows` (numbered through all sources), in that order."""
        order, pieces = [], []
        for domain, source in enumerate(self.sources):
            place = np.flatnonzero((rows >= self._first[domain]) & (rows < self._first[domain + 1]))
            if len(place):
                own = rows[place] - self._first[domain]
                order.append(place)
                pieces.append(_as_batch(source.dense(own, random), source.showers, own, domain))
        return _joined(pieces, np.argsort(np.concatenate(order), kind="stable"))

    def rows(self, samples: int, batch_size: int) -> NDArray[np.int64]:
        """The showers that follow after `samples` have been seen: one pass after another, each in its own order."""
        places = np.arange(samples, samples + batch_size)
        epochs = places // len(self)
        orders = {int(e): np.random.default_rng([self.seed, int(e)]).permutation(len(self)) for e in np.unique(epochs)}
        return np.array([orders[int(e)][p % len(self)] for e, p in zip(epochs, places, strict=True)], dtype=np.int64)

    def training_batch(self, samples: int, batch_size: int) -> Batch:
        """The batch that follows after `samples` have been seen; a function of (seed, samples) alone."""
        return self.batch(self.rows(samples, batch_size), np.random.default_rng([self.seed, samples, 1]))

    def in_order(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """The first `limit` showers in stored order, without random symmetries."""
        plain = Loader([_plain(source) for source in self.sources], self.seed)
        n = min(len(self), limit or len(self))
        for start in range(0, n, batch_size):
            yield plain.batch(np.arange(start, min(start + batch_size, n)), np.random.default_rng(0))


def _plain(source: Source) -> Source:
    return replace(source, augment=_NO_SYMMETRY) if isinstance(source, StoreSource) else source


def _as_batch(dense: Dense, showers: RaggedShowers, rows: NDArray[np.int64], domain: int) -> Batch:
    def column(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[rows], dtype=np.float32))

    conditions = Conditions(
        column(showers.incident_energy),
        column(showers.theta),
        torch.full((len(rows),), domain),
        torch.from_numpy(dense.layer_energy),
    )
    return Batch(torch.from_numpy(dense.values), torch.from_numpy(dense.hit), conditions)


def _joined(pieces: Sequence[Batch], order: NDArray[np.intp]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    index = torch.from_numpy(order)
    conditions = [
        torch.cat(column)[index] for column in zip(*(vars(p.conditions).values() for p in pieces), strict=True)
    ]
    return Batch(
        torch.cat([p.values for p in pieces])[index], torch.cat([p.hit for p in pieces])[index], Conditions(*conditions)
    )
