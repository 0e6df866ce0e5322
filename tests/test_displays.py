"""Displays conserve energy, keep the strongest cells, and average as NumPy does on dense showers."""

from __future__ import annotations

import numpy as np
import pytest
from test_evaluate import MESH, toy_showers

from pipeline.data.stream import ShowerStream
from pipeline.evaluation import displays
from pipeline.evaluation.displays import average, image_rows, image_tables, side_view


def test_side_views_conserve_energy() -> None:
    showers = toy_showers(1, n=3)
    views = side_view(showers)
    assert views.shape == (3, 2 * MESH.n_r, MESH.n_z)
    np.testing.assert_allclose(views.sum(axis=(1, 2)), showers.visible_energy)


def test_images_span_the_energies() -> None:
    energies = np.random.default_rng(0).uniform(1, 9, size=100)
    chosen = energies[image_rows(energies)]
    assert len(chosen) == 8 and (np.diff(chosen) > 0).all()
    assert len(image_rows(energies[:3])) == 3


def test_all_views_of_a_shower_hold_its_energy() -> None:
    showers = toy_showers(1, n=9)
    table = image_tables(ShowerStream.of(showers), ShowerStream.of(showers))
    assert table["cells"] == list(MESH.shape) and table["reference"] == table["sample"]
    visible = dict(zip(showers.incident_energy, showers.visible_energy, strict=True))
    for image in table["reference"]:
        energy = visible[image["incident_energy_mev"]]
        for view in ("energy_mev", "unrolled_mev"):
            assert np.sum(image[view]) == pytest.approx(energy, rel=1e-3)
        assert np.sum(image["hits"]["energy_mev"]) == pytest.approx(energy, rel=1e-3)
        assert image["hits"]["of"] == len(image["hits"]["cell"])


def test_hits_project_to_the_unrolled_view() -> None:
    stream = ShowerStream.of(toy_showers(2, n=8))
    image = image_tables(stream, stream)["reference"][3]
    _, phi, z = np.unravel_index(image["hits"]["cell"], MESH.shape)
    unrolled = np.zeros((MESH.n_phi, MESH.n_z))
    np.add.at(unrolled, (phi, z), image["hits"]["energy_mev"])
    np.testing.assert_allclose(unrolled, image["unrolled_mev"], rtol=1e-3, atol=1e-3)


def test_of_many_cells_the_strongest_are_kept(monkeypatch) -> None:
    stream = ShowerStream.of(toy_showers(3, n=8))
    whole = image_tables(stream, stream)["sample"][0]["hits"]
    monkeypatch.setattr(displays, "MOST_CELLS", 5)
    kept = image_tables(stream, stream)["sample"][0]["hits"]
    assert kept["of"] == len(whole["cell"]) > 5 == len(kept["cell"]) and kept["cell"] == sorted(kept["cell"])
    assert sorted(kept["energy_mev"]) == sorted(whole["energy_mev"])[-5:]


def test_other_conditions_show_the_nearest_energy() -> None:
    ours, theirs = toy_showers(4, n=40), toy_showers(5, n=60)
    table = image_tables(ShowerStream.of(ours), ShowerStream.of(theirs))
    for left, right in zip(table["reference"], table["sample"], strict=True):
        energy = left["incident_energy_mev"]
        nearest = np.abs(np.log(theirs.incident_energy / energy)).argmin()
        assert right["incident_energy_mev"] == theirs.incident_energy[nearest]


def test_the_average_shower_is_numpys(monkeypatch) -> None:
    showers = toy_showers(6, n=30)
    monkeypatch.setattr(displays, "_BLOCK", 7)
    table = average(ShowerStream.of(showers))
    dense = showers.dense(np.float64).energy
    assert table["showers"] == 30
    for view, axis in (("r_z", 2), ("phi_z", 1)):
        projected = dense.sum(axis=axis)
        np.testing.assert_allclose(table[view]["mean"], projected.mean(axis=0), rtol=1e-3)
        error = projected.std(axis=0, ddof=1) / np.sqrt(30)
        np.testing.assert_allclose(table[view]["error"], error, rtol=1e-3)
