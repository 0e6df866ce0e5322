"""The `Reader` protocol: a raw layout is something that can describe, read and write a file.

Inside the project energies are visible MeV, angles rad, axes (shower, r, phi, z); a reader converts at
the edge. What a file says of itself (root attributes) wins; what it leaves out must stand in the data
set's YAML, or the file is refused with a `FormatError`. A new layout is one module and one line in
`READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


class Reader(Protocol):
    """One raw layout."""

    def describe(self, path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
        """What the file holds; raises `FormatError`."""

    def row_blocks(self, path: Path, description: Description) -> Iterator[slice]:
        """Row ranges aligned to the file's chunks, in order, each of bounded size."""

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
    corrected = attributes.get("sampling_corrected", spec.sampling_corrected)
    if corrected is None:
        raise FormatError(
            f"{path}: attribute sampling_corrected: expected true or false, found nothing; "
            "say whether energies were divided by the sampling fraction: add the line "
            "`sampling_corrected: false` (or true) to the data set's YAML"
        )
    angle = None if theta_per_shower else _angle(path, spec, attributes, angle_deg)
    threshold = attributes.get("threshold_mev")
    return Description(
        path=path,
        n_showers=n_showers,
        mesh=_mesh(path, spec, detector, attributes),
        detector=spec.detector,
        particle=str(attributes.get("particle", spec.particle)),
        theta_rad=None if angle is None else math.radians(angle),
        sampling_fraction=_fraction(path, spec, detector, attributes),
        sampling_corrected=bool(corrected),
        threshold_mev=None if threshold is None else float(threshold),
    )


def _check_claims(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any]) -> None:
    for key in ("detector", "material"):
        if key in attributes and str(attributes[key]) != spec.detector:
            raise FormatError(
                f"{path}: attribute {key}: expected '{spec.detector}' as in the data set's YAML, "
                f"found '{attributes[key]}'; correct `detector:` or take the file out of `files:`"
            )
    if str(attributes.get("unit", "MeV")) != "MeV":
        raise FormatError(
            f"{path}: attribute unit: expected 'MeV', found '{attributes['unit']}'; convert the file's energies to MeV"
        )


def _angle(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any], from_name: float | None) -> float:
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
    fraction = float(attributes.get("sampling_fraction", spec.sampling_fraction or detector.sampling_fraction))
    if not 0 < fraction <= 1:
        raise FormatError(
            f"{path}: attribute sampling_fraction: expected a number in (0, 1], found {fraction:g}; "
            "correct the attribute"
        )
    return fraction


def _mesh(path: Path, spec: DatasetSpec, detector: DetectorSpec, attributes: Mapping[str, Any]) -> CylinderMesh:
    default = spec.mesh or detector.mesh
    cells = [int(n) for n in attributes.get("cells", default.cells)]
    if len(cells) != 3 or min(cells) < 1:
        raise FormatError(
            f"{path}: attribute cells: expected three positive numbers (r, phi, z), found {cells}; "
            "correct the attribute"
        )
    dr, dz = (float(attributes.get(name, getattr(default, name))) for name in ("dr_mm", "dz_mm"))
    if not (dr > 0 and dz > 0 and math.isfinite(dr + dz)):
        raise FormatError(
            f"{path}: attributes dr_mm, dz_mm: expected positive cell sizes, found {dr:g}, {dz:g}; "
            "correct the attributes"
        )
    return CylinderMesh(cells[0], cells[1], cells[2], dr, dz)
