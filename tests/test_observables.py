"""Observables: slow twins in plain loops, reference values by hand, and the symmetries of a shower."""

from __future__ import annotations

import cmath
from dataclasses import replace

import numpy as np
import pytest

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.evaluation.observables import (
    CELL_LOG10_EDGES,
    OBSERVABLES,
    Hits,
    containment_radius,
    joined,
    layer_correlation,
    moments,
    observe,
    profile,
    rows_of,
)


def slow_twin(energy: np.ndarray, mesh: CylinderMesh) -> dict[str, float]:
    """The scalar observables of one shower, cell by cell."""
    cells = [(i, j, k, float(energy[i, j, k])) for i, j, k in np.ndindex(*mesh.shape) if energy[i, j, k] > 0]
    total = sum(e for *_, e in cells)
    z1 = sum((k + 0.5) * mesh.dz_mm * e for _, _, k, e in cells) / total
    r1 = sum((i + 0.5) * mesh.dr_mm * e for i, _, _, e in cells) / total
    return {
        "visible_energy": total,
        "hits": len(cells),
        "sparsity": 1 - len(cells) / mesh.n_cells,
        "first_moment_z": z1,
        "first_moment_r": r1,
        "second_moment_z": sum(((k + 0.5) * mesh.dz_mm - z1) ** 2 * e for _, _, k, e in cells) / total,
        "second_moment_r": sum(((i + 0.5) * mesh.dr_mm - r1) ** 2 * e for i, _, _, e in cells) / total,
        "azimuthal_asymmetry": abs(sum(e * cmath.exp(1j * mesh.phi_rad[j]) for _, j, _, e in cells)) / total,
    }


def test_scalars_equal_the_loop_over_cells(make_showers, mesh) -> None:
    showers = make_showers(4)
    table = observe(RaggedShowers.from_dense(showers))
    for i in range(4):
        for name, value in slow_twin(showers.energy[i], mesh).items():
            assert table[name][i] == pytest.approx(value, rel=1e-9), name


def test_slices_equal_dense_sums(make_showers) -> None:
    energy = (showers := make_showers(4)).energy.astype(np.float64)
    table = observe(RaggedShowers.from_dense(showers))
    np.testing.assert_allclose(table["layer_energy"], energy.sum(axis=(1, 2)))
    np.testing.assert_allclose(table["ring_energy"], energy.sum(axis=(2, 3)))
    np.testing.assert_allclose(table["sector_energy"], energy.sum(axis=(1, 3)))
    np.testing.assert_array_equal(table["layer_hits"], (energy > 0).sum(axis=(1, 2)))


def test_layer_centres_equal_dense_formula(make_showers, mesh) -> None:
    showers = make_showers(3)
    energy = showers.energy.astype(np.float64)
    x = (mesh.r_mm[:, None] * np.cos(mesh.phi_rad))[None, :, :, None]
    mean = (energy * x).sum(axis=(1, 2)) / energy.sum(axis=(1, 2))
    width = np.sqrt(np.maximum((energy * x**2).sum(axis=(1, 2)) / energy.sum(axis=(1, 2)) - mean**2, 0))
    centres = observe(RaggedShowers.from_dense(showers))["layer_centres"]
    np.testing.assert_allclose(centres[:, : mesh.n_z], mean, atol=1e-9)
    np.testing.assert_allclose(centres[:, mesh.n_z : 2 * mesh.n_z], width, atol=1e-6)


def test_cell_spectrum_counts_each_hit_once(make_showers) -> None:
    showers = make_showers(4)
    table = observe(RaggedShowers.from_dense(showers))
    np.testing.assert_array_equal(table["cell_energy"].sum(axis=1), table["hits"])
    hit = showers.energy[showers.energy > 0].astype(np.float64)
    np.testing.assert_array_equal(table["cell_energy"].sum(axis=0), np.histogram(np.log10(hit), CELL_LOG10_EDGES)[0])


def test_moments_of_two_equal_slices() -> None:
    first, second = moments(np.array([[1.0, 0.0, 1.0]]), size_mm=2.0)
    assert (first[0], second[0]) == (3.0, 4.0)


def test_par04_moments_lie_half_a_cell_lower() -> None:
    energy = np.random.default_rng(0).exponential(size=(5, 7))
    ours, theirs = moments(energy, 3.4), moments(energy, 3.4, "par04")
    np.testing.assert_allclose(ours[0] - theirs[0], 1.7)
    np.testing.assert_allclose(ours[1], theirs[1])


def test_containment_radius_is_linear_within_a_ring(mesh) -> None:
    energy = np.zeros((1, *mesh.shape), dtype=np.float32)
    energy[0, 0, 0, 0], energy[0, 1, 0, 0] = 8, 2
    one = RaggedShowers(
        np.array([2]),
        np.array([0, mesh.n_phi * mesh.n_z], dtype=np.uint16),
        np.array([8, 2], dtype=np.float32),
        np.ones(1),
        np.ones(1),
        np.zeros(1),
        mesh,
        "SiW",
    )
    assert containment_radius(Hits.of(one))[0] == pytest.approx(1.5 * mesh.dr_mm)


def test_rotation_in_phi_changes_only_what_has_a_direction(make_showers) -> None:
    showers = make_showers(6)
    turned = replace(showers, energy=np.roll(showers.energy, 2, axis=2))
    before, after = (observe(RaggedShowers.from_dense(s)) for s in (showers, turned))
    for name in OBSERVABLES:
        if name not in ("sector_energy", "layer_centres"):
            np.testing.assert_allclose(before[name], after[name], rtol=1e-9, err_msg=name)
    assert not np.allclose(before["sector_energy"], after["sector_energy"])


def test_empty_showers_have_zeros_and_no_nan(make_showers, mesh) -> None:
    empty = make_showers(2, energy=np.zeros((2, *mesh.shape), dtype=np.float32))
    for name, column in observe(RaggedShowers.from_dense(empty)).items():
        assert np.isfinite(column).all(), name


def test_blocks_joined_equal_one_block(make_showers) -> None:
    showers = RaggedShowers.from_dense(make_showers(7))
    whole = observe(showers)
    pieces = joined(observe(showers.take(np.arange(a, b))) for a, b in ((0, 3), (3, 7)))
    for name in OBSERVABLES:
        np.testing.assert_array_equal(whole[name], pieces[name])
    np.testing.assert_array_equal(rows_of(whole, np.array([4]))["hits"], whole["hits"][4:5])


def test_profile_is_mean_and_standard_error() -> None:
    slices = np.random.default_rng(1).exponential(size=(50, 3))
    mean, error = profile(slices)
    np.testing.assert_allclose(mean, slices.mean(axis=0))
    np.testing.assert_allclose(error, slices.std(axis=0, ddof=1) / np.sqrt(50))


def test_layer_correlation_is_pearson() -> None:
    layers = np.random.default_rng(2).exponential(size=(40, 4))
    np.testing.assert_allclose(layer_correlation(layers), np.corrcoef(layers.T))
    assert np.isfinite(layer_correlation(np.ones((5, 2)))).all()
