"""Transforms: round trips, forward-inverse-forward, one implementation for NumPy and torch, reference values."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import RecipeSpec
from pipeline.data.hitwise import energy_of_prefix
from pipeline.data.observed import observed
from pipeline.data.spectrum import EnergySpectrum
from pipeline.data.statistics import CellStatistics
from pipeline.data.transforms import Transform, TransformError

MESH = CylinderMesh(4, 6, 5, 2.0, 3.0)
THRESHOLD = 5e-4
INVERTIBLE: dict[str, list[Any]] = {
    "nothing": [],
    "divide": ["divide_by_incident_energy"],
    "divide by GeV": [{"divide_by_incident_energy": {"unit": "GeV"}}],
    "log": [{"log": {"epsilon_mev": 1e-3}}],
    "log1p": [{"log1p": {"scale_mev": 1e-2}}],
    "power": [{"power": {"exponent": 0.3}}],
    "calodiffusion": ["divide_by_incident_energy", {"logit": {"alpha": 1e-6, "scale": 2.0}}],
    "standardised log": [{"log": {"epsilon_mev": 1e-3}}, "standardise"],
    "standardised per layer": ["divide_by_incident_energy", "power", {"standardise": {"per": ["z"], "over": "hits"}}],
    "standardised per cell": [{"log1p": {}}, {"standardise": {"per": ["r", "phi", "z"]}}],
    "largest shower": ["divide_by_largest_shower", {"log": {"epsilon_mev": 1e-6}}, "standardise"],
    "largest cell": ["divide_by_largest_cell", {"log1p": {"scale_mev": 1e-4}}, {"standardise": {"per": ["z"]}}],
    "quantile": ["divide_by_quantile", {"power": {"exponent": 0.25}}, {"standardise": {"over": "hits"}}],
    "layer fractions": ["layer_fractions", {"power": {"exponent": 0.5}}, "standardise"],
}
LOSSY: dict[str, list[Any]] = {
    "cut": [{"cut": {"threshold_mev": 0.2}}, "log"],
    "rebin": [{"rebin": {"factors": [2, 3, 5]}}, "log1p", "standardise"],
    "rebin, cut": [{"rebin": {"factors": [1, 2, 1]}}, {"cut": {"threshold_mev": 0.5}}, "power"],
    "crop": [{"crop": {"cells": [3, 6, 4]}}, "divide_by_incident_energy", {"standardise": {"per": ["r", "z"]}}],
    "calodream": ["layer_fractions", {"noise": {"width": 1e-9}}, {"logit": {"scale": 1.0}}, "standardise"],
    "noise on energies": [{"noise": {"width": 4e-4}}, "log", {"standardise": {"per": ["r", "phi", "z"]}}],
    "rebinned quantile": [{"rebin": {"factors": [2, 3, 5]}}, {"divide_by_quantile": {"q": 0.5}}, "log1p"],
    "crop, rebin, cut": [
        {"crop": {"cells": [2, 6, 4]}},
        {"rebin": {"factors": [2, 3, 2]}},
        {"cut": {"threshold_mev": 0.3}},
        {"logit": {"scale": 1e4}},
        "standardise",
    ],
}


def recipe(steps: list[Any]) -> RecipeSpec:
    return RecipeSpec.model_validate(steps)


def some_showers(seed: int, n: int = 6, largest_mev: float = 1000.0) -> Showers:
    """Sparse showers over many decades; every cell is 0 or at least the readout threshold."""
    rng = np.random.default_rng(seed)
    energy = np.exp(rng.uniform(math.log(THRESHOLD), math.log(largest_mev), size=(n, *MESH.shape)))
    energy *= rng.uniform(size=energy.shape) < 0.4
    incident = np.exp(rng.uniform(math.log(1e3), math.log(1e6), size=n))
    return Showers(energy.astype(np.float32), incident, np.full(n, 1.57), np.zeros(n), MESH, "SiW")


def fitted(steps: list[Any], showers: Showers) -> Transform:
    transform = Transform.from_recipe(recipe(steps), MESH)
    ragged = RaggedShowers.from_dense(showers)
    energies = EnergySpectrum.of(showers.visible_energy, transform.on_mesh(ragged).energy, transform.mesh.n_cells)
    transform = transform.fit_division(energies)
    return transform.fit(observed(transform, transform.prefix_ragged(ragged)))


def layers(transform: Transform, showers: Showers) -> np.ndarray:
    """Layer energies (n, z) in MeV behind crop, rebin and cut."""
    return transform.on_mesh(RaggedShowers.from_dense(showers)).dense(np.float64).energy.sum(axis=(1, 2))


def epsilon(steps: list[Any], incident: np.ndarray) -> np.ndarray:
    """The step's own epsilon (MeV): log its own, power 1e-3, logit 2 alpha E_inc."""
    text = json.dumps(steps)
    return (2e-6 * incident if "logit" in text else np.full_like(incident, 1e-3))[:, None, None, None]


