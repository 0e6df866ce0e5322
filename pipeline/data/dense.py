"""Plain dense Zarr for other tools: one array (shower, r, phi, z) float32 of MeV, its conditions and coordinates.

In: parts, in the order given, or blocks of dense showers. Out: a Zarr v3 group that `xarray.open_zarr` opens without
us, whole or not at all: chunks of 16 showers in shards of 320, zstd 1 without shuffle (which costs sparse showers a
third of their compression). Memory is that of one shard. A preprocessed part is exported in its own unit, empty cells
hold its fill.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.data.part_writer import (
    DENSE_CHUNK,
    DENSE_SHARD,
    array_of,
    make_durable,
    mesh_attributes,
    publish,
    write_coordinates,
)
from pipeline.data.shards import create_column
from pipeline.data.store import Part, StoreError
from pipeline.provenance import remove_leftovers, temporary_name

_OWN = ("title", "source", "Conventions")


class DenseWriter:
    """A context that turns n ragged showers, block by block, into one dense store; an exception leaves nothing behind.

    `attributes` become those of the group, `values` describes the cells' values (`long_name`, `units`).
    """

    def __init__(
        self,
        store: Path,
        mesh: CylinderMesh,
        n: int,
        attributes: Mapping[str, Any] = {},
        values: Mapping[str, Any] = {"long_name": "visible energy", "units": "MeV"},
    ) -> None:
        """A writer of `store`; nothing is touched before the context is entered."""
        self.store, self.mesh, self.n = Path(store), mesh, n
        self._attributes, self._values = {"Conventions": "CF-1.11", **attributes, **mesh_attributes(mesh)}, dict(values)
        self._labels: list[NDArray[np.float32]] = []
        self._done = self._waiting = 0

    def __enter__(self) -> DenseWriter:
        """Start a store under a temporary name."""
        self.store.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.store)
        self._temporary = temporary_name(self.store)
        try:
            self._group = zarr.open_group(self._temporary, mode="w", zarr_format=3, attributes=self._attributes)
            self._array = self._group.create_array(
                "shower_energy",
                shape=(self.n, *self.mesh.shape),
                dtype=np.float32,
                chunks=(DENSE_CHUNK, *self.mesh.shape),
                shards=(DENSE_SHARD, *self.mesh.shape) if self.n > DENSE_CHUNK else None,
                compressors=ZstdCodec(level=1),
                fill_value=0,
                dimension_names=("shower", "r", "phi", "z"),
                attributes=self._values,
            )
        except BaseException:  # nobody leaves a context that was not entered
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise
        self._shard = np.empty((min(DENSE_SHARD, self.n), self.mesh.n_cells), np.float32)
        return self

    def append(self, showers: RaggedShowers, fill: float = 0.0) -> None:
        """Add showers behind those before; cells without hit hold `fill`."""
        offsets, start = showers.offsets, 0
        while start < len(showers):
            stop = min(len(showers), start + len(self._shard) - self._waiting)
            rows, hits = self._shard[self._waiting : self._waiting + stop - start], slice(offsets[start], offsets[stop])
            rows[:] = fill
            origin = np.repeat(np.arange(stop - start) * self.mesh.n_cells, showers.row_size[start:stop])
            rows.reshape(-1)[origin + showers.cell[hits]] = showers.energy[hits]
            self._waiting += stop - start
            if self._waiting == len(self._shard):
                self._flush()
            start = stop
        self._labels.append(np.stack([showers.incident_energy, showers.theta, showers.phi]).astype(np.float32))

    def _flush(self) -> None:
        rows = self._shard[: self._waiting].reshape(-1, *self.mesh.shape)
        self._array[self._done : self._done + self._waiting] = rows
        self._done, self._waiting = self._done + self._waiting, 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish and publish the store, or leave nothing behind."""
        try:
            if kind is None:
                self._finish()
                make_durable(self._temporary)
                publish(self._temporary, self.store)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        if self._waiting:
            self._flush()
        if self._done != self.n:
            raise StoreError(f"{self.store}: expected {self.n} showers, got {self._done}; the parts changed: run again")
        labels = np.concatenate([np.zeros((3, 0), np.float32), *self._labels], axis=1)
        columns = (
            ("incident_energy", "incident energy", "MeV"),
            ("incident_theta", "polar angle of the particle", "rad"),
            ("incident_phi", "azimuth of the particle", "rad"),
        )
        for (name, text, units), values in zip(columns, labels, strict=True):
            attributes = {"long_name": text, "units": units}
            array = create_column(self._group, name, np.float32, len(values), ("shower",), attributes)
            if len(values):
                array[:] = values
        write_coordinates(self._group, self.mesh)
        with warnings.catch_warnings():  # not in Zarr's specification yet, and xarray warns where it is missing
            warnings.simplefilter("ignore", UserWarning)
            zarr.consolidate_metadata(self._temporary, zarr_format=3)


def export_dense(parts: Sequence[Part], store: Path) -> Path:
    """Write the showers of all parts, in that order, as one dense store; raises `StoreError` when they do not fit."""
    first = parts[0]
    for part in parts[1:]:
        if (part.mesh, part.detector, part.particle) != (first.mesh, first.detector, first.particle):
            raise StoreError(
                f"{part.path}: expected {first.detector}, {first.particle} on {first.mesh} as in {first.path}, "
                f"found {part.detector}, {part.particle} on {part.mesh}; export them one by one (--each)"
            )
    known = [dict(part.group.attrs) for part in parts]
    shared = {key: value for key, value in known[0].items() if all(other.get(key) == value for other in known)}
    attributes = {
        **{key: value for key, value in shared.items() if key not in _OWN},
        "title": str(known[0].get("title", "Calorimeter showers")),
        "parts": [{"name": part.path.stem, "digest": part.digest} for part in parts],
    }
    source = array_of(first.group, "energy" if first.manifest["layout"] == "ragged" else "shower_energy")
    n = sum(part.n_showers for part in parts)
    with DenseWriter(store, first.mesh, n, attributes, dict(source.attrs)) as writer:
        for part in parts:
            for start in range(0, part.n_showers, DENSE_SHARD):
                writer.append(part.read(slice(start, start + DENSE_SHARD)), part.fill)
    return Path(store)
