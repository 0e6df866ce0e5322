"""CaloChallenge data set 1: irregular voxels from the challenge's XML onto a regular mesh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import read_all, sparse_values
from pydantic import ValidationError

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import Config, ConfigError, DatasetSpec
from pipeline.data.formats import FormatError
from pipeline.data.formats.binning import VoxelLayer, read_binning, rebin_layer, weights
from pipeline.plan import Plan

Make = Callable[..., Showers]

PHOTON = {
    0: ("0,5,10,30,50,100,200,400,600", 1),
    1: ("0,2,4,6,8,10,12,15,20,30,40,50,70,90,120,150,200", 10),
    2: ("0,2,5,10,15,20,25,30,40,50,60,80,100,130,160,200,250,300,350,400", 10),
    3: ("0,50,100,200,400,600", 1),
    12: ("0,100,200,400,1000,2000", 1),
}
PION = {
    0: ("0,5,10,30,50,100,200,400,600", 1),
    1: ("0,1,4,7,10,15,30,50,90,150,200", 10),
    2: ("0,5,10,20,30,50,80,130,200,300,400", 10),
    3: ("0,50,100,200,400,600", 1),
    12: ("0,10,20,30,50,80,100,130,160,200,250,300,350,400,1000,2000", 10),
    13: ("0,10,20,30,50,80,100,130,160,200,250,300,350,400,600,1000,2000", 10),
    14: ("0,50,100,150,200,250,300,400,600,1000,2000", 1),
}


def binning_xml(path: Path, **blocks: dict[int, tuple[str, int]]) -> Path:
    """As the challenge's files: 24 layers, most of them with the single edge 0."""
    lines = ["<Bins>"]
    for name, layers in blocks.items():
        lines.append(f'   <Bin pid="{22 if name == "photon" else 211}" etaMin="0" etaMax="130" name="{name}">')
        for i in range(24):
            edges, n_alpha = layers.get(i, ("0", 1))
            lines.append(f'      <Layer id="{i}" r_edges="{edges}" n_bin_alpha="{n_alpha}" /> ')
        lines.append("   </Bin>")
    path.write_text("\n".join([*lines, "</Bins>", ""]))
    return path


def data_set_1(folder: Path, voxels: int, n: int = 4) -> tuple[Path, np.ndarray]:
    path, showers = folder / "dataset_1.hdf5", sparse_values((n, voxels)).astype(np.float64)
    with h5py.File(path, "w") as handle:
        energies = np.array([[256.0], [512], [1024], [4194304]][:n])
        handle.create_dataset("incident_energies", data=energies, compression="gzip")
        handle.create_dataset("showers", data=showers, compression="gzip")
    return path, showers


@pytest.mark.parametrize(
    ("name", "layers", "voxels", "particle"), [("photon", PHOTON, 368, "gamma"), ("pion", PION, 533, "pi+")]
)
def test_calochallenge_1(
    tmp_path: Path, name: str, layers: dict[int, tuple[str, int]], voxels: int, particle: str
) -> None:
    xml = binning_xml(tmp_path / "binning.xml", **{name: layers})
    found, parsed = read_binning(xml, None)
    assert (found, sum(layer.n_voxels for layer in parsed)) == (particle, voxels)
    path, voxel_energy = data_set_1(tmp_path, voxels)
    mesh = CylinderMesh(24, 10, len(layers), dr_mm=25.0, dz_mm=40.0)
    spec = {"binning": str(xml), "sampling_corrected": False, "angle_deg": 90}
    showers = read_all(path, mesh, format="calochallenge_ds1", **spec)
    assert (showers.particle, showers.mesh) == (particle, mesh)
    ends = np.cumsum([layer.n_voxels for layer in parsed])[:-1]
    by_layer = np.stack([part.sum(axis=1) for part in np.split(voxel_energy, ends, axis=1)], axis=1)
    np.testing.assert_allclose(showers.energy.sum(axis=(1, 2), dtype=float), by_layer, rtol=3e-7)


def test_voxels_that_are_cells_are_copied() -> None:
    layer, mesh = VoxelLayer(0, (0.0, 2.0, 4.0, 6.0), 5), CylinderMesh(3, 5, 1, 2.0, 1.0)
    voxels = sparse_values((4, 15))
    moved = rebin_layer(voxels, layer, mesh)
    np.testing.assert_allclose(moved, voxels.reshape(4, 5, 3).transpose(0, 2, 1), rtol=1e-15)


def test_a_voxel_is_shared_by_area_and_what_is_outside_goes_to_the_last_ring() -> None:
    layer, mesh = VoxelLayer(0, (0.0, 2.0, 10.0), 1), CylinderMesh(3, 4, 1, 1.0, 1.0)
    in_r, in_alpha = weights(layer, mesh)
    np.testing.assert_allclose(in_r, [[1 / 4, 3 / 4, 0], [0, 0, 1]])
    np.testing.assert_allclose(in_alpha, [[1 / 4] * 4])