@pytest.mark.parametrize("steps", INVERTIBLE.values(), ids=INVERTIBLE)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_invertible_recipes_give_the_energies_back(steps: list[Any], seed: int) -> None:
    showers = some_showers(seed, largest_mev=500.0)
    transform = fitted(steps, showers)
    there = transform.forward(showers.energy, showers.incident_energy)
    back = transform.inverse(there, showers.incident_energy, layers(transform, showers))
    assert (np.abs(back - showers.energy) <= 1e-5 * (showers.energy + epsilon(steps, showers.incident_energy))).all()
    assert (back[showers.energy == 0] == 0).all()


@pytest.mark.parametrize("steps", [*INVERTIBLE.values(), *LOSSY.values()], ids=[*INVERTIBLE, *LOSSY])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_forward_inverse_forward_is_forward(steps: list[Any], seed: int) -> None:
    showers = some_showers(seed, largest_mev=500.0)
    transform = fitted(steps, showers)
    there = transform.forward(showers.energy, showers.incident_energy)
    raw = transform.inverse_raw(there, showers.incident_energy, layers(transform, showers))
    assert raw.shape == showers.energy.shape
    np.testing.assert_allclose(transform.forward(raw, showers.incident_energy), there, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [*INVERTIBLE.values(), *LOSSY.values()], ids=[*INVERTIBLE, *LOSSY])
def test_torch_and_numpy_agree(steps: list[Any]) -> None:
    showers = some_showers(3, largest_mev=500.0)
    transform, incident = fitted(steps, showers), torch.tensor(showers.incident_energy)
    there = transform.forward(showers.energy, showers.incident_energy)
    tensor = transform.forward(torch.tensor(showers.energy), incident)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), there, rtol=2e-4, atol=2e-5)
    energy = layers(transform, showers)
    back = transform.inverse_raw(tensor.double(), incident, torch.tensor(energy))
    other = transform.inverse_raw(tensor.double().numpy(), incident.numpy(), energy)
    np.testing.assert_allclose(back, other, atol=1e-9)


@pytest.mark.parametrize("steps", [*INVERTIBLE.values(), *LOSSY.values()], ids=[*INVERTIBLE, *LOSSY])
def test_the_ragged_prefix_is_the_dense_one(steps: list[Any]) -> None:
    showers = some_showers(4, largest_mev=500.0)
    transform = Transform.from_recipe(recipe(steps), MESH)
    ragged = transform.prefix_ragged(RaggedShowers.from_dense(showers))
    dense = np.full((len(showers), transform.mesh.n_cells), transform.fill)
    dense[ragged.shower_of_hit, ragged.cell] = ragged.energy
    expected = transform.prefix(showers.energy, showers.incident_energy)
    np.testing.assert_allclose(dense.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [*INVERTIBLE.values(), *LOSSY.values()], ids=[*INVERTIBLE, *LOSSY])
def test_a_state_survives_json(steps: list[Any]) -> None:
    showers = some_showers(5, largest_mev=500.0)
    transform = fitted(steps, showers)
    again = Transform.from_state(json.loads(json.dumps(transform.state())))
    assert again.state() == transform.state()
    np.testing.assert_array_equal(
        again.forward(showers.energy, showers.incident_energy),
        transform.forward(showers.energy, showers.incident_energy),
    )
    np.testing.assert_array_equal(again.cell_statistics()["hit_rate"], transform.cell_statistics()["hit_rate"])


@pytest.mark.parametrize("steps", LOSSY.values(), ids=LOSSY)
def test_pointwise_takes_energies_that_are_on_the_mesh_already(steps: list[Any]) -> None:
    showers = some_showers(6, largest_mev=500.0)
    transform = fitted(steps, showers)
    there = transform.forward(showers.energy, showers.incident_energy)
    mev = transform.inverse(there, showers.incident_energy, layers(transform, showers))
    np.testing.assert_allclose(transform.pointwise(mev, showers.incident_energy), there, rtol=1e-6, atol=1e-6)


