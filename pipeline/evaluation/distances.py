"""Distances of two clouds of features: Fréchet and kernel physics distances, sliced Wasserstein, PRDC.

In: reference and sample features, (n, k) and (m, k), one row per shower; out: a number with its error, or four.
Sources: FPD and KPD arXiv:2211.10295 as jetnet 0.2.5 computes them (`jetnet.evaluation.gen_metrics`: batches, seeds,
fit and errors; values agree with it to rounding); sliced Wasserstein Rabin et al., SSVM 2011; precision, recall,
density and coverage Naeem et al., ICML 2020 (arXiv:2002.09797). Definitions and blind spots: docs/metrics.md.
Memory: two batches of features, or one block of a distance matrix. It knows no showers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import iqr

Array = NDArray[np.float64]
Features = NDArray[np.floating[Any]]

BLOCK_ROWS = 1024
FPD_SAMPLES = (20_000, 50_000)
KPD_SAMPLES = 5_000


class Estimate(NamedTuple):
    """A number and its uncertainty."""

    value: float
    error: float


# ------------------------------------------------------------------------------- Fréchet


def frechet_distance(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^1/2) of two Gaussians (Dowson and Landau, J. Multivar. Anal. 12 (1982) 450).

    Means (k,), covariances (k, k). The trace of (C1 C2)^1/2 is that of (C1^1/2 C2 C1^1/2)^1/2, whose eigenvalues
    are real: singular matrices need no offset.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
    shift = mean - other_mean
    return float(shift @ shift + np.trace(covariance) + np.trace(other_covariance) - 2 * cross)


def moments_of(features: Array) -> tuple[Array, Array]:
    """Mean (k,) and unbiased covariance (k, k) of features (n, k) whose values are of order one around zero."""
    n = len(features)
    mean = features.sum(axis=0) / n
    return mean, (features.T @ features - n * np.outer(mean, mean)) / (n - 1)


def fpd(
    reference: Features,
    sample: Features,
    min_samples: int = FPD_SAMPLES[0],
    max_samples: int = FPD_SAMPLES[1],
    batches: int = 20,
    points: int = 10,
    seed: int = 42,
) -> Estimate:
    """Fréchet physics distance (arXiv:2211.10295): its value extrapolated to infinitely many showers.

    Features are divided by the reference's largest |value|. `points` batch sizes, regular in 1/N; at each the mean of
    `batches` Fréchet distances of batches drawn with replacement; a line in 1/N, intercept and slope >= 0; the
    intercept and its error in the fit, which holds no fluctuation of the showers themselves (`fpd_estimate` does).
    """
    x, y = centred(reference, sample)
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, points)).astype(np.int32)
    generator = np.random.default_rng(seed)
    means = np.array([np.mean([_batch_distance(x, y, n, generator) for _ in range(batches)]) for n in sizes])
    return extrapolate(1 / sizes, means)


def _batch_distance(x: Array, y: Array, size: int, generator: np.random.Generator) -> float:
    """The Fréchet distance of two batches drawn with replacement."""
    ours, theirs = (generator.choice(len(side), size=size) for side in (x, y))
    return frechet_of_rows(x, y, ours, theirs)


def frechet_of_rows(x: Array, y: Array, ours: NDArray[np.integer], theirs: NDArray[np.integer]) -> float:
    """The Fréchet distance of chosen rows of `centred` features; taken sorted, for sums know no order."""
    return frechet_distance(*(m for s, rows in ((x, ours), (y, theirs)) for m in moments_of(s.take(np.sort(rows), 0))))


def extrapolate(inverse_n: Array, values: Array) -> Estimate:
    """Intercept of the least-squares line through (1/N, value), both coefficients >= 0, and its error in the fit."""
    design = np.stack([np.ones_like(inverse_n), inverse_n], axis=1)
    line = np.linalg.lstsq(design, values, rcond=None)[0]
    if line[0] < 0:
        line = np.array([0.0, inverse_n @ values / (inverse_n @ inverse_n)])
    elif line[1] < 0:
        line = np.array([values.mean(), 0.0])
    variance = ((values - design @ line) ** 2).sum() / max(len(values) - 2, 1)
    return Estimate(float(line[0]), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])))


def normalised(reference: Features, sample: Features) -> tuple[Array, Array]:
    """Both sides divided by the largest |value| of the reference, feature by feature; features of zeros as they are."""
    scale = np.maximum(reference.max(axis=0), -reference.min(axis=0)).astype(np.float64)
    scale[scale == 0] = 1.0
    return reference / scale, sample / scale


def centred(reference: Features, sample: Features) -> tuple[Array, Array]:
    """Both sides normalised, then minus the mean of the reference, so that sums of squares keep their digits."""
    x, y = normalised(reference, sample)
    centre = x.mean(axis=0)
    x -= centre
    y -= centre
    return x, y


# ------------------------------------------------------------------------------- kernel


def kpd(
    reference: Features, sample: Features, batch_size: int = KPD_SAMPLES, batches: int = 10, seed: int = 42
) -> Estimate:
    """Kernel physics distance (arXiv:2211.10295): median MMD^2 of batches, and half their 16-84 % range.

    Features normalised as for the FPD; each batch draws `batch_size` rows of both sides with replacement.
    """
    x, y = normalised(reference, sample)
    values = []
    for batch in range(batches):
        generator = np.random.default_rng(seed + 1000 * batch)
        ours, theirs = (generator.choice(len(side), size=batch_size) for side in (x, y))
        values.append(mmd_squared(x[ours], y[theirs]))
    return Estimate(float(np.median(values)), float(iqr(values, rng=(16.275, 83.725)) / 2))


def mmd_squared(x: Array, y: Array) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / k + 1)^4 (Gretton et al., JMLR 13 (2012) 723, eq. 3)."""
    m, n = len(x), len(y)
    own = (_kernel_sum(x, x) - _kernel_diagonal(x)) / (m * (m - 1))
    other = (_kernel_sum(y, y) - _kernel_diagonal(y)) / (n * (n - 1))
    return float(own + other - 2 * _kernel_sum(x, y) / (m * n))


