"""What is known of a raw file: what it says of itself, what its path says, what the data set's YAML says.

In: root attributes, the fields that `path_pattern` reads off the path, and the data set's spec. Out: a
`Description`. What a file says wins over defaults; what it leaves out must stand in the YAML; a file that
contradicts the YAML, or its own path, is refused with a `FormatError`. Nothing is guessed from the values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.config.data import Particle
from pipeline.data.formats.path_pattern import path_facts
from pipeline.data.formats.reader import Description, FormatError, Layout

_OF_A_SAMPLE = {"format", "files", "detector", "particle"}
_ANGLE_TOLERANCE_DEG = 0.1  # files name 1.57 rad for 90 degrees


def described(
    path: Path,
    spec: DatasetSpec,
    detector: DetectorSpec,
    attributes: Mapping[str, Any],
    *,
    layout: Layout,
    n_showers: int,
    theta: NDArray[np.floating] | None = None,
    own_facts: Mapping[str, Any] = {},
) -> Description:
    """The description of a file from its root attributes, completed by its path and the data set's YAML.

    `theta` (shower,) rad are the angles of a file that holds one per shower; `own_facts` are those that the layout
    itself reads off the path. Raises `FormatError`.
    """
    facts = _facts_of_path(path, spec, attributes, own_facts)
    _check_claims(path, spec, attributes)
    angle = _angle(path, spec, attributes, facts.get("angle_deg"), needed=theta is None)
    if theta is not None:
        _check_theta(path, theta, angle)
    return Description(
        path=path,
        n_showers=n_showers,
        mesh=_mesh(path, spec, detector, attributes),
        detector=spec.detector,
        particle=_particle(path, spec, {**facts, **attributes}),
        theta_rad=None if angle is None or theta is not None else math.radians(angle),
        sampling_fraction=_fraction(path, spec, detector, attributes),
        sampling_corrected=_corrected(path, spec, attributes, layout),
        threshold_mev=_number(path, attributes, "threshold_mev"),
    )


def is_generated(spec: DatasetSpec) -> bool:
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


def _facts_of_path(
    path: Path, spec: DatasetSpec, attributes: Mapping[str, Any], own_facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What the path says; refused where it contradicts the file itself or the YAML."""
    facts = {**own_facts, **path_facts(path, spec)}
    said = {"detector": spec.detector, "angle_deg": spec.angle_deg}
    if "particle" in spec.model_fields_set and not is_generated(spec):
        said["particle"] = spec.particle
    for key, found in facts.items():
        for where, expected in (("data set's YAML", said.get(key)), ("file's attributes", attributes.get(key))):
            if expected is not None and not _agree(found, expected):
                raise FormatError(
                    f"{path}: {key} in the path: expected {expected} as in the {where}, found {found}; "
                    "correct the YAML (`path_pattern:` says how the path is read) or take the file out of `files:`"
                )
    return facts


def _agree(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, int | float):
        return abs(found - expected) <= 1e-3
    return str(found) == str(expected)


def _check_theta(path: Path, theta: NDArray[np.floating], claimed_deg: float | None) -> None:
    """Angles per shower: in [0, pi] rad, and those of the YAML or the path where these name one angle."""
    wrong = ~((theta >= 0) & (theta <= math.pi))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{path}: data set incident_theta: expected radians in [0, pi], found {theta[row]:g} in row {row}; "
            "convert the angles or repair the file"
        )
    low, high = np.degrees([theta.min(), theta.max()])
    if claimed_deg is not None and max(abs(low - claimed_deg), abs(high - claimed_deg)) > _ANGLE_TOLERANCE_DEG:
        raise FormatError(
            f"{path}: data set incident_theta: expected {claimed_deg:g} degrees in all showers as the data set's YAML, "
            f"the file's attributes or its path say, found {low:.4g} to {high:.4g}; take the line `angle_deg:` out "
            "of the YAML, as the file holds an angle for each shower"
        )


def _check_claims(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any]) -> None:
    for key in ("detector", "material"):
        if key in attributes and str(attributes[key]) != spec.detector:
            raise _contradiction(path, key, f"'{spec.detector}'", f"'{attributes[key]}'", line="detector")
    if str(attributes.get("unit", "MeV")) != "MeV":
        raise FormatError(
            f"{path}: attribute unit: expected 'MeV', found '{attributes['unit']}'; convert the file's energies to MeV"
        )


def _corrected(path: Path, spec: DatasetSpec, attributes: Mapping[str, Any], layout: Layout) -> bool:
    found, expected = attributes.get("sampling_corrected"), spec.sampling_corrected
    if found is None and expected is None and layout.sampling_corrected is None:
        raise FormatError(
            f"{path}: attribute sampling_corrected: expected true or false, found nothing; "
            "say whether energies were divided by the sampling fraction: add the line "
            f"`sampling_corrected: false` (or true) to the data set's YAML ({layout.published})"
        )
    if found is None and None not in (expected, layout.sampling_corrected) and expected != layout.sampling_corrected:
        raise FormatError(
            f"{path}: sampling_corrected: expected {str(layout.sampling_corrected).lower()} as in all files of this "
            f"layout ({layout.source}), found {str(expected).lower()} in the data set's YAML; take the line out, or "
            "name the layout that the files have"
        )
    if found is None:
        return bool(layout.sampling_corrected if expected is None else expected)
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
    explicit = "particle" in spec.model_fields_set and not is_generated(spec)
    if explicit and found not in (spec.particle, simulated):
        raise _contradiction(path, "particle", spec.particle, found)
    return str(found)


def _angle(
    path: Path, spec: DatasetSpec, attributes: Mapping[str, Any], from_path: float | None, needed: bool
) -> float | None:
    """The constant angle in degrees; where none is needed, None unless somebody claims one."""
    for key in ("angle_deg", "angle"):
        said = _number(path, attributes, key)
        if said is not None and spec.angle_deg is not None and not abs(said - spec.angle_deg) <= 1e-3:
            raise _contradiction(path, key, f"{spec.angle_deg:g}", f"{said:g}", line="angle_deg")
    simulated = spec.simulate.angle_deg if spec.simulate and needed else None
    found = (attributes.get("angle_deg"), attributes.get("angle"), spec.angle_deg, from_path, simulated)
    angle = next((float(value) for value in found if value is not None), None)
    if angle is None and not needed:
        return None
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
    if _same(found, expected) or is_generated(spec):
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
