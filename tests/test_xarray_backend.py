"""The xarray engine: dense values, laziness, many parts, and what it does not claim to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from data_fixtures import make_part

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import RecipeSpec, SplitSpec
from pipeline.data.preprocess import preprocess_part
from pipeline.data.store import Part, StoreError
from pipeline.data.transforms import Transform
from pipeline.data.xarray_backend import CaloforgeBackend

Make = Callable[..., Showers]


def test_a_part_opens_dense_with_units_and_coordinates(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    showers = make_showers(7)
    part = make_part(tmp_path, showers)
    for path in (part.path, str(part.path), part.store):
        with xr.open_dataset(path, engine=CaloforgeBackend) as content:
            np.testing.assert_array_equal(content.energy, showers.energy)
            assert content.energy.dims == ("shower", "r", "phi", "z") and content.energy.attrs["units"] == "MeV"
            np.testing.assert_allclose(content.r, mesh.r_mm)
            np.testing.assert_allclose(content.incident_energy, showers.incident_energy, rtol=1e-6)
            assert content.attrs["detector"] == "SiW" and content.z.attrs["units"] == "mm"


def test_many_parts_are_one_data_set(tmp_path: Path, make_showers: Make) -> None:
    blocks = [make_showers(n, seed=n) for n in (3, 5)]
    parts = [make_part(tmp_path, block, name) for block, name in zip(blocks, "ab", strict=True)]
    content = xr.open_dataset([part.path for part in parts], engine=CaloforgeBackend, chunks={})  # type: ignore[arg-type]
    energy = np.concatenate([block.energy for block in blocks])
    np.testing.assert_array_equal(content.energy.compute(), energy)
    np.testing.assert_array_equal(content.energy[[6, 1, 1], 2, ::2], energy[[6, 1, 1], 2, ::2])
    np.testing.assert_array_equal(content.energy[4], energy[4])
    np.testing.assert_array_equal(content.energy[2:5, :, [3, 0], -1], energy[2:5][:, :, [3, 0], -1])
    np.testing.assert_array_equal(content.energy[::-2], energy[::-2])


def test_only_the_showers_asked_for_are_read(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = make_part(tmp_path, make_showers(50))
    asked = []
    monkeypatch.setattr(Part, "take", lambda self, rows: (asked.append(len(rows)), take(self, rows))[1])
    content = xr.open_dataset(part.path, engine=CaloforgeBackend)
    assert asked == []
    content.energy[10:13].load()
    assert asked == [3]


take = Part.take


def test_a_preprocessed_part_shows_its_fill(tmp_path: Path, make_showers: Make) -> None:
    showers, recipe = make_showers(9), RecipeSpec.model_validate([{"log": {}}])
    part = make_part(tmp_path, showers)
    preprocess_part(part.path, tmp_path / "out.json", recipe, SplitSpec())
    content = xr.open_dataset(tmp_path / "out.json", engine=CaloforgeBackend)
    expected = Transform.from_recipe(recipe, part.mesh).prefix(showers.energy, showers.incident_energy)
    np.testing.assert_allclose(content.energy, expected, rtol=1e-6)
    assert content.energy.attrs["units"] == "1"


def test_other_files_are_left_to_other_engines(tmp_path: Path, make_showers: Make) -> None:
    part = make_part(tmp_path, make_showers(3))
    (tmp_path / "x.json").write_text("{}")
    backend = CaloforgeBackend()
    assert backend.guess_can_open(part.path) and backend.guess_can_open(str(part.store))
    assert not any(backend.guess_can_open(tmp_path / name) for name in ("x.json", "no.zarr", "a.h5"))


def test_parts_on_two_meshes_are_refused(tmp_path: Path, make_showers: Make) -> None:
    parts = [make_part(tmp_path, make_showers(3, mesh=CylinderMesh(n, 6, 5, 2.0, 3.0)), str(n)) for n in (2, 4)]
    with pytest.raises(StoreError, match="expected parts on one mesh, got"):
        xr.open_dataset([part.path for part in parts], engine=CaloforgeBackend)  # type: ignore[arg-type]


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a\.h5: expected the manifest \(\.json\) or the store"):
        xr.open_dataset(tmp_path / "a.h5", engine=CaloforgeBackend)
