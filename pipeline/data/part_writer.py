"""Writes one part: a Zarr v3 group of contiguous ragged showers, whole or not at all.

In: blocks of `RaggedShowers` in file order, with their hashes. Out: a store under its final name, built
under a temporary one, fsynced and renamed. Memory is flat: of a shard (2^23 values) the compressed chunks wait.
The layout is that of CF 1.11, chapters 8.2 (compression by gathering) and 9.3 (contiguous ragged arrays);
docs/storage.md shows it. Manifests are written by the callers, after this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.data.compute import default_threads
from pipeline.data.shards import ColumnWriter, create_column
from pipeline.provenance import fsync_file, fsync_folder, remove_leftovers, temporary_name, tree_digest

DENSE_CHUNK = 16
DENSE_SHARD = 320
DENSE_OCCUPANCY = 0.5
_SYNCING_THREADS = 8


class PartWriter:
    """A context that turns blocks of ragged showers into one store; an exception inside leaves nothing behind.

    `attributes` become those of the group, `values` describes the hit values (`long_name`, `units`);
    `digest` is the store's once it has its name.
    """

    def __init__(
        self,
        store: Path,
        mesh: CylinderMesh,
        attributes: Mapping[str, Any],
        values: Mapping[str, Any] | None = None,
        allow_dense: bool = True,
        cells_of: Path | None = None,
    ) -> None:
        """A writer of `store`; nothing is touched before the context is entered.

        cells_of: a ragged store whose showers have the same cells, whose files are then shared (hard links where the
        disk allows them).
        """
        self.store, self.mesh, self.allow_dense, self.cells_of = store, mesh, allow_dense, cells_of
        self.n_hits = 0
        self.layout = "ragged"
        self.digest = ""
        self._attributes = {"Conventions": "CF-1.11", **attributes, **mesh_attributes(mesh)}
        self._values = {"units": "MeV", "long_name": "visible energy", **(values or {})}
        self._labels: list[NDArray[np.floating]] = []
        self._row_size: list[NDArray[np.integer]] = []
        self._hashes: list[NDArray[np.uint64]] = []

    def __enter__(self) -> PartWriter:
        """Start a store under a temporary name."""
        self.store.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.store)
        self._temporary = temporary_name(self.store)
        try:
            self._group = zarr.open_group(self._temporary, mode="w", zarr_format=3, attributes=self._attributes)
        except BaseException:  # nobody leaves a context that was not entered
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise
        self._pool = ThreadPoolExecutor(default_threads())
        about = {"long_name": "flat index of the cell", "compress": "r phi z"}
        self._cell = None if self.cells_of else self._column("cell", index_dtype(self.mesh), about)
        self._energy = self._column("energy", np.float32, dict(self._values))
        return self

    def _column(self, name: str, dtype: Any, attributes: dict[str, Any]) -> ColumnWriter:
        return ColumnWriter(self._group, self._temporary, name, dtype, attributes, self._pool)

    def append(self, showers: RaggedShowers, hashes: NDArray[np.uint64]) -> None:
        """Add showers behind those before."""
        if self._cell:
            self._cell.append(showers.cell)
        self._energy.append(showers.energy)
        self._row_size.append(np.asarray(showers.row_size, dtype=np.int64))
        self._labels.append(np.stack([showers.incident_energy, showers.theta, showers.phi]).astype(np.float32))
        self._hashes.append(hashes)
        self.n_hits += len(showers.energy)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish and publish the store, or leave nothing behind."""
        try:
            if kind is None:
                self._finish()
                with ThreadPoolExecutor(1) as beside:
                    digest = beside.submit(tree_digest, self._temporary)  # while the disk writes
                    make_durable(self._temporary)
                self.digest = digest.result()
                publish(self._temporary, self.store)
        finally:
            self._pool.shutdown(cancel_futures=True)
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        if self._cell:
            self._cell.close()
        elif self.cells_of:
            shutil.copytree(self.cells_of / "cell", self._temporary / "cell", copy_function=_linked)
        self._energy.close()
        row_size = np.concatenate([np.zeros(0, np.int64), *self._row_size])
        if self.allow_dense and self.n_hits > DENSE_OCCUPANCY * self.mesh.n_cells * max(len(row_size), 1):
            self._make_dense(row_size)
        labels = np.concatenate([np.zeros((3, 0), np.float32), *self._labels], axis=1)
        columns: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
            "row_size": (row_size.astype(np.int32), {"long_name": "hits of the shower", "sample_dimension": "hit"}),
            "incident_energy": (labels[0], {"long_name": "incident energy", "units": "MeV"}),
            "incident_theta": (labels[1], {"long_name": "polar angle of the particle", "units": "rad"}),
            "incident_phi": (labels[2], {"long_name": "azimuth of the particle", "units": "rad"}),
            "shower_hash": (
                np.concatenate([np.zeros(0, np.uint64), *self._hashes]),
                {"long_name": "first 8 bytes of BLAKE3 over cells, energies, incident energy"},
            ),
        }
        for name, (values, attributes) in columns.items():
            array = create_column(self._group, name, values.dtype.type, len(values), ("shower",), attributes)
            if len(values):
                array[:] = values
        write_coordinates(self._group, self.mesh)

    def _make_dense(self, row_size: NDArray[np.int64]) -> None:
        """Replace the hit arrays by one dense array, a shard of showers at a time."""
        self.layout = "dense"
        n, shape = len(row_size), self.mesh.shape
        dense = self._group.create_array(
            "shower_energy",
            shape=(n, *shape),
            dtype=np.float32,
            chunks=(DENSE_CHUNK, *shape),
            shards=(DENSE_SHARD, *shape) if n > DENSE_CHUNK else None,
            compressors=ZstdCodec(level=1),
            fill_value=0,
            dimension_names=("shower", "r", "phi", "z"),
            attributes=dict(self._values),
        )
        offsets = np.concatenate([[0], np.cumsum(row_size)])
        for start in range(0, n, DENSE_SHARD):
            stop = min(start + DENSE_SHARD, n)
            hits = slice(int(offsets[start]), int(offsets[stop]))
            block = np.zeros((stop - start, self.mesh.n_cells), np.float32)
            rows = np.repeat(np.arange(stop - start), row_size[start:stop])
            block[rows, array_of(self._group, "cell")[hits]] = array_of(self._group, "energy")[hits]
            dense[start:stop] = block.reshape(-1, *shape)
        del self._group["cell"], self._group["energy"]


