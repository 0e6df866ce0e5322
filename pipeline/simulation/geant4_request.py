"""One Geant4 run as a record: what the parent process sends to the worker, as JSON.

Lengths in mm, energies in MeV, angles in degrees. A stack of layers, each an absorber followed by an active
material, is either `cylindrical` (concentric, as in Geant4's example Par04) or `planar` (slabs, as in TestEm3).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

from pipeline.config.detectors import DetectorSpec, MeshSpec


@dataclass(frozen=True)
class Geant4Request:
    """Everything the result depends on; the same request gives the same bytes.

    `planar_width_mm` is the side of a planar stack (its inner radius is ignored: it starts at x = 0, and the
    particle enters in its centre); the angle is the polar angle to the cylinder's axis, 90 degrees is
    perpendicular in both shapes.
    """

    detector: DetectorSpec
    mesh: MeshSpec
    particle: str
    angle_deg: float
    energies_mev: tuple[float, ...]
    seed: int
    threshold_mev: float = 0.0
    cut_mm: float = 0.7
    shape: Literal["cylindrical", "planar"] = "cylindrical"
    planar_width_mm: float = 400.0

    @property
    def materials(self) -> tuple[str, ...]:
        """Geant4 names of all materials in the geometry."""
        return ("G4_Galactic", self.detector.absorber.material, self.detector.active.material)

    @property
    def direction(self) -> tuple[float, float, float]:
        """Unit vector of the particle."""
        theta = math.radians(self.angle_deg)
        return (math.sin(theta), 0.0, math.cos(theta))

    @property
    def entry_mm(self) -> tuple[float, float, float]:
        """Where the particle enters the calorimeter: the origin of the mesh."""
        if self.shape == "planar":
            return (0.0, 0.0, 0.0)
        radius = self.detector.inner_radius_mm
        return (radius, 0.0, radius / math.tan(math.radians(self.angle_deg)))

    def to_json(self) -> str:
        """One line of JSON; numbers survive exactly."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["detector"] = self.detector.model_dump(mode="json")
        plain["mesh"] = self.mesh.model_dump(mode="json")
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Geant4Request:
        """The inverse of `to_json`."""
        plain = json.loads(text)
        plain["detector"] = DetectorSpec.model_validate(plain["detector"])
        plain["mesh"] = MeshSpec.model_validate(plain["mesh"])
        plain["energies_mev"] = tuple(plain["energies_mev"])
        return cls(**plain)
