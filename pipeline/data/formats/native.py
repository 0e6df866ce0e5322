"""Our own layout: showers sparse in one HDF5 file, the compact form to hand to others.

A CF contiguous ragged array (CF 1.11, 9.3; as in docs/storage.md): `row_size` (N,) hits per shower; `cell` and
`energy` (hit,): flat index into (r, phi, z), ascending within a shower, and MeV > 0; `incident_energy` MeV,
`incident_theta`, `incident_phi` rad (N,). Root attributes say the rest: `layout: caloforge`, detector, particle,
cells, dr_mm, dz_mm, sampling_fraction, sampling_corrected, threshold_mev. A file needs nothing of the YAML but
`detector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.calorimeter.showers import index_dtype
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.calochallenge import check_like, own_attributes
from pipeline.data.formats.claims import described
from pipeline.data.formats.hdf5 import (
    GrowingRows,
    attributes_of,
    create_raw,
    open_raw,
    read_rows,
    rows_of,
    set_attributes,
    values_of,
)
from pipeline.data.formats.labels import check_labels, named_rows, read_labels
from pipeline.data.formats.reader import Description, FormatError, Labels, Layout, Voxels
from pipeline.provenance import atomic_path

LAYOUT = Layout(
    keys="row_size (N,), cell, energy (hit,), incident_energy, incident_theta, incident_phi (N,)",
    source="Caloforge, docs/formats.md",
    sampling_corrected=None,
    published="our own files say it themselves",
)

_BLOCK_HITS = 1 << 22
_BLOCK_DENSE_BYTES = 256 << 20
_LABEL_CHUNK, _HIT_CHUNK = 1 << 12, 1 << 16


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`."""
    with open_raw(path) as handle:
        _check_layout(handle, path)
        n = values_of(handle, "row_size", path, integer=True).shape[0]
        theta = check_labels(handle, path, "incident_energy", n)
        attributes = attributes_of(handle)
        description = described(path, spec, detector, attributes, layout=LAYOUT, n_showers=n, theta=theta)
        hits = int(_offsets(path)[-1])
        for key in ("cell", "energy"):
            found = handle[key].shape if hits == 0 and key in handle else _hit_shape(handle, path, key)
            if found != (hits,):
                raise FormatError(
                    f"{path}: data set {key}: expected {hits} hits as in row_size, found shape {found}; "
                    "write the file again"
                )
        return description


def _check_layout(handle: h5py.File, path: Path) -> None:
    said = attributes_of(handle).get("layout")
    if said != "caloforge":
        raise FormatError(
            f"{path}: attribute layout: expected 'caloforge', found {said!r}; check `format:` of the data set's YAML"
        )


def _hit_shape(handle: h5py.File, path: Path, key: str) -> tuple[int, ...]:
    shape: tuple[int, ...] = values_of(handle, key, path, integer=key == "cell").shape
    return shape


def _offsets(path: Path) -> NDArray[np.int64]:
    """Start of each shower among the hits, shape (shower + 1,)."""
    stat = path.stat()
    return _offsets_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _offsets_of(path: Path, size: int, mtime_ns: int) -> NDArray[np.int64]:
    with open_raw(path) as handle:
        dataset = values_of(handle, "row_size", path, integer=True)
        row_size = np.asarray(rows_of(dataset, slice(None)), dtype=np.int64) if dataset.ndim == 1 else np.full(1, -1)
    if (row_size < 0).any() or (row_size > 1 << 32).any():
        raise FormatError(
            f"{path}: data set row_size: expected numbers of hits, one for each shower, found shape {dataset.shape} "
            "with other values; write the file again"
        )
    return np.concatenate([[0], np.cumsum(row_size)])