def _kernel_sum(x: Array, y: Array) -> float:
    """Sum of the kernel over all pairs, block by block."""
    blocks = (x[start : start + BLOCK_ROWS] @ y.T for start in range(0, len(x), BLOCK_ROWS))
    return float(sum((((block / x.shape[1] + 1) ** 2) ** 2).sum() for block in blocks))


def _kernel_diagonal(x: Array) -> float:
    """Sum of the kernel of each row with itself."""
    return float((((x**2).sum(axis=1) / x.shape[1] + 1) ** 4).sum())


# ------------------------------------------------------------------------------- sliced Wasserstein


def standardised(reference: Features, sample: Features) -> tuple[Array, Array]:
    """Both sides minus the reference's mean, over its standard deviation; features that never vary there left out."""
    centre = np.asarray(np.mean(reference, axis=0, dtype=np.float64))
    width = np.asarray(np.std(reference, axis=0, dtype=np.float64))
    kept = width > 1e-12 * np.maximum(np.abs(centre), 1e-300)
    x, y = (side[:, kept].astype(np.float64, copy=False) for side in (reference, sample))
    for side in (x, y):
        side -= centre[kept]
        side /= width[kept]
    return x, y


def directions(features: int, projections: int, generator: np.random.Generator) -> Array:
    """Unit vectors drawn uniformly on the sphere, (features, projections)."""
    drawn = generator.normal(size=(features, projections))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=0))


def projected(features: Features, onto: Array) -> Array:
    """The features seen along each direction, (projections, n)."""
    return np.ascontiguousarray((features @ onto).T)


def mean_wasserstein(reference: Array, sample: Array) -> float:
    """Mean over projections of the 1-D Wasserstein-1 distance of projected values (projections, n) and (.., m)."""
    ours, theirs = np.sort(reference, axis=1), np.sort(sample, axis=1)
    if ours.shape == theirs.shape:
        return float(np.abs(ours - theirs).mean())
    n, m = ours.shape[1], theirs.shape[1]
    steps = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))  # of 1/(n m)
    widths = np.diff(np.concatenate([[0], steps])) / (n * m)
    gaps = np.abs(ours[:, (steps - 1) // m] - theirs[:, (steps - 1) // n])
    return float((gaps @ widths).mean())


def resampled(values: Array, order: NDArray[np.intp], counts: NDArray[np.intp]) -> Array:
    """Values (projections, n) with row i taken counts[i] times, sorted; `order` sorts each projection."""
    ranked = np.take_along_axis(values, order, axis=1)
    return np.stack([np.repeat(v, c) for v, c in zip(ranked, counts[order], strict=True)])


def sliced_wasserstein(
    reference: Features, sample: Features, projections: int, generator: np.random.Generator
) -> float:
    """Sliced Wasserstein-1 distance of features standardised by the reference, in its standard deviations."""
    x, y = standardised(reference, sample)
    onto = directions(x.shape[1], projections, generator)
    return mean_wasserstein(projected(x, onto), projected(y, onto))
