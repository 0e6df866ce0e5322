"""Laws of the mesh and of dense and ragged showers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers, ShowerError, rebin


def test_phi_centres_run_from_minus_pi_to_pi() -> None:
    phi = CylinderMesh(1, 50, 1, 1.0, 1.0).phi_rad
    assert phi[0] == pytest.approx(0.5 * 2 * np.pi / 50 - np.pi)
    assert np.diff(phi) == pytest.approx(2 * np.pi / 50)
    assert phi.sum() == pytest.approx(0, abs=1e-12)


def test_rebinned_mesh_keeps_its_size() -> None:
    fine = CylinderMesh(18, 50, 45, 2.325, 3.4)
    coarse = fine.rebinned((2, 5, 3))
    assert coarse.shape == (9, 10, 15)
    assert coarse.n_r * coarse.dr_mm == pytest.approx(fine.n_r * fine.dr_mm)
    assert fine.factors_to(coarse) == (2, 5, 3)


def test_factors_between_unrelated_meshes_are_refused() -> None:
    with pytest.raises(ValueError, match="divides into"):
        CylinderMesh(18, 50, 45, 2.325, 3.4).factors_to(CylinderMesh(9, 16, 45, 4.65, 3.4))
    with pytest.raises(ValueError, match="expected factors that divide"):
        CylinderMesh(18, 50, 45, 2.325, 3.4).rebinned((4, 5, 3))


def test_ragged_and_dense_are_the_same_showers(make_showers) -> None:
    showers = make_showers(7)
    ragged = RaggedShowers.from_dense(showers)
    np.testing.assert_array_equal(ragged.dense().energy, showers.energy)
    np.testing.assert_allclose(ragged.visible_energy, showers.visible_energy, rtol=1e-6)


@given(rows=st.lists(st.integers(0, 6), max_size=12))
def test_take_is_numpy_indexing(rows) -> None:
    mesh = CylinderMesh(2, 2, 3, 1.0, 1.0)
    rng = np.random.default_rng(1)
    ragged = RaggedShowers(
        np.array([3, 0, 2, 5, 0, 1, 4]),
        rng.permuted(np.arange(15) % 12).astype(np.uint16),
        rng.uniform(1, 2, 15).astype(np.float32),
        np.arange(1.0, 8),
        np.zeros(7),
        np.zeros(7),
        mesh,
        "SiW",
    )
    ragged = RaggedShowers.from_dense(ragged.dense())
    np.testing.assert_array_equal(
        ragged.take(np.array(rows, dtype=int)).dense().energy, ragged.dense().energy[np.array(rows, dtype=int)]
    )


def test_rebin_conserves_energy_and_equals_the_slow_loop(make_showers) -> None:
    showers = make_showers(3)
    coarse = showers.rebin((2, 3, 5))
    slow = np.zeros((3, 2, 2, 1))
    for n, r, p, z in np.ndindex(*showers.energy.shape):
        slow[n, r // 2, p // 3, z // 5] += showers.energy[n, r, p, z]
    np.testing.assert_allclose(coarse.energy, slow, rtol=1e-5)
    np.testing.assert_allclose(RaggedShowers.from_dense(showers).rebin((2, 3, 5)).dense().energy, slow, rtol=1e-5)
    np.testing.assert_allclose(coarse.visible_energy, showers.visible_energy, rtol=1e-6)


def test_cut_drops_cells_below_the_threshold_in_both_forms(make_showers) -> None:
    showers = make_showers(4)
    cut = showers.cut(0.4)
    assert cut.energy[cut.energy > 0].min() >= 0.4
    np.testing.assert_array_equal(RaggedShowers.from_dense(showers).cut(0.4).dense().energy, cut.energy)


def test_concatenate_refuses_another_detector(make_showers) -> None:
    ragged = RaggedShowers.from_dense(make_showers(2))
    other = RaggedShowers(
        ragged.row_size,
        ragged.cell,
        ragged.energy,
        ragged.incident_energy,
        ragged.theta,
        ragged.phi,
        ragged.mesh,
        "SciPb",
    )
    assert len(RaggedShowers.concatenate([ragged, ragged])) == 4
    with pytest.raises(ShowerError, match="expected SiW"):
        RaggedShowers.concatenate([ragged, other])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"energy": np.where(s.energy == s.energy.max(), np.nan, s.energy)}, "finite cell energies, got nan"),
        (lambda s: {"energy": s.energy - 1e-3}, "cell energies >= 0 MeV"),
        (lambda s: {"incident_energy": s.incident_energy * 0}, "incident energy > 0 MeV"),
        (lambda s: {"energy": s.energy[:, :-1]}, "expected shape"),
        (lambda s: {"theta": s.theta * np.inf}, "theta: expected finite"),
    ],
)
def test_impossible_showers_are_refused(make_showers, change, message) -> None:
    good = make_showers(5)
    with pytest.raises(ShowerError, match=message):
        make_showers(5, **change(good))


def test_rebin_refuses_factors_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="expected factors that divide"):
        rebin(np.zeros((2, 4, 6, 5)), (3, 1, 1))
