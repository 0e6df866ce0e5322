"""Brings a sample of any number of showers and any conditions onto common ground with the reference.

In: streams of showers on the evaluation's mesh; out: both sides with equal numbers of showers and one energy spectrum,
and what a reader must know. A sample at the reference's own conditions, row by row, is left as it is. Otherwise the
spectra are compared (Kolmogorov and Smirnov, p < .001); where they differ, both sides keep equal numbers of showers in
each of `BINS` bins equal in log E, so that rows over all energies do not measure the spectra. What lies outside
the reference's range is left out. It measures no shower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from pipeline.data.store import Part
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.comparisons import same_conditions
from pipeline.evaluation.response import energy_edges

BINS = 20
FEWEST = 20
SAME_SPECTRUM = 1e-3


class ConditionsError(ValueError):
    """A sample and a reference without common energies; names the file, both ranges and the remedy."""


@dataclass(frozen=True)
class Ground:
    """Both sides, equal in number; `differs` when their spectra had to be brought together; `notes` for the reader."""

    reference: ShowerStream
    sample: ShowerStream
    differs: bool = False
    notes: tuple[str, ...] = ()


def sample_stream(parts: Sequence[Part]) -> ShowerStream:
    """All showers of all parts, in file order."""
    sizes = [part.n_showers for part in parts]
    rows = np.concatenate([np.arange(n, dtype=np.int64) for n in sizes])
    return ShowerStream(tuple(parts), np.repeat(np.arange(len(parts)), sizes).astype(np.int64), rows)


def copies(parts: Sequence[Part]) -> tuple[str, ...]:
    """A note when showers are exact copies of others: a generator that repeats itself."""
    hashes = np.concatenate([part.shower_hash for part in parts])
    n = len(hashes) - len(np.unique(hashes))
    return (f"{n} of {len(hashes)} showers are exact copies of others",) if n else ()


def common_ground(reference: ShowerStream, sample: ShowerStream, where: str) -> Ground:
    """Both sides with equal numbers and one spectrum; `ConditionsError` when fewer than 20 showers are left."""
    ours, theirs = reference.incident_energy, sample.incident_energy
    if same_conditions(ours, theirs):
        return Ground(reference, sample)
    n = min(len(reference), len(sample))
    if same_spectrum(ours, theirs):
        notes = () if n == len(reference) else (f"{n} showers a side, as many as the sample has",)
        return Ground(reference.first(n), sample.take(random_rows(len(sample), n)), notes=notes)
    order = random_rows(len(sample), len(sample))
    rows, others = matched_rows(ours, theirs[order], BINS)
    if len(rows) < FEWEST:
        raise ConditionsError(
            f"{where}: expected at least {FEWEST} showers at the reference's energies, {_range(ours)}, got {len(rows)} "
            f"of {len(sample)} at {_range(theirs)}; compare it with a reference of its own energies"
        )
    note = (
        f"its energies, {_range(theirs)}, are not spread as the reference's, {_range(ours)}: {len(rows)} showers "
        "a side with equal numbers in each of 20 energy bins were compared; not in the figures of all energies"
    )
    return Ground(reference.take(rows), sample.take(order[others]), True, (note,))


def same_spectrum(reference: NDArray[np.floating], sample: NDArray[np.floating]) -> bool:
    """Whether two sets of incident energies may come from one spectrum."""
    return bool(ks_2samp(reference, sample, method="asymp").pvalue >= SAME_SPECTRUM)


def matched_rows(
    reference: NDArray[np.floating], sample: NDArray[np.floating], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both sides, equally many in each energy bin of the reference's range: the first of each, ascending."""
    edges = energy_edges(np.asarray(reference, dtype=np.float64), bins)
    inside = np.flatnonzero((sample >= edges[0] * (1 - 1e-6)) & (sample <= edges[-1] * (1 + 1e-6)))
    codes = [np.searchsorted(edges[1:-1], energies, side="right") for energies in (reference, sample[inside])]
    kept: list[list[NDArray[np.intp]]] = [[], []]
    for i in range(len(edges) - 1):
        rows = [np.flatnonzero(code == i) for code in codes]
        n = min(map(len, rows))
        for side, chosen in zip(kept, rows, strict=True):
            side.append(chosen[:n])
    first, second = (np.sort(np.concatenate(side)).astype(np.int64) for side in kept)
    return first, inside[second].astype(np.int64)


def random_rows(n: int, count: int) -> NDArray[np.int64]:
    """`count` of n rows in a random order, the same each time: files may be sorted by energy."""
    return np.random.default_rng(n).permutation(n)[:count].astype(np.int64)


def _range(energies: NDArray[np.floating]) -> str:
    return f"{energies.min():.4g} to {energies.max():.4g} MeV"
