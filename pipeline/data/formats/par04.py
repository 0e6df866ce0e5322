"""The layout of Geant4's example Par04 and of Zenodo 6082201: one data set per incident energy.

Each key is the incident energy in GeV ("1", "2", … "1024"), each data set (N, r, phi, z) visible MeV,
not divided by the sampling fraction; showers are numbered in ascending energy. A file of one energy may have
it in its path instead (`path_pattern: …{energy_gev}…`), under any key. Angle and detector stand in the path
only: `path_pattern` reads them, else `angle_<degrees>` in the file's name is taken. Our own files carry the
root attributes of `calochallenge`. Source: Geant4 11.4
`examples/extended/parameterisations/Par04/training_vae/utils/preprocess.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.calorimeter import Showers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.calochallenge import own_attributes
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
from pipeline.data.formats.labels import check_shape, named_rows
from pipeline.data.formats.path_pattern import path_facts
from pipeline.data.formats.reader import Description, FormatError, Labels, Layout, Voxels
from pipeline.provenance import atomic_path

LAYOUT = Layout(
    keys="one data set (N, r, phi, z) per energy, named in GeV",
    source="Geant4 example Par04 (preprocess.py), zenodo.org/records/6082201",
    sampling_corrected=None,
    published="those of Zenodo 6082201 are not: false",
)

_ANGLE = re.compile(r"angle_(\d+(?:\.\d+)?)")


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`."""
    with open_raw(path) as handle:
        energies = _energies(handle, path, spec)
        datasets = [values_of(handle, key, path) for key in energies]
        match = None if spec.path_pattern else _ANGLE.search(path.stem)
        description = described(
            path,
            spec,
            detector,
            attributes_of(handle),
            layout=LAYOUT,
            n_showers=sum(dataset.shape[0] for dataset in datasets),
            own_facts={"angle_deg": float(match[1])} if match else {},
        )
        for key, dataset in zip(energies, datasets, strict=True):
            check_shape(path, key, dataset.shape, description.mesh.shape, description.mesh)
        return Par04Description(**vars(description), energies_gev=tuple(energies.items()))


@dataclass(frozen=True)
class Par04Description(Description):
    """Also the keys of the file with their energies in GeV, ascending."""

    energies_gev: tuple[tuple[str, float], ...]


def _energies(handle: h5py.File, path: Path, spec: DatasetSpec) -> dict[str, float]:
    """Each key's energy in GeV, ascending: the number that it is, or the path's where the file has one key."""
    energies = {key: _energy_gev(key) for key in handle}
    from_path = path_facts(path, spec).get("energy_gev")
    if from_path is not None:
        if len(energies) != 1:
            raise FormatError(
                f"{path}: keys: expected one data set, as the path names the energy ({from_path:g} GeV), found "
                f"{sorted(handle)[:8]}; take {{energy_gev}} out of `path_pattern:`"
            )
        ((key, energy),) = energies.items()
        if energy > 0 and not math.isclose(energy, from_path, rel_tol=1e-6):
            raise FormatError(
                f"{path}: energy_gev in the path: expected {energy:g} as the file's key says, found {from_path:g}; "
                "correct `path_pattern:` or take the file out of `files:`"
            )
        energies = {key: from_path}
    if not energies or min(energies.values()) <= 0:
        raise FormatError(
            f"{path}: keys: expected one data set per energy, named in GeV ('1', '64'), found "
            f"{sorted(handle)[:8]}; check `format:` of the data set's YAML"
        )
    return {key: energies[key] for key in sorted(energies, key=lambda key: (energies[key], key))}


def _energy_gev(key: str) -> float:
    """The energy that a key names, 0 where it names none."""
    try:
        energy = float(key)
    except ValueError:
        return 0.0
    return energy if 1e-9 < energy < 1e12 else 0.0


def row_blocks(path: Path, description: Description) -> Iterator[slice]:
    """Row ranges aligned to the file's chunks; none crosses from one energy to the next."""
    blocks, start = [], 0
    with open_raw(path) as handle:
        for key, _ in _described(description).energies_gev:
            blocks += [slice(start + rows.start, start + rows.stop) for rows in row_blocks_of(handle[key])]
            start += handle[key].shape[0]
    yield from blocks


