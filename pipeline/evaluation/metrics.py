"""How far a sample is from the reference: pure functions of two arrays, and their bootstrap errors.

In: two arrays whose first axis is the shower (values (n,) or slices (n, k)); out: one number.
Sources: separation power arXiv:2009.03796 eq. 15; definitions and expectations of perfect samples in
docs/metrics.md. No metric here knows what its values mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from pipeline.evaluation.observables import layer_correlation

Array = NDArray[np.float64]
Metric = Callable[[NDArray[Any], NDArray[Any]], float]


# ------------------------------------------------------------------------------- separation power


def separation_power(reference: Array, sample: Array) -> float:
    """S = 1/2 sum (p - q)^2 / (p + q) of two histograms, normalised here; in [0, 1].

    arXiv:2009.03796 eq. 15. Two perfect samples of N1 and N2 entries in K filled bins have K/4 (1/N1 + 1/N2)
    (K - 1 instead of K when exact). Of a histogram without entries it is 1, of two it is 0.
    """
    if not (reference.sum() > 0 and sample.sum() > 0):
        return float(reference.sum() > 0) if sample.sum() == 0 else 1.0
    p, q = reference / reference.sum(), sample / sample.sum()
    filled = (p + q) > 0
    return float(0.5 * np.sum((p - q)[filled] ** 2 / (p + q)[filled]))


def expected_separation(bins: int, n_reference: int, n_sample: int) -> float:
    """Expectation of S between two perfect samples: (K - 1)/4 (1/N1 + 1/N2), about K/4 (1/N1 + 1/N2)."""
    return (bins - 1) / 4 * (1 / n_reference + 1 / n_sample)


def quantile_edges(reference: Array, bins: int) -> Array:
    """The inner edges of `bins` bins that hold equal parts of the reference, (<= bins - 1,); ties merge."""
    return np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))


def quantile_groups(counts: Array, bins: int) -> NDArray[np.intp]:
    """The quantile bin of each fine bin of a histogram, (fine,): the quantiles snap to the fine edges."""
    before = np.concatenate([[0.0], np.cumsum(counts)[:-1]]) + 0.5 * counts
    codes: NDArray[np.intp] = np.minimum(before * bins / max(counts.sum(), 1e-300), bins - 1).astype(np.intp)
    return codes


def bin_codes(values: Array, edges: Array) -> NDArray[np.intp]:
    """The bin of each value, (n,) in 0 .. len(edges); both ends are open."""
    return np.searchsorted(edges, values, side="right")


def separation_of_codes(bins: int) -> Metric:
    """The separation power of values given as bin codes 0 .. bins - 1."""

    def metric(reference: NDArray[Any], sample: NDArray[Any]) -> float:
        p, q = (np.bincount(codes, minlength=bins).astype(np.float64) for codes in (reference, sample))
        return separation_power(p, q)

    return metric


def separation_of_counts(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """The separation power of histograms that are sums of counts per shower, (n, bins)."""
    return separation_power(reference.sum(axis=0), sample.sum(axis=0))


# ------------------------------------------------------------------------------- other distances


def profile_l1(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """Sum |p - q| of the unit-sum mean profiles of slices (n, k); in [0, 2]."""
    p, q = (slices.sum(axis=0) / max(slices.sum(), 1e-300) for slices in (reference, sample))
    return float(np.abs(p - q).sum())


def wasserstein(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """1-D Wasserstein (earth mover's) distance of values (n,), in their unit."""
    return float(wasserstein_distance(reference, sample))


def mean_ratio(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """Mean of the sample over mean of the reference."""
    return float(sample.mean() / reference.mean())


def spread_ratio(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """Standard deviation of the sample over that of the reference."""
    return float(sample.std() / reference.std())


def correlation_distance(reference: NDArray[Any], sample: NDArray[Any]) -> float:
    """Root mean square difference of the off-diagonal Pearson coefficients of slices (n, k); in [0, 2]."""
    difference = layer_correlation(reference) - layer_correlation(sample)
    k = len(difference)
    return float(np.sqrt((difference**2).sum() / max(k * (k - 1), 1)))


METRICS: dict[str, Metric] = {
    "l1": profile_l1,
    "wasserstein": wasserstein,
    "mean_ratio": mean_ratio,
    "spread_ratio": spread_ratio,
    "distance": correlation_distance,
    "separation_power": separation_of_counts,
}
PERFECT: dict[str, float] = {
    **dict.fromkeys(("mean_ratio", "spread_ratio"), 1.0),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), 1.0),
}  # classifiers: .5; all others: 0


def perfect_value(metric: str) -> float:
    """What a metric is for a sample like the reference, but for the fluctuations that the floor shows."""
    return 0.5 if metric.startswith("auc_") else PERFECT.get(metric, 0.0)


# ------------------------------------------------------------------------------- errors


def generator_for(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names only, so adding a row moves no other row."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little")])


def bootstrap_error(
    metric: Metric,
    reference: NDArray[Any],
    sample: NDArray[Any],
    replicas: int,
    generator: np.random.Generator,
    paired: bool = False,
) -> float:
    """Standard deviation of the metric over bootstrap replicas of the showers of both sides.

    `paired`: row i of both sides has the same conditions, so both are resampled with the same rows.
    """
    values = np.empty(replicas)
    for i in range(replicas):
        rows = generator.integers(len(reference), size=len(reference))
        others = rows if paired else generator.integers(len(sample), size=len(sample))
        values[i] = metric(reference[rows], sample[others])
    return float(values.std(ddof=1)) if replicas > 1 else float("nan")
