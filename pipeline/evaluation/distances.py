"""Distances of two clouds of features: Fréchet and kernel physics distances, sliced Wasserstein, PRDC.

In: reference and sample features, (n, k) and (m, k), one row per shower; out: a number with its error, or four.
Sources: FPD and KPD arXiv:2211.10295 as jetnet 0.2.5 computes them (`jetnet.evaluation.gen_metrics`: batches, seeds,
fit and errors; values agree with it to rounding); sliced Wasserstein Rabin et al., SSVM 2011; precision, recall,
density and coverage Naeem et al., ICML 2020 (arXiv:2002.09797). Definitions and blind spots: docs/metrics.md.
Beyond the features, memory is that of one block of rows, of a batch of the KPD, or of the projections. It knows no
showers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import iqr

Array = NDArray[np.float64]
Features = NDArray[np.floating[Any]]

BLOCK_ROWS, KERNEL_ROWS = 4096, 512
FPD_SAMPLES = (20_000, 50_000)
KPD_SAMPLES = 5_000
NOTHING = 1e-9  # mm or MeV: a feature that is smaller everywhere is the rounding error of one that is 0


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


class Frame(NamedTuple):
    """Centre and scale of features, (k,) each; the centre keeps the digits of sums of squares, no distance sees it."""

    centre: Array
    scale: Array

    @classmethod
    def of(cls, reference: Features) -> Frame:
        """The reference's mean, and its largest |value|, which normalises features (1 for rounding errors)."""
        scale = np.asarray(np.maximum(reference.max(axis=0), -reference.min(axis=0)), dtype=np.float64)
        centre = np.asarray(np.mean(reference, axis=0, dtype=np.float64))
        return cls(centre, np.where(scale < NOTHING, 1.0, scale))


def moments_of_rows(features: Features, rows: NDArray[np.integer], frame: Frame) -> tuple[Array, Array]:
    """Mean (k,) and unbiased covariance (k, k) of chosen rows of (features - centre) / scale, block by block.

    Rows are taken in rising order, for sums know none.
    """
    (centre, scale), n, rows = frame, len(rows), np.sort(rows)
    total, squares = np.zeros(len(centre)), np.zeros((len(centre), len(centre)))
    for start in range(0, n, BLOCK_ROWS):
        block = features.take(rows[start : start + BLOCK_ROWS], axis=0).astype(np.float64, copy=False)
        block -= centre
        total += block.sum(axis=0)
        squares += block.T @ block
    mean = total / n
    return mean / scale, (squares - n * np.outer(mean, mean)) / (n - 1) / np.outer(scale, scale)


def frechet_of_rows(
    reference: Features, sample: Features, ours: NDArray[np.integer], theirs: NDArray[np.integer], frame: Frame
) -> float:
    """The Fréchet distance of chosen rows of both sides, normalised."""
    return frechet_distance(*moments_of_rows(reference, ours, frame), *moments_of_rows(sample, theirs, frame))


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
    intercept and its error in the fit, which holds no fluctuation of the showers themselves.
    """
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, points)).astype(np.int32)
    generator, frame = np.random.default_rng(seed), Frame.of(reference)

    def batch(size: int) -> float:
        ours, theirs = (generator.choice(len(side), size=size) for side in (reference, sample))
        return frechet_of_rows(reference, sample, ours, theirs, frame)

    means = np.array([np.mean([batch(n) for _ in range(batches)]) for n in sizes])
    return extrapolate(1 / sizes, means)


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


# ------------------------------------------------------------------------------- kernel


def kpd(
    reference: Features, sample: Features, batch_size: int = KPD_SAMPLES, batches: int = 10, seed: int = 42
) -> Estimate:
    """Kernel physics distance (arXiv:2211.10295): median MMD^2 of batches, and half their 16-84 % range.

    Features normalised as for the FPD; each batch draws `batch_size` rows of both sides with replacement.
    """
    scale = Frame.of(reference).scale
    values = []
    for batch in range(batches):
        generator = np.random.default_rng(seed + 1000 * batch)
        x, y = (side[generator.choice(len(side), size=batch_size)] / scale for side in (reference, sample))
        values.append(mmd_squared(x, y))
    return Estimate(float(np.median(values)), float(iqr(values, rng=(16.275, 83.725)) / 2))


def mmd_squared(x: Array, y: Array) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / k + 1)^4 (Gretton et al., JMLR 13 (2012) 723, eq. 3)."""
    m, n = len(x), len(y)
    own = (_kernel_sum(x, x) - _kernel_diagonal(x)) / (m * (m - 1))
    other = (_kernel_sum(y, y) - _kernel_diagonal(y)) / (n * (n - 1))
    return float(own + other - 2 * _kernel_sum(x, y) / (m * n))


def _kernel_sum(x: Array, y: Array) -> float:
    """Sum of the kernel over all pairs, block by block."""
    blocks = (x[start : start + KERNEL_ROWS] @ y.T for start in range(0, len(x), KERNEL_ROWS))
    return float(sum((((block / x.shape[1] + 1) ** 2) ** 2).sum() for block in blocks))


def _kernel_diagonal(x: Array) -> float:
    """Sum of the kernel of each row with itself."""
    return float((((x**2).sum(axis=1) / x.shape[1] + 1) ** 4).sum())


# ------------------------------------------------------------------------------- sliced Wasserstein


def directions(features: int, projections: int, generator: np.random.Generator) -> Array:
    """Unit vectors drawn uniformly on the sphere, (features, projections)."""
    drawn = generator.normal(size=(features, projections))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=0))


def standardised(reference: Features, onto: Array) -> tuple[Array, Array]:
    """Directions (k, projections) for features as they are, and what to take off, (projections,).

    Projecting on them is as projecting features minus the reference's mean over its standard deviation on `onto`;
    features that never vary in the reference are left out.
    """
    centre = np.asarray(np.mean(reference, axis=0, dtype=np.float64))
    width = np.asarray(np.std(reference, axis=0, dtype=np.float64))
    varies = width > np.maximum(1e-7 * np.abs(centre), NOTHING)
    scaled = np.where(varies, 1 / np.where(varies, width, 1.0), 0.0)[:, None] * onto
    return scaled, centre @ scaled


def projected(features: Features, onto: Array, offset: Array) -> Array:
    """The features seen along each direction, less the offset, (projections, n)."""
    seen = np.empty((onto.shape[1], len(features)))
    for start in range(0, len(features), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS].astype(np.float64, copy=False)
        seen[:, start : start + BLOCK_ROWS] = (block @ onto - offset).T
    return seen


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
    onto = standardised(reference, directions(reference.shape[1], projections, generator))
    return mean_wasserstein(projected(reference, *onto), projected(sample, *onto))
