"""A folder with good and bad files: the good ones become parts, each bad one fails its own job and is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_files import RawFile, valid
from workflow_fixtures import Workspace

REFUSED = {
    "nan": r"nan\.h5: data set showers.*expected finite cell energies, got nan",
    "truncated": r"truncated\.h5: expected a whole HDF5 file",
    "text": r"text\.h5: expected a whole HDF5 file",
    "linked": r"linked\.h5: data set showers: expected values in this file, found a link",
    "SciPb": r"detector in the path: expected SiW as in the data set's YAML, found SciPb",
}


def bad_files(folder: Path) -> None:
    raw = valid("par04_events")
    raw.content["showers"][2, 1, 1, 1] = np.nan
    raw.write(folder / "SiW_nan.h5")
    whole = valid("par04_events", 1).write(folder / "SiW_truncated.h5")
    whole.write_bytes(whole.read_bytes()[:-100])
    (folder / "SiW_text.h5").write_text("no HDF5")
    with h5py.File(valid("par04_events", 2).write(folder / "SiW_linked.h5"), "a") as handle:
        handle.move("showers", "elsewhere")
        handle["showers"] = h5py.SoftLink("/elsewhere")
    valid("par04_events", 3).write(folder / "SciPb_other.h5")


def section(raw: RawFile, files: str) -> dict[str, object]:
    mesh = {"cells": list(raw.mesh.shape), "dr_mm": raw.mesh.dr_mm, "dz_mm": raw.mesh.dz_mm}
    return {"format": raw.layout, "files": files, "detector": "SiW", "mesh": mesh, **raw.spec}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two data sets: one file of our own layout, and a folder of good and bad files by others."""
    folder = tmp_path / "raw"
    folder.mkdir()
    native = valid("caloforge")
    native.attributes |= {"cells": native.mesh.shape, "dr_mm": native.mesh.dr_mm, "dz_mm": native.mesh.dz_mm}
    native.write(tmp_path / "native.h5")
    events = valid("par04_events")
    for seed in (4, 5):
        valid("par04_events", seed).write(folder / f"SiW_good{seed}.h5", compression="lzf", shuffle=True)
    bad_files(folder)
    datasets = {
        "own": section(native, "native.h5"),
        "foreign": {**section(events, "raw/*.h5"), "path_pattern": "{detector}_"},
    }
    workspace = Workspace(tmp_path)
    workspace.configure({"experiment": "refused", "datasets": datasets})
    return workspace


def test_bad_files_are_named_and_the_good_ones_become_parts(workspace: Workspace) -> None:
    with pytest.raises(AssertionError, match="snakemake ended with 1") as caught:
        workspace.snakemake()
    store = workspace.folder / "data" / "store"
    parts = sorted(f"{path.parent.name.partition('-')[0]}/{path.name}" for path in store.glob("*/*.json"))
    assert parts == ["foreign/SiW_good4.json", "foreign/SiW_good5.json", "own/native.json"]
    assert not list(store.rglob("*.tmp")) and len(list(store.glob("*/*.zarr"))) == 3
    logs = " ".join(path.read_text() for path in (workspace.folder / "logs").rglob("*.log"))
    for name, message in REFUSED.items():
        assert re.search(message, logs), name
        assert name in str(caught.value)
    inspected = workspace.caloforge("inspect", *map(str, sorted((workspace.folder / "raw").glob("*.h5"))), "--quick")
    refused = inspected.stderr.strip().splitlines()
    assert inspected.returncode == 1 and len(refused) == 4, inspected.stderr
    for path in (workspace.folder / "raw").glob("*.h5"):
        if "good" not in path.name:
            path.unlink()
    workspace.snakemake()
    assert workspace.jobs() == {}
    manifest = json.loads(next(store.glob("foreign*/SiW_good4.json")).read_text())
    assert manifest["n_showers"] == 5 and manifest["source"]["name"] == "SiW_good4.h5"
    shutil.rmtree(store)
