"""A tiny valid file of every layout, as data that a test may spoil before it is written.

The content is what others write with plain h5py; nothing here goes through our own writers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data_fixtures import dataset, detector_with, sparse_values

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats import READERS

N = 5
MESH = CylinderMesh(4, 6, 5, dr_mm=2.0, dz_mm=3.0)
LAYERS_MESH = CylinderMesh(4, 6, 2, dr_mm=2.0, dz_mm=3.0)
BINNING = (
    '<Bins><Bin name="photon"><Layer id="0" r_edges="0,1,3,7" n_bin_alpha="2"/><Layer id="1" r_edges="0" '
    'n_bin_alpha="1"/><Layer id="2" r_edges="0,4,20" n_bin_alpha="1"/></Bin></Bins>'
)

Write = Callable[[h5py.File, str], None]


@dataclass
class RawFile:
    """The data sets of a file (arrays, or functions that write them), its attributes and its data set's YAML."""

    layout: str
    content: dict[str, Any]
    spec: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    mesh: CylinderMesh = MESH

    def write(self, path: Path, **options: Any) -> Path:
        """Write the file; `options` are those of h5py for every array."""
        with h5py.File(path, "w") as handle:
            for key, values in self.content.items():
                if callable(values):
                    values(handle, key)
                else:
                    handle.create_dataset(key, data=values, **options)
            handle.attrs.update(self.attributes)
        return path

    def configured(self, folder: Path) -> tuple[DatasetSpec, DetectorSpec]:
        """The data set's and the detector's specs; the binning file is written to the folder."""
        spec = dict(self.spec)
        if self.layout == "calochallenge_ds1":
            (folder / "binning.xml").write_text(BINNING)
            spec["binning"] = str(folder / "binning.xml")
        return dataset(format=self.layout, **spec), detector_with(self.mesh)


def read_whole(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> RaggedShowers:
    """Everything that ingest asks of a reader, block by block."""
    reader = READERS[spec.format]
    description = reader.describe(path, spec, detector)
    reader.voxels(path, description)
    blocks = list(reader.row_blocks(path, description))
    for rows in blocks:
        reader.labels(path, description, rows)
    return RaggedShowers.concatenate(
        [RaggedShowers.from_dense(reader.read(path, description, rows)) for rows in blocks]
    )


def valid(layout: str, seed: int = 0) -> RawFile:
    """A file of five showers that every test starts from."""
    rng = np.random.default_rng(seed)
    incident, said = np.geomspace(1e3, 1e6, N), {"sampling_corrected": False, "angle_deg": 90}
    cells = sparse_values((N, *MESH.shape), seed) + np.float32(0.01) * (rng.uniform(size=(N, *MESH.shape)) < 0.2)
    angles = {"incident_theta": rng.uniform(1, 2, N), "incident_phi": rng.uniform(-3, 3, N)}
    events = {"showers": cells, "incident_energy": incident}
    if layout == "calochallenge":
        flat = cells.transpose(0, 3, 2, 1).reshape(N, -1)
        return RawFile(layout, {"showers": flat, "incident_energies": incident[:, None]}, said)
    if layout == "calochallenge_ds1":
        voxels = rng.exponential(size=(N, 8)).astype("f4")
        return RawFile(layout, {"showers": voxels, "incident_energies": incident[:, None]}, said, mesh=LAYERS_MESH)
    if layout == "par04":
        return RawFile(layout, {"1": cells[:3], "16": cells[3:]}, said)
    if layout == "par04_events":
        return RawFile(layout, events, said)
    if layout == "lemurs":
        return RawFile(layout, {**events, **angles}, {})
    assert layout == "caloforge"
    flat = cells.reshape(N, -1)
    hits = {"row_size": (flat > 0).sum(axis=1), "cell": np.nonzero(flat)[1].astype("u2"), "energy": flat[flat > 0]}
    attributes = {"layout": "caloforge", "detector": "SiW", "particle": "e-", "sampling_corrected": False}
    return RawFile(layout, {**hits, "incident_energy": incident, **angles}, {}, attributes)
