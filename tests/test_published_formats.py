"""Every published layout, written here with plain h5py as its authors write it, and read back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from data_fixtures import dataset, read_all, sparse_values
from pydantic import ValidationError

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import Config
from pipeline.data.formats import READERS, FormatError

Make = Callable[..., Showers]
LOW = CylinderMesh(9, 16, 45, dr_mm=4.65, dz_mm=3.4)
FINE = CylinderMesh(18, 50, 45, dr_mm=2.325, dz_mm=3.4)


def zip9(handle: h5py.File, key: str, content: Any) -> None:
    handle.create_dataset(key, data=content, compression="gzip", compression_opts=9)


# ------------------------------------------------------------------------------- Par04, Zenodo 6082201


def test_zenodo_6082201(tmp_path: Path) -> None:
    path = tmp_path / "SiW" / "SiW_angle_70.h5"
    path.parent.mkdir()
    cells = {
        "1024": sparse_values((2, *FINE.shape), 1),
        "1": sparse_values((3, *FINE.shape), 2),
        "16": sparse_values((1, *FINE.shape), 3),
    }
    with h5py.File(path, "w") as handle:
        for key, content in cells.items():
            handle.create_dataset(key, data=content, compression="gzip")
    pattern = "{detector}/{detector}_angle_{angle_deg}.h5"
    showers = read_all(path, FINE, format="par04", sampling_corrected=False, path_pattern=pattern)
    assert showers.incident_energy.tolist() == [1e3, 1e3, 1e3, 16e3, 1024e3, 1024e3]
    np.testing.assert_array_equal(showers.energy, np.concatenate([cells["1"], cells["16"], cells["1024"]]))
    np.testing.assert_allclose(showers.theta, np.radians(70))


@pytest.mark.parametrize("key", ["64", "showers"])
def test_one_file_per_energy(tmp_path: Path, mesh: CylinderMesh, key: str) -> None:
    path = tmp_path / "SiW_Energy_64_Angle_90.h5"
    with h5py.File(path, "w") as handle:
        handle[key] = sparse_values((3, *mesh.shape))
    pattern = "{detector}_Energy_{energy_gev}_Angle_{angle_deg}"
    showers = read_all(path, mesh, format="par04", sampling_corrected=False, path_pattern=pattern)
    assert showers.incident_energy.tolist() == [64e3] * 3
    np.testing.assert_allclose(showers.theta, np.pi / 2)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("SciPb_angle_90", {}, "detector in the path: expected SiW as in the data set's YAML, found SciPb"),
        (
            "SiW_angle_70",
            {"angle_deg": 90},
            r"angle_deg in the path: expected 90\S* as in the .* YAML, found 70",
        ),
        ("SiW90", {}, r"path: expected one that fits `path_pattern: \{detector\}_angle_\{angle_deg\}`, found SiW90.h5"),
    ],
)
def test_a_path_that_says_otherwise_is_refused(
    tmp_path: Path, mesh: CylinderMesh, name: str, spec: dict[str, Any], message: str
) -> None:
    path = tmp_path / f"{name}.h5"
    with h5py.File(path, "w") as handle:
        handle["1"] = sparse_values((3, *mesh.shape))
    pattern = "{detector}_angle_{angle_deg}"
    with pytest.raises(FormatError, match=message):
        read_all(path, mesh, format="par04", sampling_corrected=False, path_pattern=pattern, **spec)


def test_the_energy_of_path_and_key_must_agree(tmp_path: Path, mesh: CylinderMesh) -> None:
    path = tmp_path / "E64.h5"
    with h5py.File(path, "w") as handle:
        handle["32"] = sparse_values((3, *mesh.shape))
    spec = {"format": "par04", "sampling_corrected": False, "angle_deg": 90, "path_pattern": "E{energy_gev}"}
    with pytest.raises(FormatError, match="energy_gev in the path: expected 32 as the file's key says, found 64"):
        read_all(path, mesh, **spec)
    with h5py.File(path, "a") as handle:
        handle["64"] = sparse_values((3, *mesh.shape))
    with pytest.raises(FormatError, match=r"expected one data set, as the path names the energy .*found .'32', '64'"):
        read_all(path, mesh, **spec)


def test_a_name_with_another_angle_than_the_yaml_is_refused(tmp_path: Path, mesh: CylinderMesh) -> None:
    path = tmp_path / "SiW_angle_70.h5"
    with h5py.File(path, "w") as handle:
        handle["1"] = sparse_values((3, *mesh.shape))
    with pytest.raises(FormatError, match=r"angle_deg in the path: expected 90.* found 70"):
        read_all(path, mesh, format="par04", sampling_corrected=False, angle_deg=90)


@pytest.mark.parametrize(
    ("pattern", "path", "detector", "facts"),
    [
        ("{detector}_{particle}_{energy_gev}GeV", "d/My_Calo_photon_0.5GeV.h5", "My_Calo", ["My_Calo", "gamma", 0.5]),
        ("{particle}/{detector}", "electron/SiW2.h5", "SiW", ["e-", "SiW2"]),
        ("{detector}", "CrystalSiW.h5", "SiW", ["CrystalSiW"]),
    ],
)
def test_a_pattern_reads_whole_words(pattern: str, path: str, detector: str, facts: list[Any]) -> None:
    from pipeline.data.formats.path_pattern import path_facts

    found = path_facts(Path(path), dataset(path_pattern=pattern, detector=detector))
    assert sorted(map(str, found.values())) == sorted(map(str, facts))


@pytest.mark.parametrize("pattern", ["SiW_angle_90", "{angle}_x"])
def test_a_pattern_without_known_fields_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"path_pattern: expected at least one of \{detector\}"):
        dataset(path_pattern=pattern)


# ---------------------------------------------------------------------------- newer Par04, LEMURS


def events(path: Path, mesh: CylinderMesh, n: int = 4, **columns: Any) -> np.ndarray:
    """A file as `root2h5.py` writes it: float64, gzip 9."""
    cells = sparse_values((n, *mesh.shape)).astype(np.float64)
    with h5py.File(path, "w") as handle:
        for key, content in {"incident_energy": np.linspace(1e3, 4e3, n), "showers": cells, **columns}.items():
            zip9(handle, key, content)
    return cells


def test_newer_par04_without_angles(tmp_path: Path) -> None:
    cells = events(tmp_path / "a.h5", FINE)
    showers = read_all(tmp_path / "a.h5", FINE, format="par04_events", sampling_corrected=False, angle_deg=90)
    np.testing.assert_array_equal(showers.energy, cells.astype(np.float32))
    assert showers.incident_energy.tolist() == [1e3, 2e3, 3e3, 4e3]
    np.testing.assert_allclose(showers.theta, np.pi / 2)


def test_newer_par04_with_angles(tmp_path: Path, mesh: CylinderMesh) -> None:
    theta, phi = np.linspace(0.9, 2.2, 4), np.linspace(-3, 3, 4)
    events(tmp_path / "a.h5", mesh, incident_theta=theta, incident_phi=phi)
    showers = read_all(tmp_path / "a.h5", mesh, format="par04_events", sampling_corrected=False)
    np.testing.assert_array_equal(showers.theta, theta)
    np.testing.assert_array_equal(showers.phi, phi)


def test_newer_par04_divided_by_the_fraction(tmp_path: Path, mesh: CylinderMesh) -> None:
    cells = events(tmp_path / "a.h5", mesh)
    spec = {"sampling_corrected": True, "sampling_fraction": 0.033, "angle_deg": 90}
    showers = read_all(tmp_path / "a.h5", mesh, format="par04_events", **spec)
    np.testing.assert_allclose(showers.energy, cells * 0.033, rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "spec", "message"),
    [
        ({}, {}, "angle_deg: expected the particle's polar angle, found nothing"),
        (
            {"showers": np.ones((4, 6, 4, 5))},
            {"angle_deg": 90},
            r"showers: expected \(N, 4, 6, 5\) .*, found \(4, 6",
        ),
        (
            {"incident_theta": np.array([0.9, 1.2, 1.5, 1.8])},
            {"angle_deg": 90},
            r"incident_theta: expected 90 degrees in all showers .* found 51.57 to 103.1; take the line `angle_deg:`",
        ),
        ({"incident_theta": np.full(4, 90.0)}, {}, r"incident_theta: expected radians in \[0, pi\], found 90 in row 0"),
        ({"incident_theta": np.full(4, np.nan)}, {}, r"incident_theta: expected radians in \[0, pi\], found nan"),
        ({"incident_theta": np.full(3, 1.0)}, {}, "incident_theta: expected one value for each of the 4 showers"),
    ],
)
def test_newer_par04_refuses(
    tmp_path: Path, mesh: CylinderMesh, columns: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    events(tmp_path / "a.h5", mesh, **columns)
    with pytest.raises(FormatError, match=message):
        read_all(tmp_path / "a.h5", mesh, format="par04_events", sampling_corrected=False, **spec)


def test_an_angle_that_agrees_with_every_shower_is_no_contradiction(tmp_path: Path, mesh: CylinderMesh) -> None:
    events(tmp_path / "a.h5", mesh, incident_theta=np.full(4, 1.57))
    showers = read_all(tmp_path / "a.h5", mesh, format="par04_events", sampling_corrected=False, angle_deg=90)
    assert (showers.theta == 1.57).all()


def lemurs(folder: Path, name: str = "LEMURS_Par04SiW_gamma_100kEvents_1GeV1TeV_GPSflat_part1.h5") -> Path:
    rng = np.random.default_rng(1)
    angles = {"incident_theta": rng.uniform(0.87, 2.27, 4), "incident_phi": rng.uniform(-np.pi, np.pi, 4)}
    events(folder / name, LOW, **angles)
    return folder / name


def test_lemurs(tmp_path: Path) -> None:
    path = lemurs(tmp_path)
    with h5py.File(path) as handle:
        cells, theta = handle["showers"][:], handle["incident_theta"][:]
    showers = read_all(path, LOW, format="lemurs")
    assert (showers.mesh, showers.detector, showers.particle) == (LOW, "SiW", "gamma")
    np.testing.assert_array_equal(showers.energy, cells.astype(np.float32))
    np.testing.assert_array_equal(showers.theta, theta)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("LEMURS_ODD_gamma_part1.h5", {}, "detector in the path: expected SiW .*found ODD"),
        ("LEMURS_Par04SiW_gamma_part1.h5", {"particle": "e-"}, "particle in the path: expected e- .*found gamma"),
        ("LEMURS_Par04SiW_gamma_part1.h5", {"angle_deg": 90}, "incident_theta: expected 90 degrees in all showers"),
        ("a.h5", {"sampling_corrected": True}, "sampling_corrected: expected false as in all files .*found true"),
    ],
)
def test_lemurs_refuses(tmp_path: Path, name: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_all(lemurs(tmp_path, name), LOW, format="lemurs", **spec)


def test_lemurs_needs_its_angles(tmp_path: Path) -> None:
    events(tmp_path / "a.h5", LOW)
    with pytest.raises(FormatError, match="data set incident_theta: expected it at the file's root"):
        read_all(tmp_path / "a.h5", LOW, format="lemurs", angle_deg=90)


# ----------------------------------------------------------------------------------- CaloChallenge


@pytest.mark.parametrize(("cells", "name"), [(LOW, "ds2"), (FINE, "ds3")])
def test_calochallenge_2_and_3(tmp_path: Path, cells: CylinderMesh, name: str) -> None:
    energy = sparse_values((3, *cells.shape))
    with h5py.File(tmp_path / "a.hdf5", "w") as handle:
        handle.create_dataset("incident_energies", data=np.array([[1e3], [5e4], [1e6]]), compression="gzip")
        # r fastest, then alpha, then z (HighLevelFeatures and XMLHandler of the challenge)
        flat = np.stack([shower.T.ravel() for shower in energy]) / 0.033
        handle.create_dataset("showers", data=flat, compression="gzip")
    spec = {"sampling_corrected": True, "sampling_fraction": 0.033, "angle_deg": 90}
    showers = read_all(tmp_path / "a.hdf5", cells, format="calochallenge", **spec)
    np.testing.assert_allclose(showers.energy, energy, rtol=3e-7)
    assert showers.incident_energy.tolist() == [1e3, 5e4, 1e6]


def test_every_layout_declares_its_units() -> None:
    for name, reader in READERS.items():
        assert (reader.LAYOUT.energy_unit, reader.LAYOUT.angle_unit) == ("MeV", "rad"), name
        assert reader.LAYOUT.source and reader.LAYOUT.published, name


def test_the_examples_of_the_page_are_configurations() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "formats.md").read_text()
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.S) if "datasets:" in text]
    configs = [Config.model_validate({"experiment": "example", **example}) for example in examples]
    formats = {spec.format for config in configs for spec in config.datasets.values()}
    assert formats == {"par04", "calochallenge", "calochallenge_ds1", "lemurs"}
    assert all(f"| `{name}` |" in page for name in READERS)
