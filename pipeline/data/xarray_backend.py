"""`xr.open_dataset(part, engine="caloforge")`: the dense, lazy view of one part or of many.

In: a part's manifest (.json), its store (.zarr), or a list of them. Out: a Dataset with `energy`
(shower, r, phi, z) float32, of which only the showers asked for are read and made dense, with labels per
shower and cell coordinates, all with units. `chunks={}` gives Dask arrays of 256 showers. It does not
write, and it does not show the ragged arrays: `xr.open_zarr(store, consolidated=False)` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from pipeline.data.store import Part, StoreError

_CHUNK_SHOWERS = 256
_LABELS = {
    "incident_energy": ("incident_energy", "MeV"),
    "incident_theta": ("theta", "rad"),
    "incident_phi": ("phi", "rad"),
    "shower_hash": ("shower_hash", "1"),
}


class DenseShowers(BackendArray):
    """Showers of parts behind each other as one dense array (shower, r, phi, z), read on demand."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """The parts must share one mesh."""
        self.parts = tuple(parts)
        self.starts = np.concatenate([[0], np.cumsum([part.n_showers for part in parts])])
        self.shape = (int(self.starts[-1]), *parts[0].mesh.shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what xarray asks for."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[np.float32]:
        rows = np.atleast_1d(np.arange(self.shape[0])[key[0]])
        block = np.empty((len(rows), *self.shape[1:]), np.float32)
        for i, part in enumerate(self.parts):
            place = np.flatnonzero((rows >= self.starts[i]) & (rows < self.starts[i + 1]))
            if len(place):
                block[place] = dense(part, rows[place] - self.starts[i])
        for axis, index in reversed(list(enumerate(key[1:], start=1))):
            block = block[(slice(None),) * axis + (index,)]
        return block[0] if np.ndim(rows) and isinstance(key[0], int | np.integer) else block


def dense(part: Part, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """The showers at `rows` as (shower, r, phi, z); cells without hit hold the part's fill."""
    showers = part.take(rows)
    block = np.full((len(rows), part.mesh.n_cells), part.fill, np.float32)
    block[showers.shower_of_hit, showers.cell] = showers.energy
    return block.reshape(-1, *part.mesh.shape)


class CaloforgeBackend(BackendEntrypoint):
    """The engine "caloforge" of xarray."""

    description = "Open Caloforge's parts as dense, lazy arrays of showers"
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None) -> xr.Dataset:
        """The dense view of one part or a list of parts on one mesh; raises `StoreError`."""
        several = isinstance(filename_or_obj, list | tuple)
        parts = [Part.open(manifest_of(path)) for path in (filename_or_obj if several else [filename_or_obj])]
        if not parts or any(part.mesh != parts[0].mesh for part in parts):
            raise StoreError(
                f"xarray: expected parts on one mesh, got {sorted({str(p.mesh.shape) for p in parts})}; "
                "open them one by one"
            )
        units = "MeV" if all(part.manifest["kind"] == "part" for part in parts) else "1"
        energy = xr.Variable(
            ("shower", "r", "phi", "z"),
            indexing.LazilyIndexedArray(DenseShowers(parts)),
            {"units": units, "long_name": "visible energy" if units == "MeV" else "prefix value"},
            {"preferred_chunks": {"shower": _CHUNK_SHOWERS}},
        )
        dataset = xr.Dataset({"energy": energy}, _coordinates(parts), _attributes(parts))
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        return dataset.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a path is that of one of our parts."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            Part.open(manifest_of(filename_or_obj))
        except (StoreError, OSError, KeyError, TypeError):
            return False
        return True


def manifest_of(path: str | os.PathLike[str]) -> Path:
    """The manifest of a part named by its manifest or its store."""
    path = Path(path)
    if path.suffix not in (".json", ".zarr"):
        raise StoreError(f"{path}: expected the manifest (.json) or the store (.zarr) of a part; name one of them")
    return path.with_suffix(".json")


def _coordinates(parts: Sequence[Part]) -> dict[str, xr.Variable]:
    mesh = parts[0].mesh
    cells = {"r": (mesh.r_mm, "mm"), "phi": (mesh.phi_rad, "rad"), "z": (mesh.z_mm, "mm")}
    coordinates = {name: xr.Variable((name,), values, {"units": units}) for name, (values, units) in cells.items()}
    for name, (attribute, units) in _LABELS.items():
        values = np.concatenate([getattr(part, attribute) for part in parts])
        coordinates[name] = xr.Variable(("shower",), values, {"units": units})
    return coordinates


def _attributes(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "detector": " ".join(sorted({part.detector for part in parts})),
        "particle": " ".join(sorted({part.particle for part in parts})),
        "dr_mm": parts[0].mesh.dr_mm,
        "dz_mm": parts[0].mesh.dz_mm,
    }
