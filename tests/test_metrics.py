"""Metrics: reference values, expectations of perfect samples, bootstrap against theory, the baselines and fits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.baselines import CalibratedCellSum
from pipeline.evaluation.classifier import auc_error, fold_of, held_out_auc, mean_auc_error, score_cells, score_features
from pipeline.evaluation.metrics import (
    bin_codes,
    bootstrap_error,
    correlation_distance,
    expected_separation,
    generator_for,
    mean_ratio,
    perfect_value,
    profile_l1,
    quantile_edges,
    quantile_groups,
    separation_of_codes,
    separation_power,
    spread_ratio,
    wasserstein,
)
from pipeline.evaluation.response import energy_bins, energy_edges, fit_resolution, response, spread_with_error


def test_separation_power_by_hand() -> None:
    # p = (.5, .5), q = (1, 0): 1/2 (.25/1.5 + .25/.5) = 1/3 (arXiv:2009.03796 eq. 15)
    assert separation_power(np.array([1.0, 1.0]), np.array([3.0, 0.0])) == pytest.approx(1 / 3)
    assert separation_power(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert separation_power(np.array([2.0, 5.0]), np.array([4.0, 10.0])) == 0.0


def test_separation_power_of_empty_histograms() -> None:
    assert separation_power(np.zeros(3), np.zeros(3)) == 0.0
    assert separation_power(np.ones(3), np.zeros(3)) == 1.0


def test_separation_of_perfect_samples_is_the_expected_one() -> None:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(300):
        a, b = rng.normal(size=333), rng.normal(size=333)
        edges = quantile_edges(a, 10)
        values.append(separation_of_codes(10)(bin_codes(a, edges), bin_codes(b, edges)))
    expected = expected_separation(10, 333, 333)
    assert expected == pytest.approx(10 / 4 * (2 / 333), rel=0.11)
    assert np.mean(values) == pytest.approx(expected, rel=0.1)


def test_quantile_bins_hold_equal_parts() -> None:
    a = np.random.default_rng(1).exponential(size=1000)
    assert set(np.bincount(bin_codes(a, quantile_edges(a, 10)))) == {100}


def test_quantile_bins_of_few_values_merge() -> None:
    a = np.array([1.0] * 90 + [2.0] * 10)
    assert len(quantile_edges(a, 10)) <= 2


def test_quantile_groups_rise_and_are_about_equal() -> None:
    counts = np.random.default_rng(2).poisson(50, size=200).astype(float)
    groups = quantile_groups(counts, 10)
    assert (np.diff(groups) >= 0).all()
    sums = np.bincount(groups, counts)
    assert len(sums) == 10 and sums.max() < 1.2 * sums.min()


def test_profile_l1_by_hand() -> None:
    assert profile_l1(np.array([[1.0, 1.0]]), np.array([[3.0, 1.0]])) == pytest.approx(0.5)


def test_wasserstein_of_a_shift_is_the_shift() -> None:
    a = np.random.default_rng(3).normal(size=100)
    assert wasserstein(a, a + 0.3) == pytest.approx(0.3)


def test_ratios() -> None:
    a = np.random.default_rng(4).normal(5, 1, size=100)
    assert mean_ratio(a, 2 * a) == pytest.approx(2)
    assert spread_ratio(a, a / 4 + 7) == pytest.approx(0.25)


def test_correlation_distance_of_opposite_correlations() -> None:
    x = np.random.default_rng(5).normal(size=50)
    assert correlation_distance(np.stack([x, x], axis=1), np.stack([x, -x], axis=1)) == pytest.approx(2)


def test_bootstrap_error_of_a_mean() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(10, 1, size=400), rng.normal(10, 1, size=400)
    error = bootstrap_error(mean_ratio, a, b, 300, generator_for(1, "x"))
    assert error == pytest.approx(0.1 * np.sqrt(2 / 400), rel=0.15)


def test_paired_bootstrap_sees_common_conditions() -> None:
    rng = np.random.default_rng(7)
    a = rng.uniform(1, 4, size=400)
    b = a * rng.normal(1, 0.01, size=400)
    paired, free = (bootstrap_error(mean_ratio, a, b, 100, generator_for(1), p) for p in (True, False))
    assert paired < free / 10


def test_generators_depend_on_names_only() -> None:
    assert generator_for(1, "a", "b").random() == generator_for(1, "a", "b").random()
    assert generator_for(1, "a", "b").random() != generator_for(1, "ab").random()


# ------------------------------------------------------------------------------- response and baselines


def test_energy_edges_are_equal_in_log() -> None:
    edges = energy_edges(np.array([1000.0, 1500, 2000, 3000, 8000]), 3)
    np.testing.assert_allclose(edges, [1000, 2000, 4000, 8000])


def test_few_fixed_energies_get_a_bin_each() -> None:
    energies = np.array([1e3, 4e3, 1e3, 2e3])
    bins = list(energy_bins(energies, energy_edges(energies, 5)))
    assert [rows.tolist() for *_, rows in bins] == [[0, 2], [3], [1]]


def test_one_energy_is_one_bin() -> None:
    energies = np.full(4, 2e3)
    assert [len(rows) for *_, rows in energy_bins(energies, energy_edges(energies, 3))] == [4]


def test_spread_error_of_gaussian_is_sigma_over_root_2n() -> None:
    sigma, error = spread_with_error(np.random.default_rng(8).normal(0, 2, size=20000))
    assert sigma == pytest.approx(2, rel=0.02)
    assert error == pytest.approx(2 / np.sqrt(2 * 20000), rel=0.05)


def test_fit_finds_the_resolution_that_was_put_in() -> None:
    rng = np.random.default_rng(9)
    incident = np.exp(rng.uniform(np.log(1e3), np.log(64e3), size=40000))
    width = np.hypot(0.135 / np.sqrt(incident / 1e3), 0.02)
    visible = 0.032 * incident * (1 + width * rng.normal(size=len(incident)))
    bins = response(incident, visible, energy_edges(incident, 8))
    fit = fit_resolution(bins)
    assert fit is not None
    assert abs(fit.stochastic - 0.135) < 4 * fit.stochastic_error
    assert abs(fit.constant - 0.02) < 4 * fit.constant_error
    assert bins[0].mean == pytest.approx(0.032, rel=0.01)


def test_fit_needs_three_bins() -> None:
    incident = np.array([1e3, 1e3, 2e3, 2e3])
    assert fit_resolution(response(incident, incident * [0.9, 1.1, 0.95, 1.05], energy_edges(incident, 2))) is None


def test_calibrated_cell_sum_inverts_a_power_law() -> None:
    visible = np.array([10.0, 20.0, 50.0])
    line = CalibratedCellSum.fit(visible, 30 * visible**1.02)
    assert (line.slope, np.exp(line.intercept)) == (pytest.approx(1.02), pytest.approx(30))
    np.testing.assert_allclose(line.predict(np.array([10.0, 0.0]))[0], [30 * 10**1.02, 0])


def test_calibrated_cell_sum_needs_showers() -> None:
    with pytest.raises(ValueError, match="at least 2 training showers"):
        CalibratedCellSum.fit(np.zeros(3), np.ones(3))


# ------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("scorer", [score_cells, score_features])
def test_classifiers_see_a_shift_and_nothing_in_equals(scorer) -> None:
    rng = np.random.default_rng(10)
    a, b = (rng.normal(size=(200, 5)).astype(np.float32) for _ in range(2))
    equal, shifted = held_out_auc(a, b, scorer, 1, 1), held_out_auc(a, b + 1, scorer, 1, 1)
    assert equal is not None and shifted is not None
    assert abs(equal.value - 0.5) < 4 * equal.error
    assert shifted.value > 0.85


def test_classifier_repeats_itself() -> None:
    rng = np.random.default_rng(11)
    a, b = (rng.normal(size=(60, 4)).astype(np.float32) for _ in range(2))
    assert held_out_auc(a, b, score_cells, 2, 3) == held_out_auc(a, b, score_cells, 2, 3)


def test_a_shared_condition_gives_no_label_away() -> None:
    condition = np.arange(100, dtype=np.float32)[:, None]
    auc = held_out_auc(condition, condition.copy(), score_features, 2, 1)
    assert auc is not None and auc.value == pytest.approx(0.5, abs=0.01)


def test_too_few_showers_have_no_auc() -> None:
    assert held_out_auc(np.zeros((5, 2), np.float32), np.ones((5, 2), np.float32), score_cells, 1, 1) is None


def test_auc_error_of_a_blind_classifier() -> None:
    rng = np.random.default_rng(12)
    values = [roc_auc_score(np.repeat([0, 1], 50), rng.normal(size=100)) for _ in range(500)]
    assert auc_error(0.5, 50, 50) == pytest.approx(np.std(values), rel=0.1)


@pytest.mark.parametrize("n", [10, 63])
def test_test_fifths_are_disjoint_and_pairs_stay_together(n) -> None:
    folds = [fold_of(n, training, 1) for training in range(5)]
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(2 * n))
    for fold in folds:
        parts = [set(rows % n) for rows in (fold.fit, fold.choose, fold.test)]
        assert sum(map(len, parts)) == n and not (parts[0] & parts[2] or parts[1] & parts[2])
        assert all(len(rows) == 2 * len(set(rows % n)) for rows in (fold.fit, fold.choose, fold.test))


def test_a_cell_classifier_makes_few_rows_dense_at_a_time(monkeypatch) -> None:
    class Watched:
        shape = (200, 50)
        seen: ClassVar[list[int]] = []

        def __getitem__(self, rows):
            self.seen.append(len(rows))
            return np.random.default_rng(rows[0] if len(rows) else 0).normal(size=(len(rows), 50)).astype(np.float32)

    monkeypatch.setattr("pipeline.evaluation.classifier.DENSE_NUMBERS", 64 * 50)
    assert held_out_auc(Watched(), Watched(), score_cells, 1, 1) is not None
    assert max(Watched.seen) <= 64


def test_error_of_a_mean_auc_by_hand() -> None:
    one = auc_error(0.5, 40, 40)
    assert mean_auc_error([0.5], 40) == pytest.approx(one)
    assert mean_auc_error([0.5] * 3, 40) == pytest.approx(one * np.sqrt(1 / 3 + 2 / 3 / 4))
    assert mean_auc_error([0.5] * 50, 40) == pytest.approx(one * np.sqrt(1 / 5 + 4 / 5 / 4))  # same showers
    apart = np.sqrt(one**2 * (1 / 2 + 1 / 8) + (0.5 * 0.4**2 - 0.75 * one**2) / 2)
    assert mean_auc_error([0.3, 0.7], 40) == pytest.approx(apart)


def test_perfect_values() -> None:
    assert [perfect_value(m) for m in ("auc_low_5_epochs", "mean_ratio", "coverage", "fpd")] == [0.5, 1, 1, 0]
