"""Observables: slow twins in plain loops (shower_twins), reference values by hand, and the symmetries of a shower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shower_twins
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.evaluation.collective import cluster_count
from pipeline.evaluation.hits import Hits
from pipeline.evaluation.observables import (
    CELL_LOG10_EDGES,
    OBSERVABLES,
    joined,
    layer_correlation,
    observables,
    observe,
    observe_block,
    profile,
    rows_of,
)
from pipeline.evaluation.shapes import containment_radius, depth_of_maximum, layer_of_maximum, moments


@st.composite
def some_showers(draw: st.DrawFn) -> Showers:
    """Three showers of any occupancy in a small mesh, empty ones among them."""
    mesh = CylinderMesh(*(draw(st.integers(1, n)) for n in (4, 6, 6)), dr_mm=2.0, dz_mm=3.0)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    occupancy = draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    energy = rng.exponential(size=(3, *mesh.shape)) * (rng.uniform(size=(3, *mesh.shape)) < occupancy)
    return Showers(energy.astype(np.float32), np.full(3, 1e3), np.zeros(3), np.zeros(3), mesh, "SiW")


@given(some_showers())
@settings(max_examples=60, deadline=None)
def test_scalars_equal_the_loop_over_cells(showers: Showers) -> None:
    table = observe_block(Hits.of(RaggedShowers.from_dense(showers)))
    for i in range(len(showers)):
        for name, value in shower_twins.scalars(showers.energy[i], showers.mesh).items():
            assert table[name][i] == pytest.approx(value, rel=1e-6, abs=1e-6), name


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


def test_hits_of_one_ring_have_no_radial_width(make_showers, mesh) -> None:
    energy = make_showers(50).energy
    energy[:, 1:] = 0
    centres = observe(RaggedShowers.from_dense(make_showers(50, energy=energy)))["layer_centres"]
    assert (centres[:, 5 * mesh.n_z :] == 0).all()


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


def hits_at(mesh: CylinderMesh, cells: dict[tuple[int, int, int], float]) -> Hits:
    """One shower with these cells (r, phi, z): MeV."""
    energy = np.zeros((1, *mesh.shape), dtype=np.float32)
    for place, value in cells.items():
        energy[(0, *place)] = value
    return Hits.of(RaggedShowers.from_dense(Showers(energy, np.ones(1), np.ones(1), np.zeros(1), mesh, "SiW")))


def test_par04_moments_can_be_chosen(make_showers, mesh) -> None:
    showers = RaggedShowers.from_dense(make_showers(3))
    ours, theirs = (observe(showers, observables(convention)) for convention in ("standard", "par04"))
    np.testing.assert_allclose(ours["first_moment_z"] - theirs["first_moment_z"], mesh.dz_mm / 2)
    np.testing.assert_allclose(ours["second_moment_r"], theirs["second_moment_r"])
    np.testing.assert_array_equal(ours["depth_of_maximum"], theirs["depth_of_maximum"])


@pytest.mark.parametrize(("fraction", "rings"), [(0.9, 1.5), (0.5, 0.625), (0.95, 1.75)])
def test_containment_radius_is_linear_within_a_ring(mesh, fraction, rings) -> None:
    """8 MeV in the first ring, 2 MeV in the second: 90 % lie within one ring and a half."""
    one = hits_at(mesh, {(0, 0, 0): 8, (1, 3, 2): 2})
    assert containment_radius(one, fraction)[0] == pytest.approx(rings * mesh.dr_mm)


def test_depth_of_maximum_of_a_gamma_profile() -> None:
    """E = z^2 exp(-z / 10 mm) has its maximum at 20 mm, between the centres of two layers."""
    mesh = CylinderMesh(2, 3, 60, dr_mm=1.0, dz_mm=4.0)
    one = hits_at(mesh, {(0, 1, k): 1e3 * z**2 * np.exp(-z / 10) for k, z in enumerate(mesh.z_mm)})
    assert depth_of_maximum(one)[0] == pytest.approx(20, abs=0.05)
    assert layer_of_maximum(one)[0] in (18, 22)


def test_depth_of_maximum_without_a_fit_is_the_layer_with_most(mesh) -> None:
    assert depth_of_maximum(hits_at(mesh, {(0, 0, 3): 2}))[0] == 3.5 * mesh.dz_mm
    long = CylinderMesh(1, 1, 10, dr_mm=1.0, dz_mm=3.0)
    assert depth_of_maximum(hits_at(long, {(0, 0, 0): 7, (0, 0, 9): 3}))[0] == 0.5 * long.dz_mm


@pytest.mark.parametrize(
    ("cells", "count"),
    [
        ([], 0),
        ([(1, 0, 0), (1, 0, 1), (2, 0, 1)], 1),  # along z and r
        ([(1, 0, 0), (1, 5, 0)], 1),  # phi is a circle
        ([(1, 0, 0), (1, 2, 0)], 2),
        ([(1, 0, 0), (2, 1, 0)], 2),  # an edge is no face
        ([(0, 0, 2), (0, 3, 2)], 1),  # wedges of the innermost ring meet on the axis
        ([(0, 0, 2), (0, 3, 3)], 2),
        ([(1, 0, 4), (1, 1, 0)], 2),  # the end of one column is not the start of the next
    ],
)
def test_clusters_by_hand(mesh, cells, count) -> None:
    assert cluster_count(hits_at(mesh, dict.fromkeys(cells, 1.0)))[0] == count


def test_clusters_of_many_showers_stay_apart(make_showers) -> None:
    showers = make_showers(150)
    counts = cluster_count(Hits.of(RaggedShowers.from_dense(showers)))
    alone = [shower_twins.clusters(shower_twins.cells_of(e), showers.mesh) for e in showers.energy]
    np.testing.assert_array_equal(counts, alone)


def test_rotation_in_phi_changes_only_what_has_a_direction(make_showers) -> None:
    showers = make_showers(6)
    turned = replace(showers, energy=np.roll(showers.energy, 2, axis=2))
    before, after = (observe_block(Hits.of(RaggedShowers.from_dense(s))) for s in (showers, turned))
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
