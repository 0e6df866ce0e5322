"""Raw layouts: round trips, what files by others look like, and every way in which a file is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import dataset, detector_with, write_raw

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.data.formats import READERS, FormatError, write_calochallenge

Make = Callable[..., Showers]


def read_all(path: Path, mesh: CylinderMesh, **spec: Any) -> Showers:
    spec = {"format": "calochallenge", **spec}
    reader = READERS[spec["format"]]
    description = reader.describe(path, dataset(**spec), detector_with(mesh))
    return reader.read(path, description, slice(None))


def foreign(path: Path, n: int = 3, voxels: int = 120, **changes: Any) -> Path:
    """A file in the CaloChallenge layout that says nothing of itself."""
    content = {"incident_energies": np.full((n, 1), 1000.0), "showers": np.ones((n, voxels), np.float32), **changes}
    with h5py.File(path, "w") as handle:
        for key, values in content.items():
            if values is not None:
                handle[key] = values
    return path


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("layout", ["calochallenge", "par04"])
def test_what_is_written_reads_back(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, layout: str, corrected: bool
) -> None:
    showers = make_showers(5, incident_energy=np.array([1000.0, 1000, 2000, 16000, 16000]))
    path = write_raw(tmp_path / "a.h5", showers, layout, sampling_corrected=corrected)
    back = read_all(path, mesh, format=layout)
    np.testing.assert_allclose(back.energy, showers.energy, rtol=3e-7)
    np.testing.assert_array_equal(back.incident_energy, showers.incident_energy)
    np.testing.assert_allclose(back.theta, showers.theta)
    assert (back.mesh, back.detector, back.particle) == (mesh, "SiW", "e-")


def test_calochallenge_order_is_r_fastest_then_phi_then_z(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(2)
    with h5py.File(write_raw(tmp_path / "a.h5", showers)) as handle:
        flat = handle["showers"][1]
    r, phi, z = 2, 4, 3
    assert flat[(z * 6 + phi) * 4 + r] == showers.energy[1, r, phi, z]


@pytest.mark.parametrize("layout", ["calochallenge", "par04"])
def test_voxels_and_labels_say_what_read_returns(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, layout: str
) -> None:
    showers = make_showers(6, incident_energy=np.array([16000.0, 1000, 1000, 2000, 16000, 16000]))
    path, reader = write_raw(tmp_path / "a.h5", showers, layout), READERS[layout]
    description = reader.describe(path, dataset(format=layout), detector_with(mesh))
    read, rows = reader.read(path, description, slice(None)), slice(1, 5)
    flat = np.zeros((6, mesh.n_cells), np.float32)
    with h5py.File(path) as handle:
        for part in reader.voxels(path, description):
            own = slice(part.first, part.first + part.n_showers)
            flat[own, slice(None) if part.cells is None else part.cells] = handle[part.key][:].reshape(-1, 120)
    np.testing.assert_array_equal(flat, read.energy.reshape(6, -1))
    labels = reader.labels(path, description, rows)
    for name in ("incident_energy", "theta", "phi"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(read, name)[rows])


def test_the_sampling_correction_is_undone(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(3)
    path = write_raw(tmp_path / "a.h5", showers, sampling_corrected=True, sampling_fraction=0.033)
    with h5py.File(path) as handle:
        np.testing.assert_allclose(handle["showers"][:].sum(axis=1), showers.visible_energy / 0.033, rtol=1e-5)


def test_varying_directions_are_kept_per_shower(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    theta, phi = np.linspace(1, 2, 5), np.linspace(-3, 3, 5)
    back = read_all(write_raw(tmp_path / "a.h5", make_showers(5, theta=theta, phi=phi)), mesh)
    np.testing.assert_allclose(back.theta, theta, rtol=1e-6)
    np.testing.assert_allclose(back.phi, phi, rtol=1e-6)


def test_bytes_depend_neither_on_time_nor_on_blocks(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(150)
    options = {"sampling_fraction": 0.03, "sampling_corrected": True, "threshold_mev": 5e-4}
    write_calochallenge(tmp_path / "a.h5", [showers], **options)
    time.sleep(1.1)
    write_calochallenge(tmp_path / "b.h5", (showers[i : i + 7] for i in range(0, 150, 7)), **options)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_row_blocks_cover_the_file_once(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(10, incident_energy=np.repeat([1000.0, 4000.0], 5)), "par04")
    reader = READERS["par04"]
    description = reader.describe(path, dataset(format="par04"), detector_with(mesh))
    blocks = list(reader.row_blocks(path, description))
    assert [(b.start, b.stop) for b in blocks] == [(0, 5), (5, 10)]
    part = reader.read(path, description, slice(3, 7))
    np.testing.assert_array_equal(part.energy, reader.read(path, description, slice(None)).energy[3:7])


def test_par04_energies_ascend_and_the_angle_is_in_the_name(tmp_path: Path, mesh: CylinderMesh) -> None:
    path = tmp_path / "SiW_angle_70.h5"
    with h5py.File(path, "w") as handle:
        for energy in ("64", "1", "16"):
            handle[energy] = np.full((2, *mesh.shape), float(energy))
    showers = read_all(path, mesh, format="par04", sampling_corrected=False)
    assert showers.incident_energy.tolist() == [1000, 1000, 16000, 16000, 64000, 64000]
    assert showers.energy[:, 0, 0, 0].tolist() == [1, 1, 16, 16, 64, 64]
    np.testing.assert_allclose(showers.theta, np.radians(70))


@pytest.mark.parametrize(
    "options",
    [{"dtype": ">f4"}, {"dtype": "f8"}, {"compression": "lzf"}, {"compression": "gzip", "shuffle": True}, {}],
    ids=["big-endian", "float64", "lzf", "shuffle", "contiguous"],
)
def test_valid_exotica_read_right(tmp_path: Path, mesh: CylinderMesh, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).uniform(size=(7, 120)).astype(np.float32)
    path = foreign(tmp_path / "a.h5", 7, showers=None)
    with h5py.File(path, "a") as handle:
        handle.create_dataset("showers", data=values, **options)
    showers = read_all(path, mesh, sampling_corrected=False, angle_deg=90)
    np.testing.assert_array_equal(showers.energy.transpose(0, 3, 2, 1).reshape(7, -1), values)


# --------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"showers": None}, "a.h5: data set showers: expected it at the file's root, found .'incident_energies'"),
        ({"showers": np.ones((3, 120), int)}, "showers: expected float32 or float64, found int64"),
        ({"showers": np.ones((3, 99))}, r"expected \(N, 120\) for the mesh .*, found \(3, 99\); add the file's mesh"),
        ({"showers": np.ones((0, 120))}, "showers: expected showers, found none"),
        ({"showers": np.float32(1)}, "expected an array, found a single value"),
        ({"showers": np.full((3, 120), np.nan)}, "shower 0: expected finite cell energies, got nan"),
        ({"showers": np.full((3, 120), -1.0)}, "shower 0: expected cell energies >= 0 MeV, got -1"),
        ({"incident_energies": np.zeros((3, 1))}, "expected an incident energy > 0 MeV, got 0"),
        ({"incident_energies": np.ones((2, 1))}, "one value for each of the 3 showers, found shape"),
    ],
)
def test_bad_content_is_refused(tmp_path: Path, mesh: CylinderMesh, changes: dict[str, Any], message: str) -> None:
    path = foreign(tmp_path / "a.h5", **changes)
    with pytest.raises(FormatError, match=message):
        read_all(path, mesh, sampling_corrected=False, angle_deg=90)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"angle_deg": 90}, "sampling_corrected: expected true or false, found nothing.*`sampling_corrected: false`"),
        ({"sampling_corrected": True}, "angle_deg: expected the particle's polar angle.*`angle_deg: 90`"),
    ],
)
def test_what_nobody_says_is_refused(tmp_path: Path, mesh: CylinderMesh, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_all(foreign(tmp_path / "a.h5"), mesh, **spec)


def test_what_the_file_says_wins_over_defaults(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    showers = replace(make_showers(3), particle="gamma")
    path = write_raw(tmp_path / "a.h5", showers, sampling_corrected=True, sampling_fraction=0.5)
    description = READERS["calochallenge"].describe(path, dataset(), detector_with(mesh))
    assert description.sampling_corrected and description.sampling_fraction == 0.5
    assert description.particle == "gamma" and round(np.degrees(description.theta_rad or 0), 6) == 90


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"sampling_corrected": True}, "sampling_corrected: expected true as in the data set's YAML, found false"),
        ({"sampling_fraction": 0.5}, r"sampling_fraction: expected 0\.5 as .*, found 0\.03; correct `sampling_fr"),
        ({"angle_deg": 50}, "a.h5: attribute angle_deg: expected 50 as .*, found 90; correct `angle_deg:` or take"),
        ({"particle": "gamma"}, "attribute particle: expected gamma as .*, found e-; correct `particle:`"),
    ],
)
def test_a_file_that_contradicts_the_yaml_is_refused(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        read_all(write_raw(tmp_path / "a.h5", make_showers(3)), mesh, **spec)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cells", "18,50,45"),
        ("cells", [4, 6]),
        ("dr_mm", "wide"),
        ("angle_deg", "ninety"),
        ("sampling_fraction", "x"),
        ("sampling_corrected", "false"),
        ("threshold_mev", [1.0, 2.0]),
        ("particle", "proton"),
    ],
)
def test_an_attribute_of_the_wrong_type_is_named(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, key: str, value: Any
) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(3))
    with h5py.File(path, "a") as handle:
        handle.attrs[key] = value
    with pytest.raises(FormatError, match=rf"a\.h5: attribute {key}: expected .*correct the attribute"):
        read_all(path, mesh)


def test_a_file_on_another_mesh_is_refused(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path, fine = write_raw(tmp_path / "a.h5", make_showers(3)), replace(mesh, n_r=8, dr_mm=1.0)
    with pytest.raises(FormatError, match=r"expected .*n_r=8.*found .*n_r=4.*`mesh: \{cells: \[4, 6, 5\], dr_mm: 2"):
        read_all(path, fine)
    named = dataset(mesh=mesh.as_spec().model_dump())
    assert READERS["calochallenge"].describe(path, named, detector_with(fine)).mesh == mesh


def test_a_generated_sample_is_on_the_mesh_of_its_recipe(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh
) -> None:
    path, fine = write_raw(tmp_path / "a.h5", make_showers(3)), replace(mesh, n_r=8, dr_mm=1.0)
    assert read_all(path, fine, files=["*"], particle="gamma").mesh == mesh
    with pytest.raises(FormatError, match="attributes cells, dr_mm, dz_mm"):
        read_all(path, fine, files=["*.h5"])


def test_another_detector_is_refused(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(3))
    with pytest.raises(FormatError, match=r"attribute detector: expected 'SciPb'.*found 'SiW'"):
        read_all(path, mesh, detector="SciPb")


def test_a_truncated_file_is_refused(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(200))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FormatError, match=r"a\.h5: expected a whole HDF5 file"):
        read_all(path, mesh)


def test_a_missing_file_is_refused(tmp_path: Path, mesh: CylinderMesh) -> None:
    with pytest.raises(FormatError, match="expected an HDF5 file, found no file"):
        read_all(tmp_path / "a.h5", mesh)


def test_links_out_of_the_file_are_refused(tmp_path: Path, mesh: CylinderMesh) -> None:
    path = foreign(tmp_path / "a.h5", showers=None)
    with h5py.File(path, "a") as handle:
        handle["showers"] = h5py.ExternalLink(str(foreign(tmp_path / "b.h5")), "showers")
    with pytest.raises(FormatError, match="expected values in this file, found a link"):
        read_all(path, mesh, sampling_corrected=False, angle_deg=90)


def test_virtual_data_sets_and_external_storage_are_refused(tmp_path: Path, mesh: CylinderMesh) -> None:
    virtual, external = (foreign(tmp_path / name, showers=None) for name in ("v.h5", "e.h5"))
    with h5py.File(virtual, "a") as handle:
        layout = h5py.VirtualLayout((3, 120), "f4")
        layout[:] = h5py.VirtualSource(str(foreign(tmp_path / "b.h5")), "showers", (3, 120))
        handle.create_virtual_dataset("showers", layout)
    with h5py.File(external, "a") as handle:
        handle.create_dataset("showers", (3, 120), "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    for path, found in ((virtual, "a virtual data set"), (external, "external storage")):
        with pytest.raises(FormatError, match=f"found {found}; copy the values"):
            read_all(path, mesh, sampling_corrected=False, angle_deg=90)


def test_an_absurd_declared_size_is_refused(tmp_path: Path, mesh: CylinderMesh) -> None:
    path = foreign(tmp_path / "a.h5", showers=None)
    with h5py.File(path, "a") as handle:
        handle.create_dataset("showers", (10**12, 120), "f4", chunks=(64, 120))
    with pytest.raises(FormatError, match="found 0 bytes stored; the file is incomplete"):
        read_all(path, mesh, sampling_corrected=False, angle_deg=90)


def test_the_wrong_layout_is_refused(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(3))
    with pytest.raises(FormatError, match=r"expected one data set per energy, named in GeV.*check `format:`"):
        read_all(path, mesh, format="par04")


def test_par04_cannot_hold_a_continuous_direction(tmp_path: Path, make_showers: Make) -> None:
    with pytest.raises(FormatError, match="expected one angle and azimuth 0"):
        write_raw(tmp_path / "a.h5", make_showers(3, theta=np.array([1.0, 1.1, 1.2])), "par04")


def test_writing_nothing_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected showers to write, got none"):
        write_calochallenge(tmp_path / "a.h5", [], sampling_fraction=0.03, sampling_corrected=False, threshold_mev=0)
    assert not list(tmp_path.iterdir())