def row_blocks(path: Path, description: Description) -> Iterator[slice]:
    """Row ranges of about 2^22 hits, whose dense form stays below 256 MiB."""
    offsets = _offsets(path)
    most = max(1, _BLOCK_DENSE_BYTES // (4 * description.mesh.n_cells))
    start = 0
    while start < description.n_showers:
        by_hits = int(np.searchsorted(offsets, offsets[start] + _BLOCK_HITS, side="right")) - 1
        stop = min(max(by_hits, start + 1), start + most, description.n_showers)
        yield slice(start, stop)
        start = stop


def voxels(path: Path, description: Description) -> list[Voxels]:
    """None: the file holds hits only."""
    return []


def labels(path: Path, description: Description, rows: slice) -> Labels:
    """Incident energies and directions."""
    return read_labels(path, "incident_energy", description, rows)


def read(path: Path, description: Description, rows: slice) -> Showers:
    """The showers of a row range, dense, in visible MeV; raises `FormatError` at impossible values."""
    showers = read_ragged(path, description, rows)
    with named_rows(path, "showers", rows):
        return showers.dense()


def read_ragged(path: Path, description: Description, rows: slice) -> RaggedShowers:
    """The showers of a row range as they are stored, in visible MeV; raises `FormatError` at impossible values."""
    start, stop, _ = rows.indices(description.n_showers)
    offsets = _offsets(path)[start : stop + 1]
    hits = slice(int(offsets[0]), int(offsets[-1]))
    with open_raw(path) as handle:
        cell = rows_of(handle["cell"], hits)
        energy = read_rows(handle["energy"], hits)
    known = labels(path, description, slice(start, stop))
    _check_hits(path, cell, energy, offsets, description.mesh, start)
    if description.to_visible != 1:
        energy *= np.float32(description.to_visible)
    with named_rows(path, "showers", rows):
        showers = RaggedShowers(
            np.diff(offsets),
            cell.astype(index_dtype(description.mesh)),
            energy,
            known.incident_energy,
            known.theta,
            known.phi,
            description.mesh,
            description.detector,
            description.particle,
        )
    if not (showers.incident_energy > 0).all():
        row = start + int(np.argmax(~(showers.incident_energy > 0)))
        raise FormatError(
            f"{path}: data set incident_energy: expected an incident energy > 0 MeV, found "
            f"{showers.incident_energy[row - start]:g} in row {row}; repair the file or take it out of `files:`"
        )
    return showers


def _check_hits(
    path: Path,
    cell: NDArray[np.integer],
    energy: NDArray[np.float32],
    offsets: NDArray[np.int64],
    mesh: CylinderMesh,
    start: int,
) -> None:
    """Hits inside the mesh, ascending within a shower, with finite energies above 0."""
    starts = np.zeros(len(cell) + 1, bool)
    starts[offsets - offsets[0]] = True
    index = cell.astype(np.int64)
    ascending = np.concatenate([np.ones(min(1, len(index)), bool), np.diff(index) > 0]) | starts[:-1]
    for key, values, right, expected in (
        ("cell", cell, (index >= 0) & (index < mesh.n_cells), f"indices below {mesh.n_cells}"),
        ("cell", cell, ascending, "indices that ascend within a shower"),
        ("energy", energy, np.isfinite(energy) & (energy > 0), "finite energies > 0 MeV"),
    ):
        if not right.all():
            hit = int(np.argmin(right))
            row = start + int(np.searchsorted(offsets, hit + offsets[0], side="right")) - 1
            raise FormatError(
                f"{path}: data set {key}: expected {expected}, found {values[hit]} in shower {row}; "
                "repair the file or take it out of `files:`"
            )


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
    first: Showers | None = None
    with atomic_path(path) as temporary, create_raw(temporary) as handle:
        columns: dict[str, GrowingRows] = {}
        for block in filter(len, blocks):
            if first is None:
                first = replace(block, **{k: getattr(block, k)[:0] for k in ("energy", *_LABELS)})
                columns = _columns(handle, block.mesh)
            check_like(path, first, block)
            ragged = RaggedShowers.from_dense(block)
            for key, column in columns.items():
                name = key.removeprefix("incident_") if key in ("incident_theta", "incident_phi") else key
                column.append(getattr(ragged, name) * (scale if key == "energy" else 1))
        if first is None:
            raise FormatError(f"{path}: expected showers to write, got none; check what makes them")
        for column in columns.values():
            column.close()
        own = {
            "layout": "caloforge",
            "Conventions": "CF-1.11",
            "sampling_fraction": sampling_fraction,
            "sampling_corrected": sampling_corrected,
            "threshold_mev": threshold_mev,
        }
        set_attributes(handle, {**attributes, **own_attributes(first), **own})


_LABELS = ("incident_energy", "theta", "phi")


def _columns(handle: h5py.File, mesh: CylinderMesh) -> dict[str, GrowingRows]:
    """The empty data sets, with the attributes by which CF readers know them."""
    index = index_dtype(mesh).newbyteorder("<")
    described: dict[str, tuple[Any, int, dict[str, str]]] = {
        "row_size": ("<i4", _LABEL_CHUNK, {"sample_dimension": "hit", "long_name": "hits of the shower"}),
        "cell": (index, _HIT_CHUNK, {"compress": "r phi z", "long_name": "flat index of the cell"}),
        "energy": ("<f4", _HIT_CHUNK, {"units": "MeV"}),
        "incident_energy": ("<f4", _LABEL_CHUNK, {"units": "MeV"}),
        "incident_theta": ("<f4", _LABEL_CHUNK, {"units": "rad"}),
        "incident_phi": ("<f4", _LABEL_CHUNK, {"units": "rad"}),
    }
    columns = {}
    for key, (dtype, chunk, attributes) in described.items():
        columns[key] = GrowingRows(handle, key, (), dtype=dtype, chunk=chunk)
        for name, value in attributes.items():
            columns[key].dataset.attrs[name] = value
    return columns