def test_below_half_the_threshold_is_exactly_zero() -> None:
    transform = Transform.from_recipe(recipe([{"cut": {"threshold_mev": 0.1}}]), MESH)
    values = np.full((1, *MESH.shape), 0.049)
    values[0, 0, 0, 0] = 0.051
    back = transform.inverse(values, np.ones(1))
    assert back[0, 0, 0, 0] == 0.051 and np.count_nonzero(back) == 1


def test_negative_network_values_are_no_energy() -> None:
    transform = Transform.from_recipe(recipe([{"power": {"exponent": 0.3}}]), MESH)
    assert not transform.inverse(np.full((1, *MESH.shape), -3.0), np.ones(1)).any()


def test_rebinning_conserves_energy_and_spreads_it_evenly() -> None:
    showers = some_showers(7)
    transform = Transform.from_recipe(recipe([{"rebin": {"factors": [2, 3, 1]}}]), MESH)
    back = transform.inverse_raw(transform.forward(showers.energy, showers.incident_energy), showers.incident_energy)
    np.testing.assert_allclose(back.sum(axis=(1, 2, 3)), showers.visible_energy, rtol=1e-6)
    assert (back[:, 0, 0] == back[:, 1, 2]).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    factors=st.sampled_from([(1, 1, 1), (2, 3, 1), (1, 6, 5), (4, 6, 5)]),
    cells=st.sampled_from([(4, 6, 5), (2, 6, 5), (4, 6, 5)]),
)
@settings(max_examples=20, deadline=None)
def test_crop_and_rebin_conserve_the_energy_of_what_they_keep(
    seed: int, factors: tuple[int, int, int], cells: tuple[int, int, int]
) -> None:
    showers, kept = some_showers(seed), min(cells[0], 4) // factors[0] * factors[0]
    steps = [{"crop": {"cells": [max(kept, factors[0]), 6, 5]}}, {"rebin": {"factors": factors}}]
    transform = Transform.from_recipe(recipe(steps), MESH)
    there = transform.forward(showers.energy, showers.incident_energy)
    expected = showers.energy[:, : max(kept, factors[0])].sum(axis=(1, 2, 3), dtype=float)
    np.testing.assert_allclose(there.sum(axis=(1, 2, 3)), expected, rtol=1e-6)
    ragged = transform.on_mesh(RaggedShowers.from_dense(showers))
    np.testing.assert_allclose(ragged.visible_energy, expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [*INVERTIBLE.values(), *LOSSY.values()], ids=[*INVERTIBLE, *LOSSY])
def test_stored_hits_give_the_energies_back(steps: list[Any]) -> None:
    showers = some_showers(14, largest_mev=500.0)
    transform = fitted(steps, showers)
    on_mesh = transform.on_mesh(RaggedShowers.from_dense(showers))
    incident = np.repeat(on_mesh.incident_energy, on_mesh.row_size)
    back = energy_of_prefix(transform, transform.prefix_of_hits(on_mesh).energy, incident)
    np.testing.assert_allclose(back, on_mesh.energy, rtol=1e-4, atol=1e-3)


STANDARDISED = {name: steps for name, steps in (INVERTIBLE | LOSSY).items() if "standardise" in json.dumps(steps)}


