"""Statistics of showers that add up exactly: per cell count, hits, mean, M2, smallest and largest value.

In: ragged showers (the prefix's values) on a mesh (r, phi, z). The state of two disjoint sets merges into
that of their union (Chan, Golub & LeVeque 1983), so a new file costs only itself. Only hits are
looked at: cells without hit all hold `fill`, which makes "over all cells" another exact merge. The sum is
kept as count and mean. Quantiles are not kept.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.provenance import atomic_path

_ARRAYS = ("hits", "mean", "m2", "minimum", "maximum")


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

    hits: showers with a hit in the cell; mean, m2: of the hits' values (0 without hits); minimum,
    maximum: of the hits' values (+inf, -inf without hits); fill: the value of a cell without hit.
    """

    count: int
    fill: float
    hits: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, int, int], fill: float = 0.0) -> CellStatistics:
        """The state of no showers, neutral when merged."""
        return cls(
            0,
            fill,
            np.zeros(shape, np.int64),
            np.zeros(shape),
            np.zeros(shape),
            np.full(shape, np.inf),
            np.full(shape, -np.inf),
        )

    @classmethod
    def of(cls, showers: RaggedShowers, fill: float = 0.0) -> CellStatistics:
        """The state of ragged showers, two passes over their hits."""
        n, cell, value = showers.mesh.n_cells, showers.cell.astype(np.int64), showers.energy.astype(np.float64)
        hits = np.bincount(cell, minlength=n)
        mean = np.bincount(cell, weights=value, minlength=n) / np.maximum(hits, 1)
        m2 = np.bincount(cell, weights=(value - mean[cell]) ** 2, minlength=n).astype(np.float64)
        minimum, maximum = np.full(n, np.inf), np.full(n, -np.inf)
        np.minimum.at(minimum, cell, value)
        np.maximum.at(maximum, cell, value)
        shape = showers.mesh.shape
        return cls(
            len(showers),
            fill,
            hits.reshape(shape).astype(np.int64),
            mean.reshape(shape),
            m2.reshape(shape),
            minimum.reshape(shape),
            maximum.reshape(shape),
        )

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
            self.hits + other.hits,
            moments.mean,
            moments.m2,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
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

    def save(self, path: Path) -> None:
        """Write the state atomically, with the same bytes for the same state."""
        arrays = {
            "count": np.int64(self.count),
            "fill": np.float64(self.fill),
            **{name: getattr(self, name) for name in _ARRAYS},
        }
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> CellStatistics:
        """Read a saved state; `StatisticsError` naming the file when it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(int(content["count"]), float(content["fill"]), *(content[name] for name in _ARRAYS))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StatisticsError(
                f"{path}: expected saved statistics, found: {error}; delete the manifest beside it "
                "and run preprocess again"
            ) from None


def merged(states: Iterable[CellStatistics]) -> CellStatistics:
    """The states merged from left to right: the same order gives the same bits."""
    return reduce(CellStatistics.merge, states)
