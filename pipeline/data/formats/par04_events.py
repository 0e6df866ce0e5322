"""The layout of the newer Par04 writer: all energies in one array, one incident energy per shower.

`incident_energy` (N,) MeV; `showers` (N, r, phi, z) MeV, float32 or float64, gzip 9; `incident_theta` and
`incident_phi` (N,) rad may be missing, then the angle must stand in the YAML or in the path. The detector stands
nowhere. Source: `root2h5.py` of Geant4 11.4 `examples/extended/parameterisations/Par04`, which writes the cells'
energies as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import Showers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.claims import described
from pipeline.data.formats.hdf5 import attributes_of, open_raw, read_rows, row_blocks_of, values_of
from pipeline.data.formats.labels import check_labels, check_shape, named_rows, read_labels
from pipeline.data.formats.reader import Description, Labels, Layout, Voxels

LAYOUT = Layout(
    keys="incident_energy (N,), showers (N, r, phi, z), perhaps incident_theta and incident_phi (N,)",
    source="Geant4 example Par04 (root2h5.py)",
    sampling_corrected=None,
    published="the example's writer does not divide: false",
)


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`."""
    return describe_events(path, spec, detector, LAYOUT)


def describe_events(
    path: Path, spec: DatasetSpec, detector: DetectorSpec, layout: Layout, own_facts: Mapping[str, Any] = {}
) -> Description:
    """What a file of this layout, or of one that narrows it, holds; raises `FormatError`."""
    with open_raw(path) as handle:
        showers = values_of(handle, "showers", path)
        n = showers.shape[0]
        theta = check_labels(handle, path, "incident_energy", n)
        attributes = attributes_of(handle)
        description = described(
            path, spec, detector, attributes, layout=layout, n_showers=n, theta=theta, own_facts=own_facts
        )
        check_shape(path, "showers", showers.shape, description.mesh.shape, description.mesh)
        return description


def row_blocks(path: Path, description: Description) -> Iterator[slice]:
    """Row ranges aligned to the file's chunks."""
    with open_raw(path) as handle:
        yield from list(row_blocks_of(values_of(handle, "showers", path)))


def voxels(path: Path, description: Description) -> list[Voxels]:
    """One data set, in the mesh's order."""
    return [Voxels("showers", 0, description.n_showers)]


def labels(path: Path, description: Description, rows: slice) -> Labels:
    """Incident energies, and directions where the file has them."""
    return read_labels(path, "incident_energy", description, rows)


def read(path: Path, description: Description, rows: slice) -> Showers:
    """The showers of a row range in visible MeV; raises `FormatError` at impossible values."""
    with open_raw(path) as handle:
        energy = read_rows(handle["showers"], rows)  # (n, r, phi, z)
    if description.to_visible != 1:
        energy *= np.float32(description.to_visible)
    with named_rows(path, "data set showers", rows):
        return description.showers(energy, labels(path, description, rows))
