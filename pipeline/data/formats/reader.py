"""The `Reader` protocol: a raw layout is something that declares itself, can describe and read a file.

Inside the project energies are visible MeV, angles rad, axes (shower, r, phi, z); a reader converts at
the edge. Each layout declares its units and whether its published files are divided by the sampling
fraction; `claims` weighs that against what a file and the data set's YAML say. Some layouts can also be
written (`Writer`). A new layout is one module and one line in `READERS`.

Ingest asks a reader for `row_blocks`, `labels` (which rows are wanted) and `voxels`. Where `voxels` says that the
file's values are the mesh's cells in some order, `ragged.py` reads the chunks itself, in parallel; where it says
nothing (an empty list), and at whatever is odd in a block, `read` is asked and decides. A layout that is sparse
itself may also have `read_ragged`, which takes what `read` takes and is asked in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import DatasetSpec, DetectorSpec


class FormatError(ValueError):
    """A raw file that cannot be read as what it is said to be; names file, key, expected, found, remedy."""


@dataclass(frozen=True)
class Description:
    """What is known of a raw file before its showers are read.

    theta_rad is None where the file holds an angle per shower; threshold_mev is visible MeV, None when unknown.
    """

    path: Path
    n_showers: int
    mesh: CylinderMesh
    detector: str
    particle: str
    theta_rad: float | None
    sampling_fraction: float
    sampling_corrected: bool
    threshold_mev: float | None

    @property
    def to_visible(self) -> float:
        """The factor that turns the file's energies into visible MeV."""
        return self.sampling_fraction if self.sampling_corrected else 1.0

    def facts(self) -> dict[str, Any]:
        """What is true of every shower: all fields but path and number, none that a subclass needs for reading."""
        return {f.name: getattr(self, f.name) for f in fields(Description) if f.name not in ("path", "n_showers")}

    def showers(self, energy: NDArray[np.floating], known: Labels) -> Showers:
        """Showers of this file: energy (shower, r, phi, z) visible MeV."""
        labels = (known.incident_energy, known.theta, known.phi)
        return Showers(energy, *labels, self.mesh, self.detector, self.particle)


@dataclass(frozen=True)
class Layout:
    """What a layout declares of its files.

    sampling_corrected: whether all its files are divided by the sampling fraction; None where they differ, so that
    the file or the YAML must say it. `published` tells the YAML of the published files.
    """

    keys: str
    source: str
    sampling_corrected: bool | None
    published: str
    energy_unit: str = "MeV"
    angle_unit: str = "rad"


@dataclass(frozen=True, eq=False)
class Voxels:
    """A data set (shower, ...) of a raw file whose values are the mesh's cells, each once, in any order.

    key: its name; first: the number of its first shower in the file; n_showers: how many it holds;
    cells: (n_cells,) the mesh's flat (r, phi, z) cell of each voxel of a row in C order, None when they are the same.
    """

    key: str
    first: int
    n_showers: int
    cells: NDArray[np.integer] | None = None


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of showers besides their cells: incident_energy MeV, theta and phi rad, each (shower,)."""

    incident_energy: NDArray[np.float64]
    theta: NDArray[np.float64]
    phi: NDArray[np.float64]


class Reader(Protocol):
    """One raw layout."""

    LAYOUT: Layout

    def describe(self, path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
        """What the file holds; raises `FormatError`."""

    def row_blocks(self, path: Path, description: Description) -> Iterator[slice]:
        """Row ranges aligned to the file's chunks, in order, each of bounded size."""

    def voxels(self, path: Path, description: Description) -> Sequence[Voxels]:
        """Where the file holds its showers, in order; empty when its values are no permutation of the mesh's cells."""

    def labels(self, path: Path, description: Description, rows: slice) -> Labels:
        """The labels of a row range, as the file gives them: `read` refuses impossible ones."""

    def read(self, path: Path, description: Description, rows: slice) -> Showers:
        """The showers of a row range in visible MeV; raises `FormatError`."""


class Writer(Protocol):
    """A layout that showers can be written in."""

    def write(
        self,
        path: Path,
        blocks: Iterable[Showers],
        *,
        sampling_fraction: float,
        sampling_corrected: bool,
        threshold_mev: float,
        attributes: Mapping[str, Any] = ...,
    ) -> None:
        """Write showers (visible MeV) as a file of this layout, atomically and with the same bytes each time."""
