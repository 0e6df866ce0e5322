"""Precision, recall, density and coverage: do the sample's showers lie where the reference's do, and everywhere there?

In: features of both sides, (n, k) and (m, k), arrays or `CellRows`; out: four numbers with errors.
Source: Naeem et al., ICML 2020 (arXiv:2002.09797), eq. 1-6, and its package `prdc`; k = 5 nearest neighbours.
Distances are taken block by block, so memory is that of three float32 distance matrices whatever the number of
features: limit the rows. Blind to what euclidean neighbours in thousands of cells do not see: docs/metrics.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.cells import Rows
from pipeline.evaluation.distances import Estimate

Distances = NDArray[np.float32]

NEIGHBOURS = 5
NAMES = ("precision", "recall", "density", "coverage")
BLOCK_ROWS = 256
HALVES = 20


def prdc(
    reference: Rows, sample: Rows, generator: np.random.Generator, neighbours: int = NEIGHBOURS, halves: int = HALVES
) -> dict[str, Estimate]:
    """The four numbers of `NAMES`, and their spread over random halves of the showers of both sides.

    A half drawn without replacement fluctuates around the whole as the whole does around the truth (delete-half
    jackknife); a bootstrap would make every shower its own neighbour. Raises ValueError below 2 (k + 1) rows a side.
    """
    n, m = reference.shape[0], sample.shape[0]
    if min(n, m) < 2 * (neighbours + 1):
        raise ValueError(
            f"precision and recall: expected at least {2 * (neighbours + 1)} showers a side, got {n} and {m}; add some"
        )
    within, across, other = (pairwise(*sides) for sides in ((reference,) * 2, (reference, sample), (sample,) * 2))
    values = prdc_of(within, across, other, neighbours)
    spread = []
    for _ in range(halves):
        x, y = (np.sort(generator.permutation(size)[: size // 2]) for size in (n, m))
        spread.append(prdc_of(within[np.ix_(x, x)], across[np.ix_(x, y)], other[np.ix_(y, y)], neighbours))
    errors = np.std(spread, axis=0, ddof=1)
    return {name: Estimate(v, float(e)) for name, v, e in zip(NAMES, values, errors, strict=True)}


def prdc_of(within: Distances, across: Distances, other: Distances, neighbours: int) -> tuple[float, ...]:
    """Precision, recall, density, coverage from the distances within the reference (n, n), from it to the sample
    (n, m), and within the sample (m, m). A ball is open and reaches to the k-th neighbour on its own side."""
    in_reference = across < kth_distance(within, neighbours)[:, None]
    in_sample = across < kth_distance(other, neighbours)[None, :]
    return (
        float(in_reference.any(axis=0).mean()),
        float(in_sample.any(axis=1).mean()),
        float(in_reference.sum(axis=0).mean() / neighbours),
        float(in_reference.any(axis=1).mean()),
    )


def kth_distance(within: Distances, neighbours: int) -> Distances:
    """Distance of each row to its k-th nearest other row, (n,)."""
    others = within.copy()
    np.fill_diagonal(others, np.inf)
    return np.asarray(np.partition(others, neighbours - 1, axis=1)[:, neighbours - 1])


def pairwise(x: Rows, y: Rows) -> Distances:
    """Euclidean distances of all rows of x and y, (n, m)."""
    distances = np.empty((x.shape[0], y.shape[0]), dtype=np.float32)
    for column in range(0, y.shape[0], BLOCK_ROWS):
        theirs = np.asarray(y[column : column + BLOCK_ROWS])
        squares = np.einsum("ij,ij->i", theirs, theirs, dtype=np.float64)
        for row in range(0, x.shape[0], BLOCK_ROWS):
            ours = np.asarray(x[row : row + BLOCK_ROWS])
            square = np.einsum("ij,ij->i", ours, ours, dtype=np.float64)[:, None] + squares - 2.0 * (ours @ theirs.T)
            distances[row : row + len(ours), column : column + len(theirs)] = np.sqrt(np.maximum(square, 0))
    return distances
