"""What stands beside the showers of a file, one value for each: incident energy and direction.

In: data sets of shape (N,) or (N, 1), energies in MeV, angles in rad; `incident_theta` and `incident_phi` may be
missing, then the angle is constant and the azimuth 0. Out: float64 arrays of shape (shower,). Also the two
errors that all layouts share: showers of the wrong shape and impossible values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, ShowerError
from pipeline.data.formats.hdf5 import open_raw, rows_of, values_of
from pipeline.data.formats.reader import Description, FormatError, Labels

ANGLES = ("incident_theta", "incident_phi")


def check_labels(handle: h5py.File, path: Path, energy_key: str, n: int) -> NDArray[np.float64] | None:
    """Check that there is one label per shower; returns the polar angles (shower,) rad where the file has them."""
    for key in (energy_key, *(name for name in ANGLES if name in handle)):
        dataset = values_of(handle, key, path)
        if dataset.shape not in ((n,), (n, 1)):
            raise FormatError(
                f"{path}: data set {key}: expected one value for each of the {n} showers, "
                f"found shape {dataset.shape}; write the file again"
            )
    return _column(handle, ANGLES[0], slice(None)) if ANGLES[0] in handle else None


def read_labels(path: Path, energy_key: str, description: Description, rows: slice) -> Labels:
    """The labels of a row range."""
    constants = (description.theta_rad or 0.0, 0.0)
    with open_raw(path) as handle:
        incident = _column(handle, energy_key, rows)
        theta, phi = (
            _column(handle, key, rows) if key in handle else np.full(len(incident), constant)
            for key, constant in zip(ANGLES, constants, strict=True)
        )
        return Labels(incident, theta, phi)


def _column(handle: h5py.File, key: str, rows: slice) -> NDArray[np.float64]:
    """Values as float64; those that float32, which parts hold, cannot are what they would become: 0 or infinite."""
    values = np.asarray(rows_of(handle[key], rows), dtype=np.float64).reshape(-1)
    with np.errstate(over="ignore", under="ignore"):
        held = values.astype(np.float32)
    return np.where(np.isfinite(held) & (held != 0), values, held)


def check_shape(path: Path, key: str, found: tuple[int, ...], expected: tuple[int, ...], mesh: CylinderMesh) -> None:
    """Refuse showers whose shape behind the first axis is not the expected one."""
    if found[1:] != expected:
        wanted = ", ".join(["N", *map(str, expected)])
        raise FormatError(
            f"{path}: data set {key}: expected ({wanted}) for the mesh {mesh.shape} (r, phi, z), found {found}; "
            "add the file's mesh to the data set's YAML: `mesh: {cells: [R, PHI, Z], dr_mm: …, dz_mm: …}`"
        )


@contextmanager
def named_rows(path: Path, key: str, rows: slice) -> Iterator[None]:
    """Impossible values inside become a `FormatError` that names the file and counts from the range's first row."""
    try:
        yield
    except ShowerError as error:
        raise FormatError(
            f"{path}: {key}, counted from row {rows.start or 0}: {error}; repair the file or take it out of `files:`"
        ) from None
