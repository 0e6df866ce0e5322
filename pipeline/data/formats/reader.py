"""The `Reader` protocol: a raw layout is something that can describe, read and write a file.

Inside the project energies are visible MeV, angles rad, axes (shower, r, phi, z); a reader converts at
the edge. What a file says of itself (root attributes) wins over defaults; what it leaves out must stand in
the data set's YAML. A file that contradicts the YAML is refused with a `FormatError`. A new layout is one
module and one line in `READERS`.

Ingest asks a reader for `row_blocks`, `labels` (which rows are wanted) and `voxels`. Where `voxels` says that the
file's values are the mesh's cells in some order, `ragged.py` reads the chunks itself, in parallel; where it says
nothing (an empty list), and at whatever is odd in a block, `read` is asked and decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.config.data import Particle

_OF_A_SAMPLE = {"format", "files", "detector", "particle"}


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


def described(
    path: Path,
    spec: DatasetSpec,
    detector: DetectorSpec,
    attributes: Mapping[str, Any],
    *,
    n_showers: int,
    theta_per_shower: bool = False,
    angle_deg: float | None = None,
) -> Description:
    """The description of a file from its root attributes, completed by the data set's YAML.

    `angle_deg` is the angle read off the file's name, used when neither says it.
    """
    _check_claims(path, spec, attributes)
    angle = None if theta_per_shower else _angle(path, spec, attributes, angle_deg)
    return Description(
        path=path,
        n_showers=n_showers,
        mesh=_mesh(path, spec, detector, attributes),
        detector=spec.detector,
        particle=_particle(path, spec, attributes),
        theta_rad=None if angle is None else math.radians(angle),
        sampling_fraction=_fraction(path, spec, detector, attributes),
        sampling_corrected=_corrected(path, spec, attributes),
        threshold_mev=_number(path, attributes, "threshold_mev"),
    )


def _generated(spec: DatasetSpec) -> bool:
    """Whether the data set is the one that `stages.ingest_sample` makes up for a generated sample.

    Its showers are on the mesh behind the recipe (of the reference's mesh, which the data set does not name;
    the evaluation checks it) and of the particle that the reference's files name.
    """
    return spec.files == ("*",) and spec.model_fields_set <= _OF_A_SAMPLE


def _number(path: Path, attributes: Mapping[str, Any], key: str) -> float | None:
    """The attribute as a number, None where the file does not say it."""
    value = attributes.get(key)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise FormatError(f"{path}: attribute {key}: expected a number, found {value!r}; correct the attribute")


def _contradiction(path: Path, key: str, expected: str, found: str, line: str = "") -> FormatError:
    return FormatError(
        f"{path}: attribute {key}: expected {expected} as in the data set's YAML, found {found}; "
        f"correct `{line or key}:` or take the file out of `files:`"
    )


def _check_claims(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any]) -> None:
    for key in ("detector", "material"):
        if key in attributes and str(attributes[key]) != spec.detector:
            raise _contradiction(path, key, f"'{spec.detector}'", f"'{attributes[key]}'", line="detector")
    if str(attributes.get("unit", "MeV")) != "MeV":
        raise FormatError(
            f"{path}: attribute unit: expected 'MeV', found '{attributes['unit']}'; convert the file's energies to MeV"
        )


def _corrected(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any]) -> bool:
    found, expected = attributes.get("sampling_corrected"), spec.sampling_corrected
    if found is None and expected is None:
        raise FormatError(
            f"{path}: attribute sampling_corrected: expected true or false, found nothing; "
            "say whether energies were divided by the sampling fraction: add the line "
            "`sampling_corrected: false` (or true) to the data set's YAML"
        )
    if found is None:
        return bool(expected)
    if not isinstance(found, int) or found not in (0, 1):
        raise FormatError(
            f"{path}: attribute sampling_corrected: expected true or false, found {found!r}; correct the attribute"
        )
    if expected is not None and bool(found) != expected:
        raise _contradiction(path, "sampling_corrected", str(expected).lower(), str(bool(found)).lower())
    return bool(found)


def _particle(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any]) -> str:
    found = attributes.get("particle", spec.particle)
    if found not in get_args(Particle):
        raise FormatError(
            f"{path}: attribute particle: expected one of {', '.join(get_args(Particle))}, found {found!r}; "
            "correct the attribute"
        )
    simulated = spec.simulate.particle if spec.simulate else None
    explicit = "particle" in spec.model_fields_set and not _generated(spec)
    if explicit and found not in (spec.particle, simulated):
        raise _contradiction(path, "particle", spec.particle, found)
    return str(found)


def _angle(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any], from_name: float | None) -> float:
    for key in ("angle_deg", "angle"):
        said = _number(path, attributes, key)
        if said is not None and spec.angle_deg is not None and not abs(said - spec.angle_deg) <= 1e-3:
            raise _contradiction(path, key, f"{spec.angle_deg:g}", f"{said:g}", line="angle_deg")
    simulated = spec.simulate.angle_deg if spec.simulate else None
    found = (attributes.get("angle_deg"), attributes.get("angle"), spec.angle_deg, from_name, simulated)
    angle = next((float(value) for value in found if value is not None), None)
    if angle is None:
        raise FormatError(
            f"{path}: attribute angle_deg: expected the particle's polar angle, found nothing; "
            "add the line `angle_deg: 90` (degrees) to the data set's YAML"
        )
    if not 0 < angle < 180:
        raise FormatError(
            f"{path}: attribute angle_deg: expected an angle in (0, 180) degrees, found {angle:g}; "
            "correct the attribute"
        )
    return angle


def _fraction(path: Path, spec: DatasetSpec, detector: DetectorSpec, attributes: Mapping[str, Any]) -> float:
    expected, said = spec.sampling_fraction, _number(path, attributes, "sampling_fraction")
    fraction = next(value for value in (said, expected, detector.sampling_fraction) if value is not None)
    if not 0 < fraction <= 1:
        raise FormatError(
            f"{path}: attribute sampling_fraction: expected a number in (0, 1], found {fraction:g}; "
            "correct the attribute"
        )
    if expected is not None and not math.isclose(fraction, expected, rel_tol=1e-5):
        raise _contradiction(path, "sampling_fraction", f"{expected:g}", f"{fraction:g}")
    return fraction


def _mesh(path: Path, spec: DatasetSpec, detector: DetectorSpec, attributes: Mapping[str, Any]) -> CylinderMesh:
    default = spec.mesh or (spec.simulate and spec.simulate.mesh) or detector.mesh
    expected = CylinderMesh.from_spec(default)
    sizes = [_number(path, attributes, name) for name in ("dr_mm", "dz_mm")]
    dr, dz = (own if said is None else said for own, said in zip((default.dr_mm, default.dz_mm), sizes, strict=True))
    if not (dr > 0 and dz > 0 and math.isfinite(dr + dz)):
        raise FormatError(
            f"{path}: attributes dr_mm, dz_mm: expected positive cell sizes, found {dr:g}, {dz:g}; "
            "correct the attributes"
        )
    found = CylinderMesh(*_cells(path, attributes.get("cells", default.cells)), dr, dz)
    if _same(found, expected) or _generated(spec):
        return found
    raise FormatError(
        f"{path}: attributes cells, dr_mm, dz_mm: expected {expected} as in the data set's YAML or its detector, "
        f"found {found}; add the file's mesh to the data set's YAML: `mesh: {{cells: {list(found.shape)}, "
        f"dr_mm: {dr:g}, dz_mm: {dz:g}}}`, or take the file out of `files:`"
    )


def _cells(path: Path, cells: Any) -> tuple[int, int, int]:
    whole = isinstance(cells, list | tuple) and all(isinstance(n, int | float) and n == n // 1 >= 1 for n in cells)
    if not whole or len(cells) != 3:
        raise FormatError(
            f"{path}: attribute cells: expected three positive numbers (r, phi, z), found {cells!r}; "
            "correct the attribute"
        )
    return (int(cells[0]), int(cells[1]), int(cells[2]))


def _same(a: CylinderMesh, b: CylinderMesh) -> bool:
    """Equal up to the precision of float32 attributes."""
    sizes = ((a.dr_mm, b.dr_mm), (a.dz_mm, b.dz_mm))
    return a.shape == b.shape and all(math.isclose(x, y, rel_tol=1e-5) for x, y in sizes)
