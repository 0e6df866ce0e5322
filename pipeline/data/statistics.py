"""Statistics of showers that add up exactly: moments of each cell, largest values, the spectrum of energies.

In: ragged showers on a mesh (r, phi, z). The state of two disjoint sets merges into that of their union (Chan, Golub
& LeVeque 1983): counts, largest values and quantiles exactly, moments to 1e-12, so a new file costs only itself.
Only hits are looked at: cells without hit all hold `fill`, which makes "over all cells" another exact merge, and
moments per layer or of all cells together are made from those of the cells. The sum is kept as count and mean.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.spectrum import EnergySpectrum
from pipeline.provenance import atomic_path

_ARRAYS = ("hits", "mean", "m2")
_HITS_AT_ONCE = 1 << 17  # what fits the cache


class StatisticsError(ValueError):
    """States that cannot be merged or read."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and M2 (sum of squared deviations) of values, each of shape (r, phi, z)."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    def merge(self, other: Moments) -> Moments:
        """Moments of the union."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        delta = other.mean - self.mean
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + delta**2 * self.count * share)

    def moments_per(self, per: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of all cells together that share an index along the axes in `per`.

        Shapes (r or 1, phi or 1, z or 1). A set without any value has mean 0 and deviation 0.
        """
        axes = tuple(i for i, name in enumerate(("r", "phi", "z")) if name not in per)
        count = self.count.sum(axis=axes, keepdims=True)
        safe = np.maximum(count, 1)
        mean = (self.count * self.mean).sum(axis=axes, keepdims=True) / safe
        spread = self.m2 + self.count * (self.mean - mean) ** 2
        return mean, np.sqrt(spread.sum(axis=axes, keepdims=True) / safe)


@dataclass(frozen=True)
class CellStatistics:
    """The mergeable state over `count` showers; arrays have the mesh's shape (r, phi, z).

    fill: the value of a cell without hit; largest: the largest value of a hit (-inf without hits); hits: showers with
    a hit in the cell; mean, m2: of the hits' values (0 without hits).
    """

    count: int
    fill: float
    largest: float
    hits: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, int, int], fill: float = 0.0) -> CellStatistics:
        """The state of no showers, neutral when merged."""
        return cls(0, fill, -np.inf, np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(
        cls, showers: RaggedShowers, fill: float = 0.0, values: NDArray[np.floating] | None = None
    ) -> CellStatistics:
        """The state of ragged showers, or of other `values` (hit,) in the place of their energies."""
        n, shape = showers.mesh.n_cells, showers.mesh.shape
        value = showers.energy if values is None else values
        hits, total, m2 = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
        pieces = [slice(i, i + _HITS_AT_ONCE) for i in range(0, len(value), _HITS_AT_ONCE)]
        for piece in pieces:
            cell = showers.cell[piece].astype(np.intp)
            hits += np.bincount(cell, minlength=n)
            total += np.bincount(cell, weights=value[piece], minlength=n)
        mean, memory = total / np.maximum(hits, 1), np.empty(min(len(value), _HITS_AT_ONCE))
        for piece in pieces:
            cell = showers.cell[piece].astype(np.intp)
            deviation = memory[: len(cell)]
            np.take(mean, cell, out=deviation, mode="clip")  # into memory that is in the cache
            np.subtract(value[piece], deviation, out=deviation)
            m2 += np.bincount(cell, weights=np.multiply(deviation, deviation, out=deviation), minlength=n)
        largest = float(value.max(initial=-np.inf))
        return cls(len(showers), fill, largest, hits.reshape(shape), mean.reshape(shape), m2.reshape(shape))

    @classmethod
    def of_dense(cls, values: NDArray[np.float64]) -> CellStatistics:
        """The state of dense values (shower, r, phi, z) in which every cell is a hit."""
        count, mean = len(values), values.sum(axis=0) / max(len(values), 1)
        hits = np.full(values.shape[1:], count, np.int64)
        return cls(count, 0.0, float(values.max(initial=-np.inf)), hits, mean, ((values - mean) ** 2).sum(axis=0))

    @property
    def shape(self) -> tuple[int, ...]:
        """The mesh's shape."""
        return self.hits.shape

    def merge(self, other: CellStatistics) -> CellStatistics:
        """The state of the union of two disjoint sets of showers."""
        if self.shape != other.shape or self.fill != other.fill:
            raise StatisticsError(
                f"statistics: expected a mesh {self.shape} and fill {self.fill!r}, got {other.shape} "
                f"and {other.fill!r}; merge parts of one recipe and one mesh"
            )
        moments = self.over("hits").merge(other.over("hits"))
        return CellStatistics(
            self.count + other.count,
            self.fill,
            max(self.largest, other.largest),
            self.hits + other.hits,
            moments.mean,
            moments.m2,
        )

    def over(self, which: str) -> Moments:
        """Moments over `hits`, or over `all` cells (those without hit hold the fill)."""
        hits = self.hits.astype(np.float64)
        moments = Moments(hits, self.mean, self.m2)
        if which == "hits":
            return moments
        return moments.merge(Moments(self.count - hits, np.full(self.shape, self.fill), np.zeros(self.shape)))

    def tables(self) -> dict[str, NDArray[np.float64]]:
        """What models read, each (r, phi, z): mean_all, std_all, hit_rate, mean_hit, std_hit."""
        every, hit = self.over("all"), self.over("hits")
        return {
            "mean_all": every.mean,
            "std_all": np.sqrt(every.m2 / np.maximum(every.count, 1)),
            "hit_rate": self.hits / max(self.count, 1),
            "mean_hit": hit.mean,
            "std_hit": np.sqrt(hit.m2 / np.maximum(hit.count, 1)),
        }


@dataclass(frozen=True)
class Statistics:
    """What is kept of the training showers of a part: `cells` of the recipe's values, `spectrum` of the energies."""

    cells: CellStatistics
    spectrum: EnergySpectrum

    def merge(self, other: Statistics) -> Statistics:
        """The state of the union of two disjoint sets of showers."""
        return Statistics(self.cells.merge(other.cells), self.spectrum.merge(other.spectrum))

    def save(self, path: Path) -> None:
        """Write the state atomically, with the same bytes for the same state."""
        arrays = {
            "count": np.int64(self.cells.count),
            "fill": np.float64(self.cells.fill),
            "largest": np.float64(self.cells.largest),
            **{name: getattr(self.cells, name) for name in _ARRAYS},
            **{name: np.asarray(value) for name, value in vars(self.spectrum).items()},
        }
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read a saved state; `StatisticsError` naming the file when it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as content:
                count, n_cells = int(content["count"]), int(content["n_cells"])
                fill, largest = float(content["fill"]), float(content["largest"])
                shower, cell = float(content["largest_shower_mev"]), float(content["largest_cell_mev"])
                cells = CellStatistics(count, fill, largest, *(content[name] for name in _ARRAYS))
                return cls(cells, EnergySpectrum(n_cells, shower, cell, content["counts"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StatisticsError(
                f"{path}: expected saved statistics, found: {error}; delete the manifest beside it "
                "and run preprocess again"
            ) from None


Mergeable = TypeVar("Mergeable", CellStatistics, EnergySpectrum, Statistics)


def merged(states: Iterable[Mergeable]) -> Mergeable:
    """The states merged from left to right: the same order gives the same bits."""
    return reduce(lambda one, other: one.merge(other), states)
