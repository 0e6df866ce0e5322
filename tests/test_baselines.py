"""Baseline samples and predictors: right conditions, right energies, and the null model's one fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from pipeline.calorimeter import RaggedShowers, Showers
from pipeline.config import BUILT_IN_DETECTORS, BaselineSampleSpec, PerturbedSampleSpec, SimulateSpec
from pipeline.evaluation.baselines import PREDICTIVE, PREDICTORS, BoostedFeatures, shape_features
from pipeline.evaluation.observables import observe
from pipeline.evaluation.perturbations import PERTURBATIONS
from pipeline.generation.baselines import independent_cells, nearest_energy, nearest_rows, perturbed
from pipeline.simulation import ENGINES

THRESHOLD_MEV = 0.015


def geant_like(seed: int, n: int) -> RaggedShowers:
    """Parametric showers on the coarse mesh: they lean to a side, as real ones do."""
    spec = SimulateSpec(engine="parametric", files=1, showers=n, energy_gev=(1, 4))
    showers = ENGINES["parametric"](spec, "SiW", BUILT_IN_DETECTORS["SiW"], seed)
    return RaggedShowers.from_dense(showers.rebin((2, 5, 3))).cut(THRESHOLD_MEV)


@pytest.fixture(scope="module")
def training() -> RaggedShowers:
    return geant_like(1, 400)


@pytest.fixture(scope="module")
def asked() -> RaggedShowers:
    return geant_like(2, 120)


def made_by(make: Callable, training: RaggedShowers, asked: RaggedShowers, **changes) -> RaggedShowers:
    spec = BaselineSampleSpec(baseline=make.__name__, **changes)
    blocks = make(spec, asked, training, THRESHOLD_MEV)
    return RaggedShowers.concatenate([RaggedShowers.from_dense(block) for block in blocks])


@pytest.mark.parametrize("make", [nearest_energy, independent_cells])
def test_baselines_answer_row_by_row_at_the_conditions(make, training, asked) -> None:
    made = made_by(make, training, asked)
    np.testing.assert_allclose(made.incident_energy, asked.incident_energy)
    assert made.mesh == asked.mesh and made.energy.min() >= THRESHOLD_MEV * (1 - 1e-6)
    assert made.visible_energy.mean() == pytest.approx(asked.visible_energy.mean(), rel=0.05)
    assert (made_by(make, training, asked).energy == made.energy).all()


def test_nearest_energy_is_a_training_shower_rescaled(training, asked) -> None:
    nearest = np.abs(np.log(training.incident_energy[None] / asked.incident_energy[:, None])).argmin(axis=1)
    np.testing.assert_array_equal(nearest_rows(training, asked, 3)[:, 0], nearest)
    factor = asked.incident_energy / training.incident_energy[nearest]
    expected = training.dense().energy[nearest] * factor[:, None, None, None]
    made = made_by(nearest_energy, training, asked).dense().energy
    np.testing.assert_allclose(made, np.where(expected < THRESHOLD_MEV, 0, expected), rtol=1e-5)


def test_independent_cells_have_the_marginals_and_lack_the_asymmetry(training, asked) -> None:
    truth, made = observe(asked), observe(made_by(independent_cells, training, asked))
    assert made["hits"].mean() == pytest.approx(truth["hits"].mean(), rel=0.06)
    profiles = [t["ring_energy"].mean(axis=0) / t["visible_energy"].mean() for t in (truth, made)]
    assert np.abs(profiles[0] - profiles[1]).sum() < 0.08
    assert made["azimuthal_asymmetry"].mean() < 0.8 * truth["azimuthal_asymmetry"].mean()


def test_more_neighbours_than_training_showers_are_all_of_them(training, asked) -> None:
    assert nearest_rows(training.take(np.arange(7)), asked, 20).shape == (120, 7)


def test_perturbations_can_be_named_in_the_configuration() -> None:
    assert set(get_args(PerturbedSampleSpec.model_fields["perturbed"].annotation)) == set(PERTURBATIONS)


def test_a_perturbed_sample_is_cut_at_the_threshold(make_showers: Callable[..., Showers]) -> None:
    showers = RaggedShowers.from_dense(make_showers(70))
    blocks = list(perturbed(showers, PerturbedSampleSpec(perturbed="raised_threshold"), 0.1))
    assert [len(block) for block in blocks] == [50, 20]
    assert min(block.energy[block.energy > 0].min() for block in blocks) >= 0.2


# ------------------------------------------------------------------------------------ predictors


@pytest.mark.parametrize(
    ("name", "worst"), [("calibrated_cell_sum", 0.14), ("hit_count", 0.2), ("boosted_features", 0.15)]
)
def test_predictors_find_the_energy_and_know_their_spread(name, worst, training, asked) -> None:
    known, wanted = observe(training, PREDICTIVE), observe(asked, PREDICTIVE)
    energy, sigma = PREDICTORS[name](known, wanted)
    away = energy / asked.incident_energy - 1
    assert away.std() < worst and abs(away.mean()) < 0.05
    assert ((energy - asked.incident_energy) / sigma).std() == pytest.approx(1, abs=0.35)


def test_no_feature_reads_the_label(training) -> None:
    other = {**observe(training, PREDICTIVE), "incident_energy": np.ones(len(training))}
    np.testing.assert_array_equal(shape_features(observe(training, PREDICTIVE)), shape_features(other))


def test_boosted_features_can_predict_an_angle_from_lean(training) -> None:
    features = shape_features(observe(training, PREDICTIVE))
    target = features[:, 0] + 0.1 * features[:, 1]
    fitted = BoostedFeatures.fit(features[:300], target[:300])
    assert np.std(fitted.predict(features[300:]) - target[300:]) < 0.5 * np.std(target)
    assert fitted.spread < 0.5 * np.std(target)