def test_rebinning_agrees_with_many_points(tmp_path: Path) -> None:
    """The slow twin: points spread evenly over a voxel, counted in the mesh's cells."""
    layer, mesh = VoxelLayer(0, (0.0, 3.0, 7.0), 3), CylinderMesh(4, 5, 1, 1.5, 1.0)
    rng = np.random.default_rng(0)
    n = 200_000
    r, alpha = np.sqrt(rng.uniform(3.0**2, 7.0**2, n)), rng.uniform(1 / 3, 2 / 3, n)
    ring = np.minimum((r / mesh.dr_mm).astype(int), mesh.n_r - 1)
    slow = np.zeros((4, 5))
    np.add.at(slow, (ring, (alpha * mesh.n_phi).astype(int)), 1 / n)
    voxels = np.zeros((1, 6))
    voxels[0, 1 * 2 + 1] = 1.0  # alpha bin 1, r bin 1
    np.testing.assert_allclose(rebin_layer(voxels, layer, mesh)[0], slow, atol=5e-3)


def test_rebinning_conserves_energy_to_rounding() -> None:
    _, edges = "photon", PHOTON[2][0]
    layer = VoxelLayer(2, tuple(map(float, edges.split(","))), 10)
    voxels = np.random.default_rng(0).exponential(size=(50, layer.n_voxels))
    for mesh in (CylinderMesh(7, 16, 1, 13.0, 1.0), CylinderMesh(400, 30, 1, 1.0, 1.0)):
        np.testing.assert_allclose(rebin_layer(voxels, layer, mesh).sum(axis=(1, 2)), voxels.sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        (None, {}, r"binning\.xml: expected the challenge's binning XML, found.*No such file"),
        ("<Bins><Bin", {}, r"binning\.xml: expected the challenge's binning XML, found"),
        ("<Bins></Bins>", {}, r"binning\.xml: expected one block for particle 'any', found \[\]"),
        ("photon", {"particle": "pi+"}, r"expected one block for particle 'pi\+', found \['gamma'\]"),
        ('<B><B name="photon"><L id="0" r_edges="0,x" n_bin_alpha="1"/></B></B>', {}, "Layer 0: expected id, r_edges"),
        ('<B><B name="photon"><L id="0" r_edges="0,5,2" n_bin_alpha="1"/></B></B>', {}, "expected ascending r_edges"),
        ("pion", {}, r"showers: expected \(N, 533\) for the 'pi\+' layers of .*found \(4, 368\); name the file's own"),
        ("photon", {"mesh": {"cells": [4, 6, 7], "dr_mm": 9, "dz_mm": 9}}, "mesh: expected 5 slices along z.*found 7"),
    ],
)
def test_data_set_1_refuses(tmp_path: Path, text: str | None, spec: dict[str, Any], message: str) -> None:
    xml = tmp_path / "binning.xml"
    if text in ("photon", "pion"):
        binning_xml(xml, **{text: PHOTON if text == "photon" else PION})
    elif text is not None:
        xml.write_text(text)
    path, _ = data_set_1(tmp_path, 368)
    spec = {"format": "calochallenge_ds1", "sampling_corrected": False, "angle_deg": 90, **spec}
    with pytest.raises(FormatError, match=message):
        read_all(path, CylinderMesh(4, 6, 7 if text == "pion" else 5, 9.0, 9.0), binning=str(xml), **spec)


def test_a_negative_voxel_cannot_hide_behind_its_neighbours(tmp_path: Path) -> None:
    path, _ = data_set_1(tmp_path, 368)
    with h5py.File(path, "a") as handle:
        handle["showers"][2, 5] = -1e-3
    spec = {"binning": str(binning_xml(tmp_path / "b.xml", photon=PHOTON)), "sampling_corrected": False}
    with pytest.raises(FormatError, match=r"shower 2: expected cell energies >= 0 MeV, got -0\.001 in cell"):
        read_all(path, CylinderMesh(1, 1, 5, 9.0, 9.0), format="calochallenge_ds1", angle_deg=90, **spec)


def test_binning_belongs_to_data_set_1() -> None:
    for spec in ({"format": "calochallenge_ds1"}, {"format": "calochallenge", "binning": "b.xml"}):
        with pytest.raises(ValidationError, match="expected the binning XML with format 'calochallenge_ds1'"):
            DatasetSpec.model_validate({"detector": "SiW", **spec})


def test_the_content_of_the_binning_is_part_of_the_key(tmp_path: Path) -> None:
    data_set_1(tmp_path, 368)
    xml = binning_xml(tmp_path / "b.xml", photon=PHOTON)
    spec = {"format": "calochallenge_ds1", "binning": str(xml), "files": str(tmp_path / "*.hdf5"), "detector": "SiW"}

    def key(**changes: Any) -> str:
        config = Config.model_validate({"experiment": "x", "datasets": {"d": {**spec, **changes}}})
        return Plan.discover(config).ingest_key("d", "dataset_1")

    before = key()
    assert key(binning=str(xml.rename(tmp_path / "renamed.xml"))) == before
    binning_xml(xml, photon={**PHOTON, 0: ("0,5,10,30,50,100,200,400,700", 1)})
    assert key() != before


def test_a_missing_binning_is_found_before_anything_runs(tmp_path: Path) -> None:
    data_set_1(tmp_path, 368)
    spec = {"format": "calochallenge_ds1", "binning": "no.xml", "files": str(tmp_path / "*.hdf5"), "detector": "SiW"}
    with pytest.raises(ConfigError, match=r"datasets\.d\.binning: expected the file no\.xml, found none"):
        Plan.discover(Config.model_validate({"experiment": "x", "datasets": {"d": spec}}))
