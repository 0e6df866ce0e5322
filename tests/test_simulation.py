"""Both engines: what they promise of energies, meshes, seeds and errors, and how close the parametric one comes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config.data import SimulateSpec
from pipeline.config.detectors import BUILT_IN_DETECTORS, DetectorSpec, LayerSpec, MeshSpec
from pipeline.simulation import ENGINES, SimulationError, geant4, parametric
from pipeline.simulation.bremsstrahlung_fit import CHEBYSHEV, KAPPA, KINETIC_ENERGY_MEV
from pipeline.simulation.conditions import incident_energies_mev
from pipeline.simulation.geant4_request import Geant4Request
from pipeline.simulation.geant4_tables import bremsstrahlung_mb
from pipeline.simulation.geant4_worker import bin_steps, rotation

SIW, SCIPB = BUILT_IN_DETECTORS["SiW"], BUILT_IN_DETECTORS["SciPb"]
LOW = MeshSpec(cells=(9, 16, 45), dr_mm=4.65, dz_mm=3.4)
needs_geant4 = pytest.mark.skipif(
    importlib.util.find_spec("geant4_pybind") is None, reason="the wheel geant4-pybind is not installed"
)


def spec(**changes: object) -> SimulateSpec:
    """One GeV electrons on the coarse mesh, unless told otherwise."""
    settings = {"engine": "parametric", "files": 1, "showers": 200, "energy_gev": (1.0,), "spectrum": "fixed"}
    return SimulateSpec.model_validate({**settings, "mesh": LOW, **changes})


def simulate(detector: str = "SiW", seed: int = 1, **changes: object) -> Showers:
    """Showers of the engine named in the changes."""
    wanted = spec(**changes)
    return ENGINES[wanted.engine](wanted, detector, BUILT_IN_DETECTORS[detector], seed)


def depth_of_maximum(showers: Showers) -> float:
    """Mean depth of the energy, in mm."""
    profile = showers.energy.sum(axis=(0, 1, 2), dtype=float)
    return float((profile * showers.mesh.z_mm).sum() / profile.sum())


# ------------------------------------------------------------------------------------------ conditions


def test_fixed_energies_come_in_equal_blocks_in_order() -> None:
    energies = incident_energies_mev(spec(showers=7, energy_gev=(4, 1, 2)), seed=1)
    assert energies.tolist() == [4000.0, 4000.0, 4000.0, 1000.0, 1000.0, 2000.0, 2000.0]


def test_log_uniform_energies_follow_the_seed() -> None:
    wanted = spec(spectrum="log_uniform", energy_gev=(1, 16), showers=4000)
    energies = incident_energies_mev(wanted, seed=3)
    assert np.array_equal(energies, incident_energies_mev(wanted, seed=3))
    assert not np.array_equal(energies, incident_energies_mev(wanted, seed=4))
    assert energies.min() >= 1e3 and energies.max() <= 16e3
    assert np.median(energies) == pytest.approx(4e3, rel=0.06)


# ------------------------------------------------------------------------------------------ parametric


def test_parametric_same_seed_same_bytes() -> None:
    first, again, other = simulate(), simulate(), simulate(seed=2)
    assert first.energy.tobytes() == again.energy.tobytes()
    assert first.energy.tobytes() != other.energy.tobytes()


@pytest.mark.parametrize("particle", ["e-", "e+", "gamma"])
@pytest.mark.parametrize("detector", ["SiW", "SciPb"])
def test_parametric_mean_is_the_sampling_fraction(detector: str, particle: str) -> None:
    wide = MeshSpec(cells=(30, 4, 60), dr_mm=10, dz_mm=10)
    showers = simulate(detector, particle=particle, showers=2000, mesh=wide)
    fraction = showers.visible_energy.mean() / 1e3
    assert fraction == pytest.approx(BUILT_IN_DETECTORS[detector].sampling_fraction, rel=0.015)
    assert showers.particle == particle


@pytest.mark.parametrize(("detector", "percent"), [("SiW", 13.5), ("SciPb", 17.0)])
def test_parametric_resolution_is_that_of_geant4(detector: str, percent: float) -> None:
    for gev in (1.0, 4.0):
        visible = simulate(detector, showers=2000, energy_gev=(gev,), mesh=None).visible_energy
        assert visible.std() / visible.mean() * 100 * np.sqrt(gev) == pytest.approx(percent, rel=0.08)


def test_parametric_maximum_moves_by_ln2_radiation_lengths_per_doubling() -> None:
    depth = [depth_of_maximum(simulate(energy_gev=(gev,), showers=600)) for gev in (1.0, 2.0, 4.0)]
    steps_x0 = np.diff(depth) / SIW.radiation_length_mm
    assert np.all((steps_x0 > 0.4) & (steps_x0 < 1.0))  # ln 2 = 0.69


def test_parametric_photons_start_deeper() -> None:
    electrons, photons = simulate(showers=1000), simulate(particle="gamma", showers=1000)
    assert depth_of_maximum(photons) > depth_of_maximum(electrons) + 0.3 * SIW.radiation_length_mm


def test_parametric_looks_like_geant4() -> None:
    """Hit cells, azimuthal asymmetry and the 90 % radius of 1 GeV electrons in SiW (docs/geant4.md)."""
    showers = simulate(mesh=None, showers=500)
    sectors = showers.energy.sum(axis=(1, 3), dtype=float)
    asymmetry = np.abs(sectors @ np.exp(1j * showers.mesh.phi_rad)) / showers.visible_energy
    rings = np.cumsum(showers.energy.sum(axis=(0, 2, 3), dtype=float))
    r90 = np.interp(0.9, rings / rings[-1], showers.mesh.r_mm + showers.mesh.dr_mm / 2)
    assert (showers.energy > 0).sum(axis=(1, 2, 3)).mean() == pytest.approx(162, rel=0.1)
    assert asymmetry.mean() == pytest.approx(0.262, rel=0.15)
    assert r90 == pytest.approx(12.1, rel=0.1)


def test_threshold_empties_small_cells() -> None:
    everything, above = simulate(threshold_mev=0), simulate(threshold_mev=0.05)
    assert np.array_equal(above.energy, np.where(everything.energy < 0.05, 0, everything.energy))
    assert ((everything.energy > 0) & (everything.energy < 0.05)).any()


@pytest.mark.parametrize("cells", [(1, 1, 1), (3, 7, 5), (18, 50, 45)])
def test_any_mesh(cells: tuple[int, int, int]) -> None:
    mesh = MeshSpec(cells=cells, dr_mm=60 / cells[0], dz_mm=200 / cells[2])
    showers = simulate(mesh=mesh, showers=20)
    assert showers.energy.shape == (20, *cells) and showers.energy.dtype == np.float32


def test_showers_come_in_blocks_of_flat_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parametric, "_BLOCK_SPOTS", 2000)
    blocks = list(parametric.simulate_blocks(spec(showers=50, energy_gev=(1, 100)), "SiW", SIW, 1))
    assert sum(len(block) for block in blocks) == 50
    assert len(blocks) > 25  # the showers of 100 GeV travel alone
    assert max(block.incident_energy.sum() for block in blocks) <= 1e5 + 2e4


# ------------------------------------------------------------------------- Geant4, without running it


def test_bremsstrahlung_tables_are_positive_and_fall_with_the_photon_energy() -> None:
    table = bremsstrahlung_mb(74)
    assert table.shape == (len(KINETIC_ENERGY_MEV), len(KAPPA))
    row = table[KINETIC_ENERGY_MEV.index(10.0)]
    assert np.all(table > 0) and np.all(np.diff(row[:20]) < 0)
    assert all(len(numbers) == 36 for numbers in CHEBYSHEV.values())


def test_an_element_without_a_fit_takes_its_nearest_neighbour() -> None:
    assert np.allclose(bremsstrahlung_mb(73), bremsstrahlung_mb(74), rtol=0.02)


def test_request_survives_json() -> None:
    request = Geant4Request(SIW, LOW, "e-", 70.0, (1000.1, 0.1 + 0.2), seed=5)
    assert Geant4Request.from_json(request.to_json()) == request


def test_steps_are_binned_along_the_particle() -> None:
    """The slow twin: one step at a time, in the frame whose z axis is the particle's direction."""
    mesh = CylinderMesh(4, 6, 5, 2.0, 3.0)
    request = Geant4Request(SIW, LOW, "e-", 70.0, (1.0,), seed=1)
    assert np.allclose(rotation(70.0) @ np.array(request.direction), [0, 0, 1])
    rng = np.random.default_rng(2)
    position, energy = rng.uniform(-6, 16, (3, 400)), rng.uniform(0, 1, 400)
    expected = np.zeros(mesh.shape)
    for (x, y, z), e in zip(position.T, energy, strict=True):
        cell = (int(np.hypot(x, y) // 2), int((np.arctan2(y, x) + np.pi) // (np.pi / 3)), int(z // 3))
        if cell[0] < 4 and 0 <= cell[2] < 5:
            expected[cell] += e
    assert np.allclose(bin_steps(position, energy, mesh).reshape(mesh.shape), expected, rtol=1e-6)


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geant4.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SimulationError, match=r"pip install geant4-pybind==0\.1\.3, or set engine: parametric"):
        simulate(engine="geant4")


@needs_geant4
def test_a_seed_that_geant4_cannot_take() -> None:
    with pytest.raises(SimulationError, match=r"seed: expected 1 to 2\*\*63 - 1 for engine 'geant4', got 0"):
        simulate(engine="geant4", seed=0)


# ---------------------------------------------------------------------------------------------- Geant4


@pytest.fixture(scope="module")
def fine() -> Showers:
    """Eight electrons of 1 GeV in SiW, 18 x 50 x 45 cells."""
    return simulate(engine="geant4", showers=8, mesh=None, threshold_mev=0)


@needs_geant4
def test_geant4_visible_fraction(fine: Showers) -> None:
    """3.19 %, sigma 13.5 % a shower (docs/geant4.md), within three standard errors."""
    assert fine.visible_energy.mean() / 1e3 == pytest.approx(0.0319, rel=3 * 0.135 / np.sqrt(8))


@needs_geant4
def test_geant4_same_seed_same_bytes(fine: Showers) -> None:
    cpu_ms: list[float] = []
    wanted = spec(engine="geant4", showers=8, mesh=None, threshold_mev=0)
    again = ENGINES["geant4"](wanted, "SiW", BUILT_IN_DETECTORS["SiW"], 1, cpu_ms)
    assert again.energy.tobytes() == fine.energy.tobytes()
    assert len(cpu_ms) == 8 and min(cpu_ms) > 0  # the cost of each shower


@needs_geant4
def test_geant4_meshes_agree(fine: Showers) -> None:
    """The coarse mesh spans the same cylinder: same energy, and the same ring and layer sums."""
    coarse = simulate(engine="geant4", showers=8, threshold_mev=0)
    assert np.allclose(coarse.visible_energy, fine.visible_energy, rtol=1e-5)
    rings = fine.energy.sum(axis=2).reshape(8, 9, 2, 45).sum(axis=2)
    assert np.allclose(coarse.energy.sum(axis=2), rings, rtol=1e-4, atol=1e-6)


@needs_geant4
@pytest.mark.parametrize("particle", ["gamma", "e+"])
def test_geant4_other_particles_and_angles(particle: str) -> None:
    showers = simulate("SciPb", engine="geant4", showers=6, particle=particle, angle_deg=60, mesh=None)
    assert showers.visible_energy.mean() / 1e3 == pytest.approx(0.033, rel=0.3)
    assert showers.theta[0] == pytest.approx(np.pi / 3)
    assert showers.energy[showers.energy > 0].min() >= 5e-4


@needs_geant4
def test_geant4_unknown_material_is_named() -> None:
    detector = SIW.model_copy(update={"absorber": LayerSpec(material="G4_Unobtainium", thickness_mm=1)})
    with pytest.raises(SimulationError, match=r"(?s)mine \(G4_Unobtainium.*exit code 1.*detectors\.mine.*NIST"):
        ENGINES["geant4"](spec(engine="geant4", showers=1), "mine", detector, 1)


@needs_geant4
def test_geant4_abort_becomes_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("G4LEDATA", str(tmp_path))  # an empty "official" data set is a fatal exception
    with pytest.raises(SimulationError, match=r"(?s)e- at 1-1 GeV in SiW.*signal SIG.*set engine: parametric.*G4"):
        simulate(engine="geant4", showers=1)


@needs_geant4
def test_geant4_reports_progress_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    thin = DetectorSpec.model_validate({**SIW.model_dump(), "layers": 3})
    ENGINES["geant4"](spec(engine="geant4", showers=20, energy_gev=(0.01,)), "thin", thin, 1)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [f"geant4: {n}/20 showers" for n in range(2, 21, 2)]


@needs_geant4
@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "fraction", "stochastic", "r90_mm", "hits"),
    [("SiW", 0.0319, 0.135, 12.1, 162), ("SciPb", 0.0334, 0.17, 22.7, 105)],
)
def test_geant4_reference_figures(
    detector: str, fraction: float, stochastic: float, r90_mm: float, hits: float
) -> None:
    """400 electrons of 1 GeV against the figures of docs/geant4.md, within about three standard errors."""
    mesh = BUILT_IN_DETECTORS[detector].mesh
    wide = MeshSpec(cells=(100, 50, 45), dr_mm=mesh.dr_mm, dz_mm=mesh.dz_mm)
    showers = simulate(detector, engine="geant4", showers=400, mesh=wide, threshold_mev=0)
    visible = showers.visible_energy
    rings = np.cumsum(showers.energy.sum(axis=(0, 2, 3), dtype=float))
    assert visible.mean() / 1e3 == pytest.approx(fraction, rel=0.025)
    assert visible.std() / visible.mean() == pytest.approx(stochastic, rel=0.12)
    assert np.interp(0.9, rings / rings[-1], wide.dr_mm * np.arange(1, 101)) == pytest.approx(r90_mm, rel=0.1)
    assert (showers.energy[:, :18] > 0).sum(axis=(1, 2, 3)).mean() == pytest.approx(hits, rel=0.03)
