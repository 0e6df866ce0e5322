"""Response: fits find what was put in, terms that are not there are held at 0, means and slopes have honest errors."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.response import (
    ResponseBin,
    angle_edges,
    energy_edges,
    fit_resolution,
    growth_per_doubling,
    means,
    response,
)


def exact_bins(a: float, b: float, c: float, gev=(1, 2, 4, 8, 16, 32), error: float = 0.01) -> list[ResponseBin]:
    """Bins whose resolution is a/sqrt(E) (+) b (+) c/E to the last digit, each with a relative error."""
    sigma = [float(np.sqrt(a**2 / e + b**2 + c**2 / e**2)) for e in gev]
    return [ResponseBin(0, 0, 1e3 * e, 100, 1.0, 0.01, s, error * s) for e, s in zip(gev, sigma, strict=True)]


def test_all_three_terms_are_found() -> None:
    fit = fit_resolution(exact_bins(0.135, 0.01, 0.2))
    assert fit is not None
    assert (fit.stochastic, fit.constant, fit.noise) == (
        pytest.approx(0.135),
        pytest.approx(0.01),
        pytest.approx(0.2),
    )
    assert fit.chi2 == pytest.approx(0, abs=1e-9) and fit.ndf == 3


def test_terms_that_are_not_there_are_held_at_zero() -> None:
    fit = fit_resolution(exact_bins(0.135, 0.0, 0.0))
    assert fit is not None and fit.stochastic == pytest.approx(0.135)
    assert fit.constant < 1e-4 and fit.noise < 1e-4


def test_a_square_that_would_be_negative_is_held() -> None:
    """(sigma/E)^2 = .02/E - .0005: the best b^2 is negative, so b is 0 and has no error."""
    gev = np.array([1, 2, 4, 8, 16])
    sigma = np.sqrt(0.02 / gev - 5e-4)
    bins = [ResponseBin(0, 0, 1e3 * e, 100, 1.0, 0.01, s, 0.01 * s) for e, s in zip(gev, sigma, strict=True)]
    fit = fit_resolution(bins)
    assert fit is not None and (fit.constant, fit.constant_error) == (0, 0) and fit.chi2 > 10
    assert fit.ndf == 5 - sum(x > 0 for x in (fit.stochastic, fit.noise))


def test_below_four_bins_there_is_no_noise_term() -> None:
    fit = fit_resolution(exact_bins(0.1, 0.02, 0.0, gev=(1, 4, 16)))
    assert fit is not None and fit.noise == fit.noise_error == 0 and fit.ndf == 1
    assert (fit.stochastic, fit.constant) == (pytest.approx(0.1), pytest.approx(0.02))


def test_errors_of_the_fit_are_the_spread_of_many_fits() -> None:
    rng = np.random.default_rng(1)
    incident = np.repeat(1e3 * 2.0 ** np.arange(6), 300)
    width = np.sqrt(0.15**2 / (incident / 1e3) + 0.03**2)
    fits = []
    for _ in range(100):
        energy = incident * (1 + width * rng.normal(size=len(incident)))
        fits.append(fit_resolution(response(incident, energy, energy_edges(incident, 6))))
    assert np.mean([f.stochastic for f in fits]) == pytest.approx(0.15, abs=0.005)
    assert np.median([f.stochastic_error for f in fits]) == pytest.approx(np.std([f.stochastic for f in fits]), rel=0.5)
    assert np.mean([f.chi2 / f.ndf for f in fits]) == pytest.approx(1, abs=0.3)


def test_growth_per_doubling_and_its_error() -> None:
    rng = np.random.default_rng(2)
    slopes = []
    for _ in range(200):
        incident = np.exp(rng.uniform(np.log(1e3), np.log(16e3), size=200))
        slope, error = growth_per_doubling(incident, 10 + 3 * np.log2(incident) + rng.normal(0, 2, size=200))
        slopes.append(slope)
    assert np.mean(slopes) == pytest.approx(3, abs=0.03)
    assert error == pytest.approx(np.std(slopes), rel=0.3)
    assert growth_per_doubling(np.full(5, 1e3), np.arange(5.0)) is None


def test_means_in_bins_by_hand() -> None:
    bins = means(np.array([1.0, 1.0, 3.0]), np.array([2.0, 4.0, 7.0]), np.array([0.0, 2.0, 4.0]))
    assert [(b.low, b.high, b.x, b.n, b.mean) for b in bins] == [(0, 2, 1, 2, 3), (2, 4, 3, 1, 7)]
    assert bins[0].mean_error == pytest.approx(1) and bins[1].mean_error == 0


def test_angles_of_few_values_get_a_bin_each() -> None:
    np.testing.assert_allclose(angle_edges(np.array([1.2, 1.5, 1.2, 1.2]), 4), [1.2, 1.35, 1.5])
    assert len(angle_edges(np.full(3, np.pi / 2), 4)) == 2
    np.testing.assert_allclose(angle_edges(np.linspace(1, 2, 50), 4), [1, 1.25, 1.5, 1.75, 2])