def array_of(group: zarr.Group, name: str) -> Any:
    """An array of a group; TypeError when the name is that of a group."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{group.store_path}: {name}: expected an array, found a group")
    return array


def mesh_attributes(mesh: CylinderMesh) -> dict[str, Any]:
    """The mesh as attributes of a store."""
    return {"cells": list(mesh.shape), "dr_mm": mesh.dr_mm, "dz_mm": mesh.dz_mm}


def mesh_of(content: dict[str, Any]) -> CylinderMesh:
    """The mesh of `mesh_attributes`."""
    n_r, n_phi, n_z = content["cells"]
    return CylinderMesh(n_r, n_phi, n_z, content["dr_mm"], content["dz_mm"])


def write_coordinates(group: zarr.Group, mesh: CylinderMesh) -> None:
    """The cell centres of the mesh as coordinates r, phi (rad) and z of a store."""
    axes = {
        "r": (mesh.r_mm, "mm", "distance of the cell's centre from the particle's direction"),
        "phi": (mesh.phi_rad, "rad", "azimuth of the cell's centre"),
        "z": (mesh.z_mm, "mm", "depth of the cell's centre"),
    }
    for name, (values, units, text) in axes.items():
        array = create_column(group, name, np.float64, len(values), (name,), {"units": units, "long_name": text})
        array[:] = values


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy where links are not to be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# ------------------------------------------------------------------------- whole or not at all


def make_durable(temporary: Path) -> None:
    """Have the disk write all files of a finished store."""
    tree = list(os.walk(temporary))
    with ThreadPoolExecutor(_SYNCING_THREADS) as pool:
        list(pool.map(fsync_file, [Path(folder) / name for folder, _, names in tree for name in names]))
    for folder, _, _ in tree:
        fsync_folder(Path(folder))


def publish(temporary: Path, store: Path) -> None:
    """Give a durable store its name; an older store of that name is replaced."""
    aside = temporary.with_suffix(".old.tmp")
    while temporary.exists():
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(store, aside)
        try:
            os.rename(temporary, store)
        except OSError as error:  # another process published the same part in between: replace it too
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    fsync_folder(store.parent)
    shutil.rmtree(aside, ignore_errors=True)
