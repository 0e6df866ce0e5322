"""What is inside a raw file or a store, and whether it would be ingested.

In: a raw HDF5 file with a data set's spec; or a part, a preprocessed part, an exported dense Zarr. Out: an ordered
dict of facts for a person to read, after all values were looked at (unless `quick`: then the first block only).
Raises `FormatError` or `StoreError`, with the very message of the stage that would refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats import READERS, Description
from pipeline.data.formats.hdf5 import open_raw
from pipeline.data.store import Part, StoreError

_FEW = 12
_BLOCK = 512


@dataclass
class _Seen:
    """What the values of the showers looked at so far tell."""

    showers: int = 0
    hits: int = 0
    largest: float = 0.0
    shares: list[NDArray[np.float64]] = field(default_factory=list)
    incident: list[NDArray[np.floating]] = field(default_factory=list)
    theta: list[NDArray[np.floating]] = field(default_factory=list)

    def add(self, showers: RaggedShowers) -> None:
        self.showers += len(showers)
        self.hits += len(showers.energy)
        self.largest = max(self.largest, float(showers.energy.max(initial=0)))
        self.shares.append(showers.visible_energy / showers.incident_energy)
        self.incident.append(showers.incident_energy)
        self.theta.append(showers.theta)

    def facts(self, mesh: CylinderMesh, total: int, unit: str = "MeV") -> dict[str, str]:
        incident, theta = np.concatenate(self.incident), np.degrees(np.concatenate(self.theta))
        share = f"{np.concatenate(self.shares).mean():.4g}" if unit == "MeV" else "-"
        some = "" if self.showers == total else f" (first {self.showers} showers)"
        return {
            "incident energy": _values(incident / 1e3, "GeV") + some,
            "angle": _values(theta, "degrees") + some,
            "visible / incident": f"{share} on average{some}",
            "occupancy": f"{100 * self.hits / (self.showers * mesh.n_cells):.3g} % of cells{some}",
            "largest cell": f"{self.largest:.4g} {unit}{some}",
            "values": "all read: finite, none negative" if self.showers == total else "not all read (--quick)",
        }


def _values(values: NDArray[np.floating], unit: str) -> str:
    """The distinct values where they are few, else their range."""
    distinct = np.unique(np.round(np.asarray(values, dtype=np.float64), 4))
    if len(distinct) <= _FEW:
        return f"{', '.join(f'{v:g}' for v in distinct)} {unit}"
    return f"{distinct[0]:.4g} to {distinct[-1]:.4g} {unit}, one per shower"


def inspect_raw(path: Path, spec: DatasetSpec, detector: DetectorSpec, quick: bool = False) -> dict[str, str]:
    """The facts of a raw file as ingest would see them."""
    reader = READERS[spec.format]
    description = reader.describe(path, spec, detector)
    seen = _Seen()
    for rows in reader.row_blocks(path, description):
        seen.add(RaggedShowers.from_dense(reader.read(path, description, rows)))
        if quick:
            break
    return {
        "layout": f"{spec.format} ({reader.LAYOUT.source})",
        "showers": f"{description.n_showers}",
        "mesh": _mesh(description.mesh),
        "detector": f"{description.detector}, {description.particle}",
        "sampling": _sampling(description),
        **seen.facts(description.mesh, description.n_showers),
        **_storage(path),
    }


def _mesh(mesh: CylinderMesh) -> str:
    r, phi, z = mesh.shape
    return f"{r} x {phi} x {z} cells (r, phi, z) of {mesh.dr_mm:g} mm in r and {mesh.dz_mm:g} mm in z"


def _sampling(description: Description) -> str:
    fraction = f"{description.sampling_fraction:g}"
    if description.sampling_corrected:
        return f"divided by the sampling fraction {fraction}: ingest multiplies by it"
    return f"visible energy, not divided by the sampling fraction ({fraction})"


def _storage(path: Path) -> dict[str, str]:
    """How each data set lies in the file."""
    with open_raw(path) as handle:
        return {f"data set {key}": _stored(handle[key]) for key in list(handle)[:_FEW]}


def _stored(dataset: h5py.Dataset) -> str:
    filters = [f"{dataset.compression} {dataset.compression_opts or ''}".strip()] if dataset.compression else []
    filters += [name for name in ("shuffle", "fletcher32", "scaleoffset") if getattr(dataset, name)]
    size, stored = dataset.size * dataset.dtype.itemsize, max(1, dataset.id.get_storage_size())
    chunks = f"chunks {dataset.chunks}" if dataset.chunks else "contiguous"
    return f"{dataset.dtype} {dataset.shape}, {chunks}, {', '.join(filters) or 'no filter'}, {size / stored:.3g} : 1"


# ------------------------------------------------------------------------------------------ stores


def inspect_part(manifest: Path, quick: bool = False) -> dict[str, str]:
    """The facts of a part or of a preprocessed part; its store is hashed and read whole unless `quick`."""
    part = Part.open(manifest)
    said = {key: str(value) for key, value in part.manifest.items() if isinstance(value, str | int | float)}
    if not quick:
        part.verify()
    raw = part.manifest.get("kind") == "part"
    seen = _Seen()
    for start in range(0, part.n_showers, _BLOCK):
        showers = part.read(slice(start, start + _BLOCK))
        _check(f"{manifest}: shower {start} and later", showers.energy, negative=not raw)
        seen.add(showers)
        if quick:
            break
    facts = seen.facts(part.mesh, part.n_showers, "MeV" if raw else "in network space")
    if not raw:
        facts = {key: text for key, text in facts.items() if key != "visible / incident"}
    source = part.manifest.get("source", {})
    named = {"source": f"{source['name']}, {source['size']} bytes"} if source else {}
    return {**said, **named, "mesh": _mesh(part.mesh), **facts, **_arrays(part.group)}


def inspect_dense(store: Path, quick: bool = False) -> dict[str, str]:
    """The facts of a dense Zarr store, such as `export-dense` writes."""
    try:
        group = zarr.open_group(store, mode="r", use_consolidated=False)
    except (FileNotFoundError, ValueError, KeyError, OSError):
        raise StoreError(f"{store}: expected a Zarr store, found none that can be read; name a store") from None
    array = group.get("shower_energy")
    if not isinstance(array, zarr.Array) or array.ndim != 4:
        raise StoreError(
            f"{store}: expected shower_energy (shower, r, phi, z), found {sorted(group.keys())[:8]}; name the manifest "
            "of a part, or a store written by export-dense"
        )
    largest, hits, n = 0.0, 0, 0
    for start in range(0, array.shape[0], _BLOCK):
        energy = np.asarray(array[start : start + _BLOCK])
        _check(f"{store}: shower {start} and later", energy, negative=array.attrs.get("units") != "MeV")
        largest, hits, n = max(largest, float(energy.max())), hits + int((energy > 0).sum()), n + len(energy)
        if quick:
            break
    said = {key: str(value) for key, value in group.attrs.items() if isinstance(value, str | int | float)}
    return {
        **said,
        "showers": f"{array.shape[0]}",
        "occupancy": f"{100 * hits / max(1, n * int(np.prod(array.shape[1:]))):.3g} % of cells above 0",
        "largest cell": f"{largest:.4g} {array.attrs.get('units', '')}",
        "values": "all read: finite" if n == array.shape[0] else "not all read (--quick)",
        **_arrays(group),
    }


def _check(where: str, energy: NDArray[np.floating], negative: bool) -> None:
    if not np.isfinite(energy).all() or (not negative and (energy < 0).any()):
        raise StoreError(f"{where}: expected finite energies >= 0, found others; make the store again")


def _arrays(group: zarr.Group) -> dict[str, str]:
    arrays: Iterable[tuple[str, Any]] = sorted((n, a) for n, a in group.members() if isinstance(a, zarr.Array))
    return {f"array {name}": _array(array) for name, array in arrays}


def _array(array: zarr.Array[Any]) -> str:
    codecs = ", ".join(type(codec).__name__ for codec in array.compressors) or "no codec"
    shards = f", shards {array.shards}" if array.shards else ""
    return f"{array.dtype} {array.shape}, chunks {array.chunks}{shards}, {codecs}"
