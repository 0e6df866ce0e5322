"""Merge: fits of one and of two rounds are what NumPy makes of all training showers in one go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import make_part

from pipeline.calorimeter import Showers
from pipeline.config import ComputeSpec, RecipeSpec, SplitSpec
from pipeline.data import preprocess
from pipeline.data.merge import merge
from pipeline.data.preprocess import preprocess_part
from pipeline.data.spectrum import RELATIVE_ERROR
from pipeline.data.store import Part, StoreError, rows_of
from pipeline.data.transforms import Transform

Make = Callable[..., Showers]
SPLITS = SplitSpec(train=0.6, validation=0.2, test=0.2)
DIVISIONS: dict[str, Any] = {
    "largest shower": "divide_by_largest_shower",
    "largest cell": "divide_by_largest_cell",
    "quantile": {"divide_by_quantile": {"q": 0.9}},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "BLOCK_HITS", 500)


def preprocessed(parts: list[Part], folder: Path, recipe: RecipeSpec) -> list[Path]:
    for part in parts:
        preprocess_part(part.path, folder / part.path.name, recipe, SPLITS)
    return [folder / part.path.name for part in parts]


def two_parts(folder: Path, make_showers: Make) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """Two parts; energies (n, r, phi, z) and incident energies of their training showers."""
    parts = [make_part(folder, make_showers(60, seed=seed), name) for seed, name in ((1, "a"), (2, "b"))]
    train = [part.read().take(rows_of(part, SPLITS, "train")).dense(np.float64) for part in parts]
    return parts, *(np.concatenate([getattr(t, key) for t in train]) for key in ("energy", "incident_energy"))


@pytest.mark.parametrize("name", DIVISIONS)
def test_a_division_and_standardise_behind_it_are_numpys_in_one_go(
    name: str, tmp_path: Path, make_showers: Make, caplog: pytest.LogCaptureFixture
) -> None:
    parts, energy, incident = two_parts(tmp_path, make_showers)
    steps = [{"rebin": {"factors": [2, 1, 1]}}, DIVISIONS[name], {"log": {"epsilon_mev": 1e-3}}, "standardise"]
    recipe = RecipeSpec.model_validate(steps)
    paths = preprocessed(parts, tmp_path / "out", recipe)
    with caplog.at_level(logging.INFO):
        state = merge(paths, recipe, parts[0].mesh, SPLITS, threads=2)
    assert "standardise behind it: one more pass over all 2 parts" in caplog.text
    assert state == merge(paths[::-1], recipe, parts[0].mesh, SPLITS, compute=ComputeSpec(workers=1))
    transform, coarse = Transform.from_state(state), energy.reshape(-1, 2, 2, *energy.shape[2:]).sum(axis=2)
    scale = {
        "largest shower": energy.sum(axis=(1, 2, 3)).max(),
        "largest cell": coarse.max(),
        "quantile": np.quantile(coarse[coarse > 0], 0.9, method="inverted_cdf"),
    }[name]
    fitted = transform.division.scale_mev
    assert abs(fitted - scale) <= (RELATIVE_ERROR if name == "quantile" else 1e-6) * scale
    values = np.log(coarse / fitted + 1e-3)
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(transform.forward(energy, incident), expected, rtol=1e-6, atol=1e-6)


def test_a_division_alone_needs_one_round(tmp_path: Path, make_showers: Make, caplog: pytest.LogCaptureFixture) -> None:
    parts, energy, incident = two_parts(tmp_path, make_showers)
    recipe = RecipeSpec.model_validate(["divide_by_largest_cell", "power"])
    with caplog.at_level(logging.INFO):
        state = merge(preprocessed(parts, tmp_path / "out", recipe), recipe, parts[0].mesh, SPLITS)
    assert "one more pass" not in caplog.text and "divide_by_largest_cell: " in caplog.text
    values = Transform.from_state(state).forward(energy, incident)
    np.testing.assert_allclose(values, (energy / energy.max()) ** 0.3, rtol=1e-6)


@pytest.mark.parametrize("noise", [[], [{"noise": {"width": 1e-7}}]], ids=["fractions", "noise"])
def test_fractions_of_layers_are_fitted_in_one_round(noise: list[Any], tmp_path: Path, make_showers: Make) -> None:
    parts, energy, incident = two_parts(tmp_path, make_showers)
    recipe = RecipeSpec.model_validate(
        ["layer_fractions", *noise, {"logit": {"scale": 1.5}}, {"standardise": {"per": ["z"]}}]
    )
    state = merge(preprocessed(parts, tmp_path / "out", recipe), recipe, parts[0].mesh)
    values = Transform.from_state(state).forward(energy, incident)
    np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_two_rounds_need_the_splits_of_the_parts(tmp_path: Path, make_showers: Make) -> None:
    parts, *_ = two_parts(tmp_path, make_showers)
    recipe = RecipeSpec.model_validate(["divide_by_largest_cell", "log", "standardise"])
    paths = preprocessed(parts, tmp_path / "out", recipe)
    with pytest.raises(StoreError, match=r"\.json: expected splits_digest .*one recipe and one split"):
        merge(paths, recipe, parts[0].mesh, SplitSpec())
