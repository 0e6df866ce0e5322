"""The spectrum of energies as a state that adds up exactly: largest shower, largest cell, quantiles of cells.

In: showers in visible MeV. Quantiles come from a histogram with fixed bins, 128 to an octave, from 2^-24 MeV to
2^40 MeV: a bin is the exponent and the first 7 bits of the mantissa of a float32, so that filling is two integer
operations, and merging adds counts. The centre of a bin is within 2^-8 = 0.39 % of every value in it; so is, then,
a quantile of the exact one (inverse of the empirical distribution, type 1 of Hyndman & Fan 1996). The idea is that
of HdrHistogram and of DDSketch (arXiv:1908.10693). No quantile of single layers is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RELATIVE_ERROR = 2.0**-8
_BITS = 7
_FIRST_OCTAVE, _OCTAVES = -24, 64
_HITS_AT_ONCE = 1 << 16  # what fits the cache
N_BINS = _OCTAVES << _BITS
_OFFSET = (127 + _FIRST_OCTAVE) << _BITS


@dataclass(frozen=True)
class EnergySpectrum:
    """The mergeable state over showers in visible MeV.

    n_cells: cells of all showers, empty ones included; largest_shower_mev, largest_cell_mev: 0 without showers;
    counts: (8192,) non-zero cells in each bin.
    """

    n_cells: int
    largest_shower_mev: float
    largest_cell_mev: float
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> EnergySpectrum:
        """The state of no showers, neutral when merged."""
        return cls(0, 0.0, 0.0, np.zeros(N_BINS, np.int64))

    @classmethod
    def of(cls, shower_mev: NDArray[np.floating], cell_mev: NDArray[np.float32], n_cells: int) -> EnergySpectrum:
        """Of energies of whole showers (shower,), of their non-zero cells (hit,), in a mesh of `n_cells`."""
        if not len(cell_mev):
            return cls(n_cells * len(shower_mev), float(shower_mev.max(initial=0)), 0.0, np.zeros(N_BINS, np.int64))
        bits, counts = np.ascontiguousarray(cell_mev, np.float32).view(np.int32), np.zeros(N_BINS, np.int64)
        for start in range(0, len(bits), _HITS_AT_ONCE):
            index = (bits[start : start + _HITS_AT_ONCE] >> (23 - _BITS)) - np.int32(_OFFSET)
            counts += np.bincount(np.clip(index, 0, N_BINS - 1, out=index), minlength=N_BINS)
        return cls(n_cells * len(shower_mev), float(shower_mev.max()), float(cell_mev.max()), counts)

    @property
    def n_hits(self) -> int:
        """Non-zero cells."""
        return int(self.counts.sum())

    def merge(self, other: EnergySpectrum) -> EnergySpectrum:
        """The state of the union of two disjoint sets of showers; exact, in any order."""
        return EnergySpectrum(
            self.n_cells + other.n_cells,
            max(self.largest_shower_mev, other.largest_shower_mev),
            max(self.largest_cell_mev, other.largest_cell_mev),
            self.counts + other.counts,
        )

    def quantile_mev(self, q: float, over: str = "hits") -> float:
        """The q-quantile of the cells in MeV, over `hits` or `all` cells; to 0.39 %, and 0 where there is no hit."""
        n_empty = self.n_cells - self.n_hits if over == "all" else 0
        rank = math.ceil(q * (self.n_hits + n_empty)) - n_empty
        if self.n_hits == 0 or (rank <= 0 and n_empty):
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), max(rank, 1)))
        octave, step = divmod(index, 1 << _BITS)
        centre = math.ldexp(1 + (step + 0.5) / (1 << _BITS), octave + _FIRST_OCTAVE)
        return min(centre, self.largest_cell_mev)
