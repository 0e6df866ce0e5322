"""Perturbations: what each leaves alone, what it changes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.calorimeter import RaggedShowers, Showers
from pipeline.evaluation.perturbations import (
    PERTURBATIONS,
    drop_layer,
    exchange_cells,
    fullest_layer,
    quarter_turn,
    raise_threshold,
    reflect_phi,
    rotate_phi,
    scale_energy,
    smear_cells,
)


@pytest.fixture
def showers(make_showers: Callable[..., Showers]) -> RaggedShowers:
    return RaggedShowers.from_dense(make_showers(50))


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def dense(showers: RaggedShowers) -> np.ndarray:
    return showers.dense().energy


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_conditions_stay_and_hits_stay_in_order(name, showers, generator) -> None:
    made = PERTURBATIONS[name].apply(showers, generator, 0.1)
    np.testing.assert_array_equal(made.incident_energy, showers.incident_energy)
    assert made.mesh == showers.mesh and made.energy.dtype == np.float32 and (made.energy > 0).all()
    steps = np.diff(made.cell.astype(np.int64))[np.diff(made.shower_of_hit) == 0]
    assert (steps > 0).all()


@pytest.mark.parametrize("name", [n for n, p in PERTURBATIONS.items() if p.per_shower and "layer" not in n])
def test_per_shower_perturbations_may_come_block_by_block(name, showers) -> None:
    perturbation = PERTURBATIONS[name]
    whole = perturbation.apply(showers, np.random.default_rng(1), 0.1)
    generator = np.random.default_rng(1)
    blocks = [perturbation.apply(showers.take(rows), generator, 0.1) for rows in np.array_split(np.arange(50), 3)]
    np.testing.assert_array_equal(RaggedShowers.concatenate(blocks).energy, whole.energy)


def test_rotation_is_a_roll_and_comes_back(showers) -> None:
    np.testing.assert_array_equal(dense(rotate_phi(showers, 2)), np.roll(dense(showers), 2, axis=2))
    np.testing.assert_array_equal(dense(rotate_phi(rotate_phi(showers, 2), -2)), dense(showers))
    np.testing.assert_array_equal(dense(rotate_phi(showers, showers.mesh.n_phi)), dense(showers))
    assert quarter_turn(50) == 12 and quarter_turn(16) == 4 and quarter_turn(1) == 1


def test_reflection_is_a_flip_and_comes_back(showers) -> None:
    np.testing.assert_array_equal(dense(reflect_phi(showers)), dense(showers)[:, :, ::-1])
    np.testing.assert_array_equal(dense(reflect_phi(reflect_phi(showers))), dense(showers))


def test_scale_smear_and_threshold(showers, generator) -> None:
    np.testing.assert_allclose(dense(scale_energy(showers, 1.01)), 1.01 * dense(showers), rtol=1e-6)
    quotient = smear_cells(showers, 0.05, generator).energy / showers.energy
    assert quotient.std() == pytest.approx(0.05, rel=0.1) and quotient.mean() == pytest.approx(1, abs=0.005)
    assert raise_threshold(showers, 0.5).energy.min() >= 0.5


def test_a_dropped_layer_is_empty_and_the_others_stay(showers) -> None:
    layer = fullest_layer(showers)
    assert dense(showers).sum(axis=(0, 1, 2)).argmax() == layer
    made = dense(drop_layer(showers, layer))
    assert (made[..., layer] == 0).all()
    np.testing.assert_array_equal(np.delete(made, layer, axis=3), np.delete(dense(showers), layer, axis=3))


def test_exchange_keeps_every_cells_values_and_breaks_the_showers(showers, generator) -> None:
    made = exchange_cells(showers, 10, generator)
    np.testing.assert_array_equal(np.sort(dense(made), axis=0), np.sort(dense(showers), axis=0))
    assert (made.visible_energy != showers.visible_energy).mean() > 0.9


def test_exchange_stays_among_neighbouring_energies(showers, generator) -> None:
    order = np.argsort(showers.incident_energy)
    made = exchange_cells(showers, 10, generator)
    for rows in np.array_split(order, 5):
        np.testing.assert_allclose(dense(made)[rows].sum(axis=0), dense(showers)[rows].sum(axis=0), rtol=1e-5)


def test_impossible_perturbations_are_refused(showers, generator) -> None:
    with pytest.raises(ValueError, match="scale_energy: expected a factor > 0, got 0"):
        scale_energy(showers, 0)
    with pytest.raises(ValueError, match="smear_cells: expected a width >= 0, got -1"):
        smear_cells(showers, -1, generator)
    with pytest.raises(ValueError, match="drop_layer: expected a layer in 0 to 4, got 5"):
        drop_layer(showers, 5)
    with pytest.raises(ValueError, match="exchange_cells: expected at least 2 neighbours, got 1"):
        exchange_cells(showers, 1, generator)