@pytest.mark.parametrize("steps", STANDARDISED.values(), ids=STANDARDISED)
def test_what_is_observed_on_hits_is_what_stands_before_standardise(steps: list[Any]) -> None:
    showers = some_showers(15, n=40, largest_mev=500.0)
    transform = fitted([*steps[:-1], {"standardise": {"per": ["r", "phi", "z"]}}], showers)
    before = Transform.from_recipe(recipe(steps[:-1]), MESH)
    before = replace(before, steps=transform.steps[:-1])
    values = before.forward(showers.energy, showers.incident_energy)
    tables = transform.cell_statistics()
    np.testing.assert_allclose(tables["mean_all"], values.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tables["std_all"], values.std(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["divide_by_incident_energy"], 0.01),
        ([{"divide_by_incident_energy": {"unit": "GeV"}}], 10.0),
        ([{"log": {"epsilon_mev": 1e-3}}], math.log(20 + 1e-3)),
        ([{"log1p": {"scale_mev": 0.5}}], math.log(41)),
        ([{"power": {"exponent": 0.5}}], math.sqrt(20)),
        (
            ["divide_by_incident_energy", {"logit": {"alpha": 1e-6, "scale": 2.0}}],
            math.log((1e-6 + (1 - 2e-6) * 0.005) / (1 - 1e-6 - (1 - 2e-6) * 0.005)),
        ),
    ],
)
def test_reference_values(steps: list[Any], expected: float) -> None:
    """20 MeV of a 2 GeV particle; the logit is that of CaloDiffusion, arXiv:2308.03876."""
    values = Transform.from_recipe(recipe(steps), MESH).forward(np.full((1, *MESH.shape), 20.0), np.array([2000.0]))
    assert values[0, 0, 0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("per", [[], ["z"], ["r", "z"], ["r", "phi", "z"]])
def test_standardised_values_have_mean_0_and_deviation_1(per: list[str]) -> None:
    showers = some_showers(8, n=200)
    steps = [{"log1p": {}}, {"standardise": {"per": per}}]
    values = fitted(steps, showers).forward(showers.energy, showers.incident_energy)
    axes = (0, *(i for i, name in enumerate(("r", "phi", "z"), start=1) if name not in per))
    np.testing.assert_allclose(values.mean(axis=axes), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=axes), 1, atol=1e-6)


def test_cells_that_never_vary_get_deviation_1() -> None:
    showers = some_showers(9)
    energy = showers.energy.copy()
    energy[:, 1] = 0
    energy[:, 2] = 7.25
    quiet = Showers(**{**vars(showers), "energy": energy})
    values = fitted([{"log": {}}, {"standardise": {"per": ["r", "phi", "z"]}}], quiet).forward(
        quiet.energy, quiet.incident_energy
    )
    assert np.abs(values[:, 1:3]).max() < 1e-5


def test_the_recipe_is_cut_at_its_first_fitted_step() -> None:
    transform = fitted(["divide_by_incident_energy", "power", "standardise"], some_showers(10))
    x, e = some_showers(10).energy, some_showers(10).incident_energy
    assert transform.n_prefix == 2
    np.testing.assert_array_equal(transform.suffix(transform.prefix(x, e), e), transform.forward(x, e))


def test_further_leading_axes_are_carried_along() -> None:
    showers = some_showers(11, n=6)
    transform = fitted(INVERTIBLE["standardised per layer"], showers)
    flat = transform.forward(showers.energy, showers.incident_energy)
    folded = transform.forward(showers.energy.reshape(2, 3, *MESH.shape), showers.incident_energy.reshape(2, 3))
    np.testing.assert_array_equal(folded.reshape(flat.shape), flat)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: t.forward(np.ones((1, *MESH.shape)), np.ones(1)), "standardise: expected a fitted transform"),
        (lambda t: t.forward(np.ones((1, 2, 2, 2)), np.ones(1)), r"expected \(…, 4, 6, 5\), got \(1, 2, 2, 2\)"),
        (lambda t: t.fit(CellStatistics.empty((2, 2, 2))), r"statistics on the mesh \(4, 6, 5\), got \(2, 2, 2\)"),
        (lambda t: t.fit(CellStatistics.empty(MESH.shape)), "got those of no shower; add data or raise"),
        (lambda t: t.cell_statistics(), "cell_statistics: expected a fitted transform"),
        (lambda t: Transform.from_state({"recipe": []}), "expected a state written by merge, got: KeyError"),
    ],
)
def test_misuse_is_an_error(act: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        act(Transform.from_recipe(recipe(["standardise"]), MESH))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["divide_by_largest_cell"], "divide_by_largest_cell: expected a fitted transform, got a recipe"),
        (["layer_fractions"], "layer_fractions: expected layer energies for the inverse, got none"),
    ],
)
def test_an_inverse_without_its_numbers_is_an_error(steps: list[Any], message: str) -> None:
    with pytest.raises(TransformError, match=message):
        Transform.from_recipe(recipe(steps), MESH).inverse(np.ones((1, *MESH.shape)), np.ones(1))


def test_a_division_needs_training_showers() -> None:
    with pytest.raises(TransformError, match="divide_by_quantile: expected training showers with hits, got none"):
        Transform.from_recipe(recipe(["divide_by_quantile"]), MESH).fit_division(EnergySpectrum.empty())
