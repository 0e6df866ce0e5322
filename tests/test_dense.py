"""The dense export: what plain xarray opens is to the bit what the parts hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from data_fixtures import make_part

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.cli import main
from pipeline.data import dense
from pipeline.data.dense import export_dense
from pipeline.data.store import Part, StoreError
from pipeline.provenance import tree_digest

Make = Callable[..., Showers]


def parts_of(folder: Path, make_showers: Make) -> list[Part]:
    return [make_part(folder, make_showers(n, seed=n), f"part{n}") for n in (7, 25, 4)]


@pytest.mark.filterwarnings("error")
def test_plain_xarray_opens_the_showers_of_all_parts_in_order(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch, mesh: CylinderMesh
) -> None:
    monkeypatch.setattr(dense, "DENSE_CHUNK", 4)
    monkeypatch.setattr(dense, "DENSE_SHARD", 12)
    parts = parts_of(tmp_path, make_showers)
    content = xr.open_zarr(export_dense(parts, tmp_path / "all.zarr"))
    expected = [part.read().dense() for part in parts]
    assert content.shower_energy.dims == ("shower", "r", "phi", "z") and content.shower_energy.dtype == np.float32
    np.testing.assert_array_equal(content.shower_energy, np.concatenate([s.energy for s in expected]))
    for name, label in (("incident_energy", "incident_energy"), ("incident_theta", "theta"), ("incident_phi", "phi")):
        np.testing.assert_array_equal(content[name], np.concatenate([getattr(s, label) for s in expected]))
    assert content.shower_energy.attrs["units"] == "MeV" and content.incident_theta.attrs["units"] == "rad"
    np.testing.assert_array_equal(content.r, mesh.r_mm)
    assert {name: content[name].attrs["units"] for name in ("r", "phi", "z")} == {"r": "mm", "phi": "rad", "z": "mm"}
    assert content.attrs["detector"] == "SiW" and content.attrs["dr_mm"] == mesh.dr_mm
    assert content.attrs["parts"] == [{"name": part.path.stem, "digest": part.digest} for part in parts]


def test_chunks_and_codec_are_those_of_the_notes(tmp_path: Path, make_showers: Make) -> None:
    array = Part.open(make_part(tmp_path, make_showers(20)).path)
    export_dense([array], tmp_path / "a_dense.zarr")
    import zarr

    found = zarr.open_group(tmp_path / "a_dense.zarr", mode="r")["shower_energy"]
    assert (found.chunks, found.shards) == ((16, 4, 6, 5), (320, 4, 6, 5))
    assert [codec.to_dict()["name"] for codec in found.compressors] == ["zstd"]


def test_a_dense_part_exports_alike_and_twice_the_same_bytes(
    tmp_path: Path, make_showers: Make, mesh: CylinderMesh
) -> None:
    energy = np.random.default_rng(1).uniform(size=(40, *mesh.shape)).astype(np.float32)
    part = make_part(tmp_path, make_showers(40, energy=energy))
    assert part.manifest["layout"] == "dense"
    export_dense([part], tmp_path / "one.zarr")
    export_dense([part], tmp_path / "two.zarr")
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "one.zarr", consolidated=False).shower_energy, energy)
    assert tree_digest(tmp_path / "one.zarr") == tree_digest(tmp_path / "two.zarr")


def test_an_export_that_fails_leaves_the_old_store(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = make_part(tmp_path, make_showers(9))
    export_dense([part], tmp_path / "out" / "all.zarr")
    before = tree_digest(tmp_path / "out" / "all.zarr")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Part, "read", fail)
    with pytest.raises(OSError, match="disk full"):
        export_dense([part], tmp_path / "out" / "all.zarr")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.zarr"]
    assert tree_digest(tmp_path / "out" / "all.zarr") == before


def test_parts_on_other_meshes_are_refused(tmp_path: Path, make_showers: Make) -> None:
    other = CylinderMesh(2, 6, 5, 4.0, 3.0)
    parts = [make_part(tmp_path, make_showers(3), "a"), make_part(tmp_path, make_showers(3, mesh=other), "b")]
    with pytest.raises(StoreError, match=r"b\.json: expected SiW, e- on .*n_r=4.*, found .*n_r=2.*\(--each\)"):
        export_dense(parts, tmp_path / "all.zarr")


def test_the_command_takes_manifests_together_or_each(
    tmp_path: Path, make_showers: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = [str(part.path) for part in parts_of(tmp_path, make_showers)]
    assert main(["export-dense", *manifests, "--output", str(tmp_path / "all.zarr")]) == 0
    assert xr.open_zarr(tmp_path / "all.zarr", consolidated=False).sizes["shower"] == 36
    assert main(["export-dense", *manifests, "--each", "--output", str(tmp_path / "each")]) == 0
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["part25.zarr", "part4.zarr", "part7.zarr"]
    assert main(["export-dense", "--output", str(tmp_path / "none.zarr")]) == 1
    assert "expected either manifests of parts or --dataset NAME" in capsys.readouterr().err
