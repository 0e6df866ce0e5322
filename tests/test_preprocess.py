"""Preprocess and merge: any number of threads, files and orders gives the same bits; strangers are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import make_part, same

from pipeline.calorimeter import Showers
from pipeline.config import RecipeSpec, SplitSpec
from pipeline.data import preprocess
from pipeline.data.merge import merge
from pipeline.data.preprocess import preprocess_part
from pipeline.data.statistics import Statistics
from pipeline.data.store import Part, StoreError, rows_of
from pipeline.data.transforms import Transform, TransformError
from pipeline.provenance import tree_digest

Make = Callable[..., Showers]
LOG = RecipeSpec.model_validate(
    [
        {"rebin": {"factors": [2, 3, 1]}},
        "divide_by_incident_energy",
        {"log": {"epsilon_mev": 1e-6}},
        {"standardise": {"per": ["z"]}},
    ]
)
SPLITS = SplitSpec()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "BLOCK_HITS", 500)


def preprocessed(part: Part, folder: Path, recipe: RecipeSpec = LOG, **options: Any) -> Path:
    path = folder / part.path.name
    preprocess_part(part.path, path, recipe, options.pop("splits", SPLITS), **options)
    return path


def test_the_prefix_is_stored_as_the_transform_makes_it(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(70))
    out = Part.open(preprocessed(part, tmp_path / "out"))
    transform = Transform.from_recipe(LOG, part.mesh)
    assert same(out.read(), transform.prefix_ragged(part.read()))
    assert out.fill == transform.fill == pytest.approx(np.log(1e-6)) and out.mesh == transform.mesh
    np.testing.assert_array_equal(out.shower_hash, part.shower_hash)
    out.verify()


def test_threads_change_nothing(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(100))
    one, four = (preprocessed(part, tmp_path / str(n), threads=n) for n in (1, 4))
    assert one.read_bytes() == four.read_bytes()
    assert one.with_suffix(".npz").read_bytes() == four.with_suffix(".npz").read_bytes()
    assert tree_digest(one.with_suffix(".zarr")) == tree_digest(four.with_suffix(".zarr"))


def test_statistics_are_those_of_the_training_showers_alone(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(100))
    out = preprocessed(part, tmp_path / "out")
    state = Statistics.load(out.with_suffix(".npz")).cells
    rows = rows_of(part, SPLITS, "train")
    train = part.read().take(rows).dense()
    values = Transform.from_recipe(LOG, part.mesh).prefix(train.energy, train.incident_energy)
    assert state.count == len(rows) < 100
    np.testing.assert_allclose(state.tables()["mean_all"], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(state.tables()["std_all"], values.std(axis=0), rtol=1e-5)


def test_merge_does_not_know_the_order_and_fits_as_one_file_would(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(120)
    whole = preprocessed(make_part(tmp_path, showers, "whole"), tmp_path / "out")
    halves = [
        preprocessed(make_part(tmp_path, showers[slice(*ends)], name), tmp_path / "out")
        for name, ends in (("a", (0, 50)), ("b", (50, 120)))
    ]
    assert merge(halves, LOG, showers.mesh) == merge(halves[::-1], LOG, showers.mesh)
    x, e = showers.energy, showers.incident_energy
    one, two = (Transform.from_state(merge(parts, LOG, showers.mesh)).forward(x, e) for parts in ([whole], halves))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_a_recipe_without_fitted_step_still_carries_statistics(tmp_path: Path, make_showers: Make) -> None:
    part, recipe = make_part(tmp_path, make_showers(50)), RecipeSpec.model_validate([{"log1p": {}}])
    state = merge([preprocessed(part, tmp_path / "out", recipe)], recipe, part.mesh)
    assert state["fitted"] is None and state["parts"] == [part.digest]
    assert Transform.from_state(state).cell_statistics()["hit_rate"].mean() == pytest.approx(0.3, abs=0.05)


def test_an_empty_prefix_is_legal(tmp_path: Path, make_showers: Make) -> None:
    part, recipe = make_part(tmp_path, make_showers(50)), RecipeSpec.model_validate(["standardise"])
    out = Part.open(preprocessed(part, tmp_path / "out", recipe))
    assert same(out.read(), part.read()) and out.fill == 0


def test_the_cells_are_shared_with_the_part_where_the_recipe_keeps_them(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, recipe = make_part(tmp_path, make_showers(50)), RecipeSpec.model_validate(["log1p", "standardise"])
    linked = Part.open(preprocessed(part, tmp_path / "linked", recipe))
    files = [path for path in (part.store / "cell").rglob("*") if path.is_file()]
    assert files and all(path.samefile(linked.store / path.relative_to(part.store)) for path in files)

    link = os.link

    def refused(source: str, target: str) -> None:
        if "/cell/" in str(target):
            raise PermissionError("no hard links here")
        link(source, target)

    monkeypatch.setattr("os.link", refused)
    copied = Part.open(preprocessed(part, tmp_path / "copied", recipe))
    assert copied.digest == linked.digest and same(copied.read(), linked.read())
    linked.verify()


def test_the_manifest_is_keyed_by_content(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(50))
    content = json.loads(preprocessed(part, tmp_path / "out").read_text())
    refitted = RecipeSpec.model_validate({"steps": [*LOG.model_dump()["steps"][:-1], {"name": "standardise"}]})
    other = json.loads(preprocessed(part, tmp_path / "other", refitted).read_text())
    assert content["part_digest"] == part.digest and content["splits_digest"] == SPLITS.digest()
    assert content["prefix_digest"] == other["prefix_digest"] and content["recipe_digest"] != other["recipe_digest"]


# --------------------------------------------------------------------------------------- refused


def test_values_outside_a_steps_range_are_refused(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(30))
    recipe = RecipeSpec.model_validate([{"logit": {"scale": 0.5}}])
    with pytest.raises(TransformError, match=r"a\.json: shower \d+: expected finite values .*raise logit\.scale"):
        preprocessed(part, tmp_path / "out", recipe)
    assert not list((tmp_path / "out").iterdir())


def test_a_recipe_that_does_not_fit_the_mesh_is_refused(tmp_path: Path, make_showers: Make) -> None:
    part, recipe = make_part(tmp_path, make_showers(5)), RecipeSpec.model_validate([{"rebin": {"factors": [3, 1, 1]}}])
    with pytest.raises(StoreError, match=r"a\.json: expected showers on a mesh .*n_r=4.*got \(3, 1, 1\); correct the"):
        preprocessed(part, tmp_path / "out", recipe)


def test_merge_refuses_strangers(tmp_path: Path, make_showers: Make) -> None:
    a, b = (make_part(tmp_path, make_showers(30, seed=seed), name) for seed, name in ((1, "a"), (2, "b")))
    mine, mesh = preprocessed(a, tmp_path / "out"), a.mesh
    other = preprocessed(b, tmp_path / "recipe", RecipeSpec.model_validate(["log"]))
    split = preprocessed(b, tmp_path / "split", splits=SplitSpec(train=0.5, validation=0.1, test=0.4))
    with pytest.raises(StoreError, match=r"b\.json: expected prefix_digest .*one recipe and one split: delete"):
        merge([mine, other], LOG, mesh)
    with pytest.raises(StoreError, match=r"\.json: expected splits_digest .*one recipe and one split"):
        merge([mine, split], LOG, mesh)
    with pytest.raises(StoreError, match=r"a\.json: expected showers on .*n_r=8.*correct `mesh:`"):
        merge([mine], LOG, type(mesh)(8, 6, 5, 1.0, 3.0))
    with pytest.raises(StoreError, match="expected at least one preprocessed part, got none"):
        merge([], LOG, mesh)
    with pytest.raises(StoreError, match=r"a\.json: expected the manifest of a preprocessed part"):
        merge([a.path], LOG, mesh)


def test_merge_finds_changed_statistics(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(30))
    out = preprocessed(part, tmp_path / "out")
    out.with_suffix(".npz").unlink()
    with pytest.raises(StoreError, match=r"expected a\.npz beside it .*delete .*a\.json and run again"):
        merge([out], LOG, part.mesh)
