"""Ingest: one raw file becomes one immutable part.

In: a raw HDF5 file of any layout in `READERS`. Out: a Zarr store of visible MeV beside a manifest JSON,
which is written last and holds the digests of source and store, and neither host nor time. The file is
streamed in row blocks aligned to its chunks, so memory does not follow its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats import READERS, Description, Reader
from pipeline.data.part_writer import PartWriter, mesh_attributes
from pipeline.data.store import shower_hashes
from pipeline.provenance import file_digest, write_json


def ingest(raw: Path, manifest: Path, dataset: DatasetSpec, detector: DetectorSpec, name: str) -> dict[str, Any]:
    """Turn a raw file into the part of `manifest` (store: the same name with `.zarr`); returns the manifest.

    `name` is the data set's. Raises `FormatError` and leaves nothing behind when the file is refused.
    """
    raw, manifest = Path(raw), Path(manifest)
    manifest.unlink(missing_ok=True)
    reader = READERS[dataset.format]
    description = reader.describe(raw, dataset, detector)
    writer = PartWriter(manifest.with_suffix(".zarr"), description.mesh, _attributes(raw, description))
    with writer:
        hashes, incident = _stream(reader, raw, description, writer)
    content = {
        "kind": "part",
        "dataset": name,
        "ingest_version": dataset.ingest_version,
        "source": {"name": raw.name, "size": raw.stat().st_size, "digest": file_digest(raw)},
        "specs": {"dataset": dataset.digest(exclude={"files", "simulate", "binning"}), "detector": detector.digest()},
        **_facts(description),
        "layout": writer.layout,
        "n_showers": len(hashes),
        "n_hits": writer.n_hits,
        "occupancy": float(f"{writer.n_hits / (len(hashes) * description.mesh.n_cells):.6g}"),
        "duplicates": len(hashes) - len(np.unique(hashes)),
        "incident_energy_mev": [float(incident.min()), float(incident.max())],
        "store_digest": writer.digest,
    }
    write_json(manifest, content)
    return content


def _stream(
    reader: Reader, raw: Path, description: Description, writer: PartWriter
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Append all showers of the file to the store; returns their hashes and incident energies (MeV)."""
    hashes, incident = [], []
    for rows in reader.row_blocks(raw, description):
        showers = RaggedShowers.from_dense(reader.read(raw, description, rows))
        hashes.append(shower_hashes(showers))
        incident.append(np.asarray(showers.incident_energy, dtype=np.float32))
        writer.append(showers, hashes[-1])
    return np.concatenate(hashes), np.concatenate(incident)


def _facts(description: Description) -> dict[str, Any]:
    """What is known of the showers, as plain JSON."""
    return {**description.facts(), "mesh": mesh_attributes(description.mesh)}


def _attributes(raw: Path, description: Description) -> dict[str, Any]:
    """Attributes of the store's root: enough to understand it without its manifest."""
    facts = {key: value for key, value in _facts(description).items() if key != "mesh" and value is not None}
    return {"title": "Calorimeter showers, visible energy", "source": raw.name, "units": "MeV", **facts}
