"""Laws of every single step, with NumPy and torch: round trip, monotone, finite, and what labels it reads."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh
from pipeline.config import RecipeSpec
from pipeline.config.recipes import Step as StepSpec
from pipeline.data.layers import Noise, from_layer_ratios, layer_ratios
from pipeline.data.spectrum import EnergySpectrum
from pipeline.data.statistics import CellStatistics
from pipeline.data.steps import GEOMETRY, POINTWISE
from pipeline.data.transforms import Transform

MESH = CylinderMesh(2, 3, 4, 1.0, 1.0)
LARGEST_MEV = 2e4
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "divide_by_incident_energy": [{}, {"unit": "GeV"}],
    "divide_by_largest_shower": [{}],
    "divide_by_largest_cell": [{}],
    "divide_by_quantile": [{}, {"q": 0.5}],
    "layer_fractions": [{}],
    "noise": [{"width": 1e-4}],
    "log": [{}, {"epsilon_mev": 1e-6}],
    "log1p": [{}],
    "power": [{}, {"exponent": 1.0}],
    "logit": [{"scale": 2 * LARGEST_MEV}],
    "standardise": [{"per": per, "over": over} for per in ([], ["z"], ["r", "phi", "z"]) for over in ("all", "hits")],
}
STEPS = {f"{name} {json.dumps(options)}": {name: options} for name, many in OPTIONS.items() for options in many}
READS = {"divide_by_incident_energy": {"incident_energy"}}


def energies(seed: int, n: int = 5) -> np.ndarray:
    """Cells from the readout threshold to the largest, some empty."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.uniform(np.log(5e-4), np.log(LARGEST_MEV), size=(n, *MESH.shape)))
    return (values * (rng.uniform(size=values.shape) < 0.5)).astype(np.float32)


def transform_of(step: dict[str, Any]) -> Transform:
    """The step alone, fitted."""
    rng, transform = np.random.default_rng(0), Transform.from_recipe(RecipeSpec.model_validate([step]), MESH)
    spectrum = EnergySpectrum.of(np.array([3 * LARGEST_MEV]), np.geomspace(1, LARGEST_MEV, 99, dtype=np.float32), 99)
    transform = transform.fit_division(spectrum)
    return transform.fit(CellStatistics.of_dense(rng.normal(1, 2, size=(50, *MESH.shape))))


def test_every_step_is_tried_and_declares_its_labels() -> None:
    names = {spec.model_fields["name"].default: spec for spec in get_args(get_args(StepSpec)[0])}
    assert set(names) == {*OPTIONS, *GEOMETRY} == {*POINTWISE, *GEOMETRY}
    assert {name: set(spec.reads) for name, spec in names.items() if spec.reads} == READS


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_the_inverse_gives_the_energies_back(step: dict[str, Any], library: Any, seed: int) -> None:
    energy, incident = energies(seed), np.geomspace(1e3, 1e6, 5)
    transform, x, e = transform_of(step), library(energy.astype(np.float64)), library(incident)
    layer = library(energy.astype(np.float64).sum(axis=(1, 2)))
    there = transform.forward(x, e)
    assert bool(np.isfinite(np.asarray(there)).all())
    back = transform.inverse(there, e, layer)
    np.testing.assert_allclose(np.asarray(back), energy, rtol=1e-6, atol=1e-9 * LARGEST_MEV)
    np.testing.assert_allclose(np.asarray(transform.forward(back, e)), np.asarray(there), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("step", [s for n, s in STEPS.items() if "noise" not in n and "layer" not in n], ids=str)
def test_maps_are_monotone_and_finite_from_0_to_the_largest_cell(step: dict[str, Any]) -> None:
    cells = np.concatenate([[0], np.geomspace(1e-6, LARGEST_MEV, 500)])
    x = np.broadcast_to(cells[:, None, None, None], (501, *MESH.shape))
    values = transform_of(step).forward(x, np.full(501, 1e4))
    assert np.isfinite(values).all() and (np.diff(values, axis=0) > 0).all()


def test_layers_sum_to_one_and_empty_layers_stay_empty() -> None:
    energy = energies(1)
    energy[:, :, :, 2] = 0
    sums = transform_of({"layer_fractions": {}}).forward(energy, np.ones(5)).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, np.broadcast_to([1, 1, 0, 1], (5, 4)), rtol=1e-12)


@pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_layer_ratios_give_the_layers_back(library: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    energy, incident = rng.exponential(10, size=(7, 6)) * (rng.uniform(size=(7, 6)) < 0.7), rng.uniform(100, 200, 7)
    u = layer_ratios(library(energy), library(incident))
    np.testing.assert_allclose(np.asarray(u)[:, 0], energy.sum(axis=1) / incident)
    assert (np.asarray(u)[:, 1:] <= 1 + 1e-12).all() and (np.asarray(u) >= 0).all()
    np.testing.assert_allclose(np.asarray(from_layer_ratios(u, library(incident))), energy, atol=1e-11)


def test_layer_ratios_of_three_layers() -> None:
    """arXiv:2405.09629: 10, 30, 60 MeV of a 1 GeV particle."""
    u = layer_ratios(np.array([[10.0, 30, 60]]), np.array([1000.0]))
    np.testing.assert_allclose(u, [[0.1, 0.1, 30 / 90]])


def test_noise_is_uniform_below_its_width_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(2)
    x = np.where(rng.uniform(size=(300, 9, 16, 45)) < 0.1, rng.uniform(1, 2, size=(300, 9, 16, 45)), 0)
    noisy = Noise(0.5).forward(x, None)
    added = noisy[x == 0] / 0.5
    assert (noisy[x > 0] == x[x > 0]).all() and added.min() >= 0 and added.max() < 1
    counts, n = np.histogram(added, 50, (0, 1))[0], added.size
    assert ((counts - n / 50) ** 2 / (n / 50)).sum() < 100  # chi2 of 49 degrees of freedom: 1e-5
    assert abs(np.corrcoef(noisy[0].ravel()[x[0].ravel() == 0][:2000], added[-2000:])[0, 1]) < 0.1


def test_noise_knows_the_shower_and_neither_its_place_nor_the_library() -> None:
    x = energies(3).astype(np.float64)
    noisy = Noise(1e-4).forward(x, None)
    np.testing.assert_array_equal(Noise(1e-4).forward(x[::-1], None)[::-1], noisy)
    np.testing.assert_array_equal(Noise(1e-4).forward(torch.asarray(x), None).numpy(), noisy)
    np.testing.assert_allclose(Noise(1e-4).forward(torch.asarray(x).float(), None).numpy(), noisy, rtol=1e-6)
    empty = (x[0] == 0) & (x[1] == 0)
    assert not np.isclose(noisy[0][empty], noisy[1][empty]).any()
