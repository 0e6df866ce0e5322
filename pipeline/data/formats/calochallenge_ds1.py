"""CaloChallenge data set 1: irregular layers, rebinned onto a regular mesh with the energy conserved.

`incident_energies` (N, 1) MeV; `showers` (N, n_voxel) MeV, with r fastest, then alpha, then the layer: 368 voxels
for photons, 533 for pions. The layers' edges in r (mm) and numbers of bins in alpha come from the challenge's XML
(`binning:`; see `binning`). The mesh of the data set (`mesh:`, or the detector's) has one z slice for each layer
that has voxels. Each voxel's energy is shared by overlap, evenly over its area; what lies beyond the mesh's radius
goes into the outermost ring. The angle is constant, from the YAML. Read only.
Source: github.com/CaloChallenge/homepage, zenodo.org/records/6234054.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import Showers
from pipeline.calorimeter.showers import check_energies
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.binning import VoxelLayer, read_binning, rebin_layer
from pipeline.data.formats.claims import described
from pipeline.data.formats.hdf5 import attributes_of, open_raw, read_rows, row_blocks_of, values_of
from pipeline.data.formats.labels import check_labels, named_rows, read_labels
from pipeline.data.formats.reader import Description, FormatError, Labels, Layout, Voxels

LAYOUT = Layout(
    keys="incident_energies (N, 1), showers (N, 368 or 533)",
    source="CaloChallenge data set 1, zenodo.org/records/6234054",
    sampling_corrected=None,
    published="its energies are calibrated layer by layer, no single fraction undoes it: false takes them as they are",
)

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class VoxelDescription(Description):
    """Also the layers that have voxels, in order."""

    layers: tuple[VoxelLayer, ...]

    def facts(self) -> dict[str, Any]:
        """Also the voxels that the showers were rebinned from."""
        return {**super().facts(), "voxel_layers": [asdict(layer) for layer in self.layers]}


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`, also for the binning XML."""
    assert spec.binning is not None  # the spec demands it
    explicit = spec.particle if "particle" in spec.model_fields_set else None
    particle, layers = read_binning(Path(spec.binning), explicit)
    with open_raw(path) as handle:
        showers = values_of(handle, "showers", path)
        n = showers.shape[0]
        theta = check_labels(handle, path, "incident_energies", n)
        description = described(
            path,
            spec,
            detector,
            attributes_of(handle),
            layout=LAYOUT,
            n_showers=n,
            theta=theta,
            own_facts={"particle": particle},
        )
        n_voxels = sum(layer.n_voxels for layer in layers)
        if showers.shape[1:] != (n_voxels,):
            raise FormatError(
                f"{path}: data set showers: expected (N, {n_voxels}) for the '{particle}' layers of {spec.binning}, "
                f"found {showers.shape}; name the file's own binning, or its particle, in the data set's YAML"
            )
    if description.mesh.n_z != len(layers):
        raise FormatError(
            f"{path}: mesh: expected {len(layers)} slices along z, one for each layer of {spec.binning} that has "
            f"voxels, found {description.mesh.n_z}; correct `mesh: {{cells: [R, PHI, {len(layers)}], …}}`"
        )
    return VoxelDescription(**vars(description), layers=layers)


def row_blocks(path: Path, description: Description) -> Iterator[slice]:
    """Row ranges whose showers on the mesh take about 64 MiB."""
    rows = max(1, _BLOCK_BYTES // (8 * description.mesh.n_cells))
    with open_raw(path) as handle:
        blocks = list(row_blocks_of(values_of(handle, "showers", path)))
    for block in blocks:
        for start in range(block.start, block.stop, rows):
            yield slice(start, min(start + rows, block.stop))


def voxels(path: Path, description: Description) -> list[Voxels]:
    """None: the file's voxels are not the mesh's cells."""
    return []


def labels(path: Path, description: Description, rows: slice) -> Labels:
    """Incident energies, and the constant direction."""
    return read_labels(path, "incident_energies", description, rows)


def read(path: Path, description: Description, rows: slice) -> Showers:
    """The showers of a row range on the mesh in visible MeV; raises `FormatError` at impossible values."""
    assert isinstance(description, VoxelDescription)  # describe made it
    mesh = description.mesh
    with open_raw(path) as handle:
        flat = read_rows(handle["showers"], rows)  # (n, layer * alpha * r)
    known = labels(path, description, rows)
    energy = np.empty((len(flat), *mesh.shape), np.float32)
    with named_rows(path, "data set showers", rows):
        check_energies(flat, known.incident_energy)
        start = 0
        for z, layer in enumerate(description.layers):
            own = flat[:, start : start + layer.n_voxels] * np.float64(description.to_visible)
            energy[..., z] = rebin_layer(own, layer, mesh)
            start += layer.n_voxels
        return description.showers(energy, known)
