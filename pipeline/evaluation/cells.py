"""Showers as rows of cell features that become dense only where they are looked at.

In: `RaggedShowers` on the evaluation's mesh, cut; out: for any rows the dense features (rows, cells + conditions),
float32. Classifiers and neighbours take batches of rows, so memory follows the hits, never showers x cells.
An empty cell is 0 in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers

Features = NDArray[np.float32]
PerHit = Callable[[RaggedShowers], NDArray[np.floating[Any]]]


class Rows(Protocol):
    """What classifiers and neighbours need of features: their shape, and any rows as a dense array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of showers, number of features."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The features of the chosen showers (a slice or indices), dense."""


@dataclass(frozen=True)
class CellRows:
    """Features of showers: one per cell from `of_hit`, (hit,), then those of the shower from `of_shower`, (n, c)."""

    showers: RaggedShowers
    of_hit: PerHit
    of_shower: PerHit

    @property
    def shape(self) -> tuple[int, int]:
        """Number of showers, number of features."""
        conditions = self.of_shower(self.showers.take(np.zeros(0, dtype=np.int64))).shape[1]
        return len(self.showers), self.showers.mesh.n_cells + conditions

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Features:
        """The features of the chosen showers, (rows, features)."""
        part = self.showers.take(np.arange(len(self.showers))[rows])
        conditions = self.of_shower(part)
        n_cells = part.mesh.n_cells
        features = np.zeros((len(part), n_cells + conditions.shape[1]), dtype=np.float32)
        features[part.shower_of_hit, part.cell] = self.of_hit(part)
        features[:, n_cells:] = conditions
        return features


def nothing(showers: RaggedShowers) -> NDArray[np.float64]:
    """No features beside the cells, (n, 0)."""
    return np.zeros((len(showers), 0))


def log_cells(showers: RaggedShowers, threshold_mev: float) -> CellRows:
    """ln(1 + E/threshold) of every cell, and 10 ln(E_inc / GeV)."""
    return CellRows(
        showers,
        lambda part: np.log1p(part.energy / threshold_mev),
        lambda part: 10 * np.log(part.incident_energy[:, None] / 1e3),
    )


def log10_cells(showers: RaggedShowers, threshold_mev: float) -> CellRows:
    """log10(E/threshold) of every cell; an empty cell lies where one at the threshold does."""
    return CellRows(showers, lambda part: np.log10(np.maximum(part.energy / threshold_mev, 1)), nothing)
