"""Conditions in, showers out: Geant4, and a parametric engine for bulk data and machines without Geant4."""

from __future__ import annotations

from pipeline.calorimeter import Showers
from pipeline.config.data import SimulateSpec
from pipeline.config.detectors import DetectorSpec
from pipeline.simulation.conditions import Engine, SimulationError

__all__ = ["ENGINES", "Engine", "SimulationError"]


def _geant4(
    spec: SimulateSpec, detector_name: str, detector: DetectorSpec, seed: int, cpu_ms: list[float] | None = None
) -> Showers:
    from pipeline.simulation.geant4 import simulate_geant4

    return simulate_geant4(spec, detector_name, detector, seed, cpu_ms)


def _parametric(
    spec: SimulateSpec, detector_name: str, detector: DetectorSpec, seed: int, cpu_ms: list[float] | None = None
) -> Showers:
    from pipeline.simulation.parametric import simulate_parametric

    return simulate_parametric(spec, detector_name, detector, seed)


ENGINES: dict[str, Engine] = {"geant4": _geant4, "parametric": _parametric}
