"""Factories of the tiny detectors, raw files and parts that the tests of the data room need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, DetectorSpec
from pipeline.data.formats import READERS
from pipeline.data.ingest import ingest
from pipeline.data.store import Part


def detector_with(mesh: CylinderMesh) -> DetectorSpec:
    return BUILT_IN_DETECTORS["SiW"].model_copy(update={"mesh": mesh.as_spec()})


def dataset(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"format": "calochallenge", "detector": "SiW", **changes})


def write_raw(path: Path, showers: Showers, layout: str = "calochallenge", **changes: Any) -> Path:
    options = {"sampling_fraction": 0.03, "sampling_corrected": False, "threshold_mev": 5e-4, **changes}
    READERS[layout].write(path, [showers], **options)
    return path


def make_part(folder: Path, showers: Showers, name: str = "a") -> Part:
    raw = write_raw(folder / f"{name}.h5", showers)
    ingest(raw, folder / f"{name}.json", dataset(), detector_with(showers.mesh), "siw")
    return Part.open(folder / f"{name}.json")


def same(a: Any, b: Any) -> bool:
    """Whether two ragged sets of showers hold the same values in the same order."""
    names = ("row_size", "cell", "energy", "incident_energy", "theta", "phi")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def read_all(path: Path, default: CylinderMesh, **spec: Any) -> Showers:
    """All showers of a file of layout `spec["format"]`, `default` being the detector's mesh."""
    reader = READERS[spec["format"]]
    description = reader.describe(path, dataset(**spec), detector_with(default))
    return reader.read(path, description, slice(None))


def sparse_values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Sparse cells in MeV."""
    rng = np.random.default_rng(seed)
    return (rng.exponential(0.5, shape) * (rng.uniform(size=shape) < 0.1)).astype(np.float32)
