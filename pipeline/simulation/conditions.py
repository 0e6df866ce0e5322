"""What a simulation is asked for, the same for every engine: energies, angle, mesh; and what it hands back.

In: a `SimulateSpec`, the detector and the seed of one file. Out: `Showers` in visible MeV, float32, cells below
the readout threshold set to zero. The azimuth is 0: the mesh lies along the particle, around its own axis.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config.data import SimulateSpec
from pipeline.config.detectors import DetectorSpec


class Engine(Protocol):
    """Makes the showers of one file."""

    def __call__(
        self,
        spec: SimulateSpec,
        detector_name: str,
        detector: DetectorSpec,
        seed: int,
        cpu_ms: list[float] | None = None,
    ) -> Showers:
        """Showers; the CPU time of each, in ms, is appended to `cpu_ms` by an engine that measures it."""


class SimulationError(RuntimeError):
    """Showers that could not be made: the engine is missing, or it stopped."""


def incident_energies_mev(spec: SimulateSpec, seed: int) -> NDArray[np.float64]:
    """Incident energies of one file, shape (shower,), MeV.

    `log_uniform`: drawn with the file's seed; `fixed`: the showers divided evenly over the energies, in order.
    """
    if spec.spectrum == "fixed":
        of_shower = np.array_split(np.arange(spec.showers), len(spec.energy_gev))
        return np.repeat(np.array(spec.energy_gev), [len(rows) for rows in of_shower]) * 1e3
    low, high = np.log(spec.energy_gev)
    return np.exp(np.random.default_rng(seed).uniform(low, high, spec.showers)) * 1e3


def mesh_of(spec: SimulateSpec, detector: DetectorSpec) -> CylinderMesh:
    """The scoring mesh: the one asked for, else the detector's."""
    return CylinderMesh.from_spec(spec.mesh or detector.mesh)


def as_showers(
    energy: NDArray[np.float32],
    incident_energy_mev: NDArray[np.float64],
    spec: SimulateSpec,
    mesh: CylinderMesh,
    detector_name: str,
) -> Showers:
    """Dense energies (shower, r, phi, z), MeV, with their conditions."""
    n = len(incident_energy_mev)
    theta = np.full(n, math.radians(spec.angle_deg))
    return Showers(energy, incident_energy_mev, theta, np.zeros(n), mesh, detector_name, spec.particle)
