"""Distances of feature clouds: jetnet's golden values, analytic values, slow twins, errors against repetitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg
from scipy.stats import wasserstein_distance

from pipeline.calorimeter import RaggedShowers
from pipeline.config import EvaluationSpec
from pipeline.evaluation.cells import log10_cells
from pipeline.evaluation.distances import (
    Frame,
    directions,
    extrapolate,
    fpd,
    frechet_distance,
    frechet_of_rows,
    kpd,
    mean_wasserstein,
    mmd_squared,
    moments_of_rows,
    projected,
    resampled,
    sliced_wasserstein,
    standardised,
)
from pipeline.evaluation.multivariate import FEATURE_METRICS, bootstrap_rows
from pipeline.evaluation.neighbours import NAMES, kth_distance, pairwise, prdc, prdc_of


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20000, 40)), rng.normal(size=(20000, 40)) * 1.02


# ------------------------------------------------------------------------------- FPD and KPD


def test_fpd_is_jetnets(clouds) -> None:
    value, error = fpd(*clouds, min_samples=5000, max_samples=20000)
    assert value == pytest.approx(0.0034640806, abs=1e-6)  # jetnet 0.2.5, default seed and batches: +- 9.3e-05
    assert error == pytest.approx(9.3e-05, rel=0.01)


def test_kpd_is_jetnets(clouds) -> None:
    value, error = kpd(*clouds, batch_size=2000)
    assert value == pytest.approx(1.557e-05, rel=1e-3)  # jetnet 0.2.5, default seed and batches: +- 4.9e-05
    assert error == pytest.approx(4.9e-05, rel=0.01)


def test_frechet_distance_of_gaussians_with_diagonal_covariances() -> None:
    # |m1 - m2|^2 + sum (s1 - s2)^2 where the covariances commute (Dowson and Landau 1982)
    value = frechet_distance(np.zeros(3), np.diag([1.0, 4.0, 0.0]), np.array([1.0, 0, 0]), np.diag([4.0, 4.0, 9.0]))
    assert value == pytest.approx(1 + 1 + 0 + 9)


def test_frechet_distance_equals_the_matrix_square_root() -> None:
    rng = np.random.default_rng(1)
    a, b = (m @ m.T for m in rng.normal(size=(2, 6, 6)))
    slow = np.trace(a + b - 2 * linalg.sqrtm(a @ b)).real
    assert frechet_distance(np.zeros(6), a, np.zeros(6), b) == pytest.approx(slow)


def test_moments_are_numpys(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.evaluation.distances.BLOCK_ROWS", 7)
    features, rows = np.random.default_rng(2).normal(3, 2, size=(50, 4)), np.array([5, 5, 0, *range(10, 49)])
    frame = Frame.of(features)
    mean, covariance = moments_of_rows(features, rows, frame)
    slow = (features[rows] - frame.centre) / np.abs(features).max(axis=0)
    np.testing.assert_allclose(mean, slow.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(slow, rowvar=False))


def test_a_shift_alone_is_its_square() -> None:
    a, rows = np.random.default_rng(3).normal(100, 1, size=(500, 3)), np.arange(500)
    shifted = frechet_of_rows(a, a + np.array([0.5 * a[:, 0].max(), 0, 0]), rows, rows, Frame.of(a))
    assert shifted == pytest.approx(0.25)


def test_extrapolation_finds_the_line_and_holds_it_above_zero() -> None:
    x = 1 / np.linspace(100, 1000, 10)
    assert extrapolate(x, 0.3 + 5 * x).value == pytest.approx(0.3)
    below, falling = extrapolate(x, 5 * x - 0.001), extrapolate(x, 1 - x)
    assert below.value == 0 and below.error > 0
    assert falling.value == pytest.approx((1 - x).mean())


def test_extrapolation_is_curve_fit_within_bounds() -> None:
    from scipy.optimize import curve_fit

    x = 1 / np.linspace(100, 1000, 10)
    y = 0.3 + 5 * x + 0.01 * np.random.default_rng(4).normal(size=10)
    best, covariance = curve_fit(lambda t, a, b: a + b * t, x, y, bounds=([0, 0], [np.inf, np.inf]))
    assert extrapolate(x, y) == pytest.approx((best[0], np.sqrt(covariance[0, 0])), rel=1e-3)


def test_mmd_is_the_double_loop() -> None:
    x, y = np.random.default_rng(5).normal(size=(2, 7, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 4

    own, other = ([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j] for s in (x, y))
    slow = np.mean(own) + np.mean(other) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert mmd_squared(x, y) == pytest.approx(slow)


def test_features_are_normalised_by_their_largest_value() -> None:
    assert Frame.of(np.array([[0.0, -4.0], [0.0, 2.0]])).scale.tolist() == [1, 4]


# ------------------------------------------------------------------------------- sliced Wasserstein


@pytest.mark.parametrize("sizes", [(30, 30), (30, 17), (8, 12)])
def test_projected_wasserstein_is_scipys(sizes) -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.normal(size=(4, n)) for n in sizes)
    slow = np.mean([wasserstein_distance(a, b) for a, b in zip(x, y, strict=True)])
    assert mean_wasserstein(x, y) == pytest.approx(slow)


def test_sliced_wasserstein_of_a_shift() -> None:
    # a shift d along one of k axes: |d| times the mean |cosine| of random directions; in 2 dimensions 2/pi
    a = np.random.default_rng(7).normal(size=(400, 2))
    value = sliced_wasserstein(a, a + np.array([0.3 * a[:, 0].std(), 0]), 4000, np.random.default_rng(0))
    assert value == pytest.approx(0.3 * 2 / np.pi, rel=0.03)


def test_sliced_wasserstein_is_the_slow_twin() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(2, [1, 3], size=(20, 2)), rng.normal(2, [1, 4], size=(15, 2))
    draw = np.random.default_rng(1).normal(size=(2, 5))
    slow = []
    for direction in draw.T:
        unit = direction / np.sqrt((direction**2).sum())
        x, y = ([((row - a.mean(0)) / a.std(0)) @ unit for row in side] for side in (a, b))
        slow.append(wasserstein_distance(x, y))
    assert sliced_wasserstein(a, b, 5, np.random.default_rng(1)) == pytest.approx(np.mean(slow))


def test_features_that_never_vary_are_left_out() -> None:
    a = np.stack([np.arange(5.0), np.full(5, 0.1)], axis=1)
    onto, offset = standardised(a, np.ones((2, 1)))
    np.testing.assert_allclose(onto[:, 0], [1 / np.sqrt(2), 0])
    np.testing.assert_allclose(projected(a, onto, offset), [(np.arange(5) - 2) / np.sqrt(2)])


def test_rounding_errors_of_a_feature_that_is_nothing_do_not_count() -> None:
    generator = np.random.default_rng(3)
    reference, sample = generator.normal(size=(2, 200, 3)).astype(np.float32)
    reference[:, 1] *= 1e-16  # the centre of a layer whose hits all lie at phi = +-pi/2
    assert frechet_of_rows(reference, sample, np.arange(200), np.arange(200), Frame.of(reference)) < 10
    assert sliced_wasserstein(reference, sample, 16, np.random.default_rng(0)) < 10


def test_bootstrap_of_projections_is_that_of_rows() -> None:
    rng = np.random.default_rng(14)
    values, rows = rng.normal(size=(3, 20)), rng.integers(20, size=20)
    drawn = resampled(values, np.argsort(values, axis=1), np.bincount(rows, minlength=20))
    np.testing.assert_array_equal(drawn, np.sort(values[:, rows], axis=1))


def test_error_of_a_sliced_distance_is_that_of_slow_replicas() -> None:
    rng = np.random.default_rng(15)
    x, y = rng.normal(size=(60, 5)), rng.normal(0.5, 1, size=(60, 5))
    spec = EvaluationSpec(reference="x", projections=20, bootstrap=8)
    draws = bootstrap_rows(60, 60, 8, np.random.default_rng(1), paired=False)
    value, error = FEATURE_METRICS["sliced_wasserstein"][0](x, y, spec, draws, np.random.default_rng(2))
    assert value == pytest.approx(sliced_wasserstein(x, y, 20, np.random.default_rng(2)))
    onto = standardised(x, directions(5, 20, np.random.default_rng(2)))
    slow = [mean_wasserstein(projected(x[i], *onto), projected(y[j], *onto)) for i, j in draws]
    assert error == pytest.approx(np.std(slow, ddof=1))


# ------------------------------------------------------------------------------- precision, recall, density, coverage


def slow_prdc(reference, sample, k):
    """Naeem et al. 2020, eq. 1-6, as they are written."""

    def radius(rows, i):
        return sorted(np.linalg.norm(rows[i] - row) for j, row in enumerate(rows) if j != i)[k - 1]

    ours = [radius(reference, i) for i in range(len(reference))]
    theirs = [radius(sample, j) for j in range(len(sample))]
    inside = [[np.linalg.norm(y - x) < r for x, r in zip(reference, ours, strict=True)] for y in sample]
    back = [[np.linalg.norm(x - y) < r for y, r in zip(sample, theirs, strict=True)] for x in reference]
    return (
        np.mean([any(balls) for balls in inside]),
        np.mean([any(balls) for balls in back]),
        np.sum(inside) / (k * len(sample)),
        np.mean(np.any(inside, axis=0)),
    )


def test_prdc_is_the_double_loop() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(40, 3)), rng.normal(0.3, 1.2, size=(30, 3))
    fast = prdc(a, b, np.random.default_rng(0), neighbours=3)
    assert [fast[name].value for name in NAMES] == pytest.approx(slow_prdc(a, b, 3))


def test_sparse_cells_and_blocks_change_nothing(monkeypatch, make_showers) -> None:
    showers = [make_showers(n, seed=n) for n in (23, 17)]
    a, b = (np.log10(np.maximum(s.energy.reshape(len(s), -1) / 0.01, 1)) for s in showers)
    monkeypatch.setattr("pipeline.evaluation.neighbours.BLOCK_ROWS", 5)
    sparse = pairwise(*(log10_cells(RaggedShowers.from_dense(s), 0.01) for s in showers))
    np.testing.assert_allclose(sparse, np.linalg.norm(a[:, None] - b[None], axis=2), rtol=1e-5)


def test_equal_clouds_are_covered_and_far_ones_are_not() -> None:
    # coverage of perfect samples: 1 - 1/2^k for many showers (Naeem et al. 2020, lemma 2)
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 800, 5))
    equal = prdc(a, b, rng)
    assert equal["coverage"].value == pytest.approx(1 - 2**-5, abs=0.02)
    assert equal["density"].value == pytest.approx(1, abs=0.1)
    assert all(prdc(a, b + 100, rng)[name].value == 0 for name in NAMES)


def test_a_collapsed_sample_is_precise_and_covers_little() -> None:
    rng = np.random.default_rng(12)
    a = rng.normal(size=(400, 4))
    collapsed = prdc(a, 0.2 * rng.normal(size=(400, 4)), rng)
    assert collapsed["precision"].value > 0.95 and collapsed["recall"].value < 0.3
    assert collapsed["coverage"].value < 0.4


def test_prdc_error_is_the_spread_of_repetitions() -> None:
    rng = np.random.default_rng(13)
    runs = [prdc(*rng.normal(size=(2, 100, 3)), rng) for _ in range(60)]
    for name in NAMES:
        spread = np.std([run[name].value for run in runs], ddof=1)
        assert 0.7 < np.mean([run[name].error for run in runs]) / spread < 1.7, name


def test_neighbours_by_hand() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    assert kth_distance(pairwise(points, points), 1).tolist() == [1, 1, 2]
    far = pairwise(points, points + 0.4)
    assert prdc_of(pairwise(points, points), far, pairwise(points, points), 1)[:2] == (1.0, 1.0)


def test_too_few_showers_for_neighbours() -> None:
    with pytest.raises(ValueError, match="expected at least 12 showers a side, got 11 and 40; add some"):
        prdc(np.zeros((11, 2)), np.zeros((40, 2)), np.random.default_rng(0))
