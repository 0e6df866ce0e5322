"""The CaloChallenge layout (data sets 2 and 3): one row of voxels per shower.

`incident_energies` (N, 1) MeV; `showers` (N, n_voxel) with r fastest, then phi, then z, in MeV, by the
challenge divided by the sampling fraction. Our own files add root attributes (detector, particle, cells,
dr_mm, dz_mm, sampling_fraction, sampling_corrected, angle_deg, threshold_mev) and, where the direction
varies, `incident_theta` and `incident_phi` (N,) rad. Source: github.com/CaloChallenge/homepage.
Data set 1 (irregular layers) is `calochallenge_ds1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.claims import described
from pipeline.data.formats.hdf5 import (
    GrowingRows,
    attributes_of,
    create_raw,
    open_raw,
    read_rows,
    row_blocks_of,
    set_attributes,
    values_of,
)
from pipeline.data.formats.labels import check_labels, check_shape, named_rows, read_labels
from pipeline.data.formats.reader import Description, FormatError, Labels, Layout, Voxels
from pipeline.provenance import atomic_path

LAYOUT = Layout(
    keys="incident_energies (N, 1), showers (N, n_voxel)",
    source="CaloChallenge data sets 2 and 3, github.com/CaloChallenge/homepage",
    sampling_corrected=None,
    published="the challenge's files are divided by 0.033: true, and `sampling_fraction: 0.033`",
)


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`."""
    with open_raw(path) as handle:
        showers = values_of(handle, "showers", path)
        n = showers.shape[0]
        theta = check_labels(handle, path, "incident_energies", n)
        attributes = attributes_of(handle)
        description = described(path, spec, detector, attributes, layout=LAYOUT, n_showers=n, theta=theta)
        mesh = description.mesh
        check_shape(path, "showers", showers.shape, (mesh.n_cells,), mesh)
        return description


def row_blocks(path: Path, description: Description) -> Iterator[slice]:
    """Row ranges aligned to the file's chunks."""
    with open_raw(path) as handle:
        yield from list(row_blocks_of(values_of(handle, "showers", path)))


def voxels(path: Path, description: Description) -> list[Voxels]:
    """One data set, r fastest."""
    cells = np.arange(description.mesh.n_cells).reshape(description.mesh.shape).transpose(2, 1, 0)
    return [Voxels("showers", 0, description.n_showers, cells.ravel())]


def labels(path: Path, description: Description, rows: slice) -> Labels:
    """Incident energies, and directions where they vary."""
    return read_labels(path, "incident_energies", description, rows)


def read(path: Path, description: Description, rows: slice) -> Showers:
    """The showers of a row range in visible MeV; raises `FormatError` at impossible values."""
    mesh = description.mesh
    with open_raw(path) as handle:
        flat = read_rows(handle["showers"], rows)  # (n, z * phi * r)
    if description.to_visible != 1:
        flat *= np.float32(description.to_visible)
    energy = flat.reshape(-1, mesh.n_z, mesh.n_phi, mesh.n_r).transpose(0, 3, 2, 1)  # (n, r, phi, z)
    with named_rows(path, "data set showers", rows):
        return description.showers(energy, labels(path, description, rows))


def write(
    path: Path,
    blocks: Iterable[Showers],
    *,
    sampling_fraction: float,
    sampling_corrected: bool,
    threshold_mev: float,
    attributes: Mapping[str, Any] = {},
) -> None:
    """Write showers (visible MeV) to a file, divided by the sampling fraction when `sampling_corrected`."""
    scale = 1 / sampling_fraction if sampling_corrected else 1.0
    columns: list[NDArray[np.float64]] = []
    with atomic_path(path) as temporary, create_raw(temporary) as handle:
        rows, first = None, None
        for block in filter(len, blocks):
            first = first or block
            check_like(path, first, block)
            rows = rows or GrowingRows(handle, "showers", (block.mesh.n_cells,))
            rows.append(challenge_order(block) * scale)
            columns.append(np.stack([block.incident_energy, block.theta, block.phi]).astype(np.float64))
        if rows is None or first is None:
            raise FormatError(f"{path}: expected showers to write, got none; check what makes them")
        rows.close()
        rows.dataset.attrs["order"] = "z,phi,r (r fastest)"
        angle = _write_labels(handle, np.concatenate(columns, axis=1))
        set_attributes(
            handle,
            {
                **attributes,
                **own_attributes(first),
                "angle_deg": angle,
                "sampling_fraction": sampling_fraction,
                "sampling_corrected": sampling_corrected,
                "threshold_mev": threshold_mev,
            },
        )


def challenge_order(showers: Showers) -> NDArray[np.floating]:
    """Energies as (shower, voxel) with r fastest, then phi, then z."""
    return showers.energy.transpose(0, 3, 2, 1).reshape(len(showers), -1)


def own_attributes(showers: Showers) -> dict[str, Any]:
    """The root attributes by which a file explains itself."""
    mesh: CylinderMesh = showers.mesh
    return {
        "detector": showers.detector,
        "particle": showers.particle,
        "cells": list(mesh.shape),
        "dr_mm": mesh.dr_mm,
        "dz_mm": mesh.dz_mm,
        "axes": "r,phi,z",
        "unit": "MeV",
    }


def check_like(path: Path, first: Showers, block: Showers) -> None:
    """Refuse a block of another detector, particle or mesh than the first one."""
    if (block.mesh, block.detector, block.particle) != (first.mesh, first.detector, first.particle):
        raise FormatError(
            f"{path}: expected {first.detector}, {first.particle} on {first.mesh} in all blocks, "
            f"got {block.detector}, {block.particle} on {block.mesh}; write two files"
        )


def _write_labels(handle: h5py.File, labels: NDArray[np.float64]) -> float | None:
    """Write incident energies, and directions where they vary; the constant angle in degrees otherwise."""
    incident, theta, phi = labels.astype(np.float32)
    handle.create_dataset("incident_energies", data=incident[:, None], track_times=False)
    if np.ptp(theta) == 0 and not phi.any():
        return round(float(np.degrees(labels[1, 0])), 4)
    handle.create_dataset("incident_theta", data=theta, track_times=False)
    handle.create_dataset("incident_phi", data=phi, track_times=False)
    return None
