"""Our own sparse layout: what is written reads back, and what cannot be right is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import dataset, detector_with, read_all, same, write_raw

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import SimulateSpec
from pipeline.data.formats import READERS, WRITERS, FormatError
from pipeline.data.ingest import ingest
from pipeline.data.store import Part
from pipeline.stages import simulate_file

Make = Callable[..., Showers]


def native(path: Path, showers: Showers, **changes: Any) -> Path:
    """Our own layout, as docs/formats.md describes it."""
    flat = showers.energy.reshape(len(showers), -1)
    content = {
        "row_size": (flat > 0).sum(axis=1).astype("i4"),
        "cell": np.nonzero(flat)[1].astype("u2"),
        "energy": flat[flat > 0],
        "incident_energy": showers.incident_energy,
        "incident_theta": showers.theta,
        "incident_phi": showers.phi,
        **changes,
    }
    with h5py.File(path, "w") as handle:
        for key, column in content.items():
            if column is not None:
                handle[key] = column
        handle.attrs.update({"layout": "caloforge", "detector": "SiW", "particle": "e+", "sampling_corrected": False})
        handle.attrs.update({"cells": showers.mesh.shape, "dr_mm": showers.mesh.dr_mm, "dz_mm": showers.mesh.dz_mm})
    return path


def test_native_files_say_everything(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    showers = make_showers(6, theta=np.linspace(1, 2, 6))
    back = read_all(native(tmp_path / "a.h5", showers), mesh, format="caloforge")
    np.testing.assert_array_equal(back.energy, showers.energy)
    np.testing.assert_array_equal(back.theta, showers.theta)
    assert (back.particle, back.mesh) == ("e+", mesh)


@pytest.mark.parametrize("corrected", [False, True])
def test_what_is_written_natively_reads_back(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, corrected: bool
) -> None:
    showers = make_showers(70, theta=np.linspace(1, 2, 70), incident_energy=np.geomspace(1e3, 1e6, 70))
    path = write_raw(tmp_path / "a.h5", showers, "caloforge", sampling_corrected=corrected)
    back = read_all(path, mesh, format="caloforge")
    np.testing.assert_allclose(back.energy, showers.energy, rtol=3e-7)
    np.testing.assert_allclose(back.incident_energy, showers.incident_energy, rtol=1e-7)
    reader = READERS["caloforge"]
    description = reader.describe(path, dataset(format="caloforge"), detector_with(mesh))
    some = reader.read(path, description, slice(10, 13))
    np.testing.assert_array_equal(some.energy, back.energy[10:13])
    assert [(b.start, b.stop) for b in reader.row_blocks(path, description)] == [(0, 70)]


def test_native_blocks_are_bounded(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.formats.native._BLOCK_HITS", 100)
    showers = make_showers(20)
    path = native(tmp_path / "a.h5", showers)
    reader = READERS["caloforge"]
    description = reader.describe(path, dataset(format="caloforge"), detector_with(mesh))
    blocks = list(reader.row_blocks(path, description))
    assert len(blocks) > 5 and blocks[0].start == 0 and blocks[-1].stop == 20
    assert all(a.stop == b.start for a, b in pairwise(blocks))


def test_the_layout_does_not_change_the_part(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    showers = replace(make_showers(9, incident_energy=np.repeat([1e3, 2e3, 4e3], 3)), particle="e-")
    parts = []
    for layout in ("calochallenge", "caloforge", "par04"):
        raw = write_raw(tmp_path / f"{layout}.h5", showers, layout)
        ingest(raw, tmp_path / f"{layout}.json", dataset(format=layout), detector_with(mesh), "siw")
        parts.append(Part.open(tmp_path / f"{layout}.json"))
    for part in parts[1:]:
        assert same(part.read(), parts[0].read())
        np.testing.assert_array_equal(part.shower_hash, parts[0].shower_hash)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_size": np.array([9, 9, 9], "i4")}, "cell: expected 27 hits as in row_size, found shape"),
        ({"row_size": np.array([-1, 2, 3], "i4")}, "row_size: expected numbers of hits"),
        ({"row_size": np.array([1.0, 2, 3])}, "row_size: expected integers, found float64"),
        (
            {"cell": lambda cell: np.where(cell == cell.max(), 120, cell)},
            r"cell: expected indices below 120, found",
        ),
        ({"cell": lambda cell: cell[::-1]}, "cell: expected indices that ascend within a shower, found"),
        ({"energy": lambda energy: -energy}, "energy: expected finite energies > 0 MeV, found -.* in shower 0"),
        ({"energy": lambda energy: energy * np.nan}, "energy: expected finite energies > 0 MeV, found nan"),
        ({"incident_energy": np.array([1.0, 0.0, 1.0])}, "expected an incident energy > 0 MeV, found 0 in row 1"),
        ({"incident_energy": None}, "incident_energy: expected it at the file's root"),
    ],
)
def test_native_refuses(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh, changes: dict[str, Any], message: str
) -> None:
    hits = RaggedShowers.from_dense(make_showers(3))
    changes = {key: made(getattr(hits, key)) if callable(made) else made for key, made in changes.items()}
    path = native(tmp_path / "a.h5", make_showers(3), **changes)
    with pytest.raises(FormatError, match=rf"a\.h5: data set .*{message}"):
        read_all(path, mesh, format="caloforge")


def test_a_file_of_another_layout_is_not_native(tmp_path: Path, make_showers: Make, mesh: CylinderMesh) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(3))
    with pytest.raises(FormatError, match="attribute layout: expected 'caloforge', found None; check `format:`"):
        read_all(path, mesh, format="caloforge")


def test_native_bytes_do_not_depend_on_blocks(tmp_path: Path, make_showers: Make) -> None:
    showers = make_showers(150)
    options = {"sampling_fraction": 0.03, "sampling_corrected": False, "threshold_mev": 5e-4}
    WRITERS["caloforge"].write(tmp_path / "a.h5", [showers], **options)
    WRITERS["caloforge"].write(tmp_path / "b.h5", [showers[i : i + 7] for i in range(0, 150, 7)], **options)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_simulated_showers_can_be_native(tmp_path: Path, mesh: CylinderMesh) -> None:
    content = {"engine": "parametric", "files": 1, "showers": 20, "energy_gev": [1, 4], "layout": "caloforge"}
    spec = SimulateSpec.model_validate({**content, "mesh": mesh.as_spec().model_dump()})
    simulate_file(tmp_path / "a.h5", spec, "SiW", detector_with(mesh), seed=1)
    manifest = ingest(tmp_path / "a.h5", tmp_path / "a.json", dataset(format="caloforge"), detector_with(mesh), "siw")
    assert (manifest["n_showers"], manifest["threshold_mev"]) == (20, 5e-4)
