"""The layout of LEMURS: photons in five calorimeters, at all angles, on the 9 x 16 x 45 mesh.

`showers` (N, 9, 16, 45) as (r, phi, z), visible MeV, not divided by the sampling fraction; `incident_energy`,
`incident_theta`, `incident_phi` (N,) MeV and rad. Detector and particle stand in the file's name,
`LEMURS_<detector>_<particle>_…`; `Par04SiW` there is the data set's detector `SiW` (or `Par04SiW`). Cell sizes
stand nowhere: `mesh:` of the YAML. Source: arXiv:2509.05108, zenodo.org/records/17045562.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats.hdf5 import open_raw, values_of
from pipeline.data.formats.labels import ANGLES
from pipeline.data.formats.par04_events import describe_events, labels, read, row_blocks, voxels
from pipeline.data.formats.reader import Description, Layout

__all__ = ["LAYOUT", "describe", "labels", "read", "row_blocks", "voxels"]

LAYOUT = Layout(
    keys="showers (N, 9, 16, 45), incident_energy, incident_theta, incident_phi (N,)",
    source="LEMURS, arXiv:2509.05108, zenodo.org/records/17045562",
    sampling_corrected=False,
    published="none of LEMURS is: false",
)

_NAME = re.compile(r"LEMURS_([A-Za-z0-9]+)_([a-z]+)_")


def describe(path: Path, spec: DatasetSpec, detector: DetectorSpec) -> Description:
    """What the file holds; raises `FormatError`."""
    with open_raw(path) as handle:
        for key in ANGLES:
            values_of(handle, key, path)
    return describe_events(path, spec, detector, LAYOUT, _facts(path, spec))


def _facts(path: Path, spec: DatasetSpec) -> dict[str, str]:
    """Detector and particle of the file's name, where it is a name of LEMURS."""
    match = _NAME.match(path.name)
    if match is None:
        return {}
    return {"detector": spec.detector if match[1] == f"Par04{spec.detector}" else match[1], "particle": match[2]}