def voxels(path: Path, description: Description) -> list[Voxels]:
    """One data set per energy, ascending, each in the mesh's order."""
    with open_raw(path) as handle:
        sizes = {key: int(handle[key].shape[0]) for key, _ in _described(description).energies_gev}
    firsts = np.cumsum([0, *sizes.values()]).tolist()
    return [Voxels(key, first, n) for first, (key, n) in zip(firsts, sizes.items(), strict=False)]


def labels(path: Path, description: Description, rows: slice) -> Labels:
    """The energies that the keys or the path name; one direction for the whole file."""
    start, stop, _ = rows.indices(description.n_showers)
    energies_gev = dict(_described(description).energies_gev)
    pieces = [
        np.full(max(0, min(stop - v.first, v.n_showers) - max(start - v.first, 0)), 1000 * energies_gev[v.key])
        for v in voxels(path, description)
    ]
    incident = np.concatenate(pieces)
    return Labels(incident, np.full(len(incident), description.theta_rad), np.zeros(len(incident)))


def read(path: Path, description: Description, rows: slice) -> Showers:
    """The showers of a row range in visible MeV; raises `FormatError` at impossible values."""
    start, stop, _ = rows.indices(description.n_showers)
    pieces = [np.zeros((0, *description.mesh.shape), np.float32)]
    for v in voxels(path, description):
        low, high = max(start - v.first, 0), min(stop - v.first, v.n_showers)
        if low < high:
            with open_raw(path) as handle:
                pieces.append(read_rows(handle[v.key], slice(low, high)))
    energy = pieces[1] if len(pieces) == 2 else np.concatenate(pieces)
    if description.to_visible != 1:
        energy *= np.float32(description.to_visible)
    with named_rows(path, "showers in ascending energy", rows):
        return description.showers(energy, labels(path, description, rows))


def _described(description: Description) -> Par04Description:
    assert isinstance(description, Par04Description)  # describe made it
    return description


def write(
    path: Path,
    blocks: Iterable[Showers],
    *,
    sampling_fraction: float,
    sampling_corrected: bool,
    threshold_mev: float,
    attributes: Mapping[str, Any] = {},
) -> None:
    """Write showers (visible MeV) of fixed energies at one angle, divided by the fraction when corrected."""
    scale = 1 / sampling_fraction if sampling_corrected else 1.0
    first: Showers | None = None
    with atomic_path(path) as temporary, create_raw(temporary) as handle:
        rows: dict[str, GrowingRows] = {}
        for block in filter(len, blocks):
            first = first or block
            _check_block(path, first, block)
            for energy_mev in np.unique(block.incident_energy):
                key = _key(path, float(energy_mev))
                if key not in rows:
                    rows[key] = GrowingRows(handle, key, block.mesh.shape)
                rows[key].append(block.energy[block.incident_energy == energy_mev] * scale)
        if first is None:
            raise FormatError(f"{path}: expected showers to write, got none; check what makes them")
        for key in sorted(rows, key=float):
            rows[key].close()
        set_attributes(
            handle,
            {
                **attributes,
                **own_attributes(first),
                "angle_deg": round(float(np.degrees(first.theta[0])), 4),
                "sampling_fraction": sampling_fraction,
                "sampling_corrected": sampling_corrected,
                "threshold_mev": threshold_mev,
            },
        )


def _check_block(path: Path, first: Showers, block: Showers) -> None:
    if (block.mesh, block.detector, block.particle) != (first.mesh, first.detector, first.particle):
        raise FormatError(
            f"{path}: expected {first.detector}, {first.particle} on {first.mesh} in all blocks, "
            f"got {block.detector}, {block.particle} on {block.mesh}; write two files"
        )
    if (block.theta != first.theta[0]).any() or block.phi.any():
        raise FormatError(
            f"{path}: expected one angle and azimuth 0 as the par04 layout has no place for more; "
            "write one file per angle, or the calochallenge layout"
        )


def _key(path: Path, energy_mev: float) -> str:
    """The key of an energy; refused when it would not read back."""
    key = f"{energy_mev / 1000:.7g}"
    if not math.isclose(float(key) * 1000, energy_mev, rel_tol=1e-6):
        raise FormatError(f"{path}: expected fixed energies, got {energy_mev!r} MeV; use the calochallenge layout")
    return key
