"""The Geant4 side of a run: geometry, scoring, physics list, particle gun, as classes over the bindings.

Each function takes the imported bindings `g4` (this module never imports them: they need their environment
first, see `geant4_worker`) and returns an object that Geant4 calls back. Geant4 does not own Python objects, so
every one is kept in a list. Physics: `G4EmStandardPhysics` (option 0). Geometry of Geant4 11.4's example Par04
(cylinders) and TestEm3 (slabs). It does not simulate hadronic interactions, fields, electronics or digitisation.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.simulation.geant4_request import Geant4Request

_HALF_LENGTH_MM = 2000.0


@dataclass
class Deposits:
    """What the current event left: `steps` is flat (2x, 2y, 2z, energy) of the active material, mm and MeV."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    absorber_mev: float = 0.0
    started: float = 0.0

    def clear(self) -> None:
        """Forget the event; the next one starts now (`started`: seconds of this process's CPU)."""
        self.started = time.process_time()
        del self.steps[:]
        self.absorber_mev = 0.0


def detector_construction(g4: Any, request: Geant4Request, deposits: Deposits) -> Any:
    """The stack of layers, with a sensitive detector on the active (and, if planar, the absorber) layers."""
    detector = request.detector
    keep: list[Any] = []
    active: list[Any] = []
    absorber: list[Any] = []

    def place(solid: Any, material: Any, mother: Any, x_mm: float = 0.0, copy: int = 0) -> Any:
        logical = g4.G4LogicalVolume(solid, material, solid.GetName())
        placed = g4.G4PVPlacement(None, g4.G4ThreeVector(x_mm, 0, 0), logical, solid.GetName(), mother, False, copy)
        keep.extend((solid, logical, placed))
        return logical

    def cylinders(world: Any, vacuum: Any, materials: list[tuple[Any, float]], half_length: float) -> None:
        """Layers in groups: a particle then looks for its next volume among tens of them, not hundreds.

        Same steps and same bytes as without groups, at less than half of the time.
        """
        pitch = sum(thickness for _, thickness in materials)
        r = detector.inner_radius_mm
        r_out = r + detector.layers * pitch

        def tube(name: str, inner: float, outer: float) -> Any:
            return g4.G4Tubs(name, inner, outer, half_length, 0, 2 * math.pi)

        calorimeter = place(tube("Calorimeter", r, r_out), vacuum, world)
        size = max(1, round(math.sqrt(detector.layers / 2)))
        for i in range(detector.layers):
            if i % size == 0:
                group = place(tube("Group", r, min(r_out, r + size * pitch)), vacuum, calorimeter)
            for k, (material, thickness) in enumerate(materials):
                layer = place(tube("Layer", r, r + thickness), material, group, copy=2 * i + k)
                (active if k else absorber).append(layer)
                r += thickness

    def slabs(world: Any, materials: list[tuple[Any, float]]) -> None:
        half_width, x = request.planar_width_mm / 2, 0.0
        for i in range(detector.layers):
            for k, (material, thickness) in enumerate(materials):
                solid = g4.G4Box("Layer", thickness / 2, half_width, half_width)
                (active if k else absorber).append(place(solid, material, world, x + thickness / 2, 2 * i + k))
                x += thickness

    class Construction(g4.G4VUserDetectorConstruction):  # type: ignore[misc]
        def Construct(self) -> Any:
            nist = g4.G4NistManager.Instance()
            layers = [detector.absorber, detector.active]
            materials = [(nist.FindOrBuildMaterial(layer.material), layer.thickness_mm) for layer in layers]
            depth = detector.layers * sum(thickness for _, thickness in materials)
            r_out = detector.inner_radius_mm + depth
            half_length = max(_HALF_LENGTH_MM, 1.5 * abs(request.entry_mm[2]) + depth)
            vacuum = nist.FindOrBuildMaterial("G4_Galactic")
            half = 1.5 * max(r_out, request.planar_width_mm)
            world = place(g4.G4Box("World", half, half, 1.5 * half_length), vacuum, None)
            if request.shape == "planar":
                slabs(world, materials)
            else:
                cylinders(world, vacuum, materials, half_length)
            return keep[2]

        def ConstructSDandField(self) -> None:
            scored = [(_step_recorder(g4, deposits), active)]
            if request.shape == "planar":
                scored.append((_energy_counter(g4, deposits), absorber))
            for sensitive, volumes in scored:
                keep.append(sensitive)
                g4.G4SDManager.GetSDMpointer().AddNewDetector(sensitive)
                for logical in volumes:
                    logical.SetSensitiveDetector(sensitive)

    construction = Construction()
    construction.keep = keep
    return construction


def _step_recorder(g4: Any, deposits: Deposits) -> Any:
    """Appends middle and energy of each step; the halving waits for NumPy (exact, a power of two)."""
    record = deposits.steps.extend

    class StepRecorder(g4.G4VSensitiveDetector):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("active")
            self.start: Callable[[], Any] | None = None

        def ProcessHits(self, step: Any, history: Any) -> bool:
            energy = step.GetTotalEnergyDeposit()
            if energy > 0.0:
                if self.start is None:  # Geant4 has one G4Step with two points, reused from step to step
                    self.start = step.GetPreStepPoint().GetPosition
                    self.end = step.GetPostStepPoint().GetPosition
                twice = self.start() + self.end()
                record((twice.x, twice.y, twice.z, energy))
            return True

    return StepRecorder()


def _energy_counter(g4: Any, deposits: Deposits) -> Any:
    class EnergyCounter(g4.G4VSensitiveDetector):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("absorber")

        def ProcessHits(self, step: Any, history: Any) -> bool:
            deposits.absorber_mev += step.GetTotalEnergyDeposit()
            return True

    return EnergyCounter()


def physics_list(g4: Any, cut_mm: float) -> Any:
    """Standard electromagnetic physics with one production cut for all particles."""

    class Physics(g4.G4VModularPhysicsList):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.SetVerboseLevel(0)
            self.electromagnetic = g4.G4EmStandardPhysics()
            self.RegisterPhysics(self.electromagnetic)
            self.SetDefaultCutValue(cut_mm * g4.mm)

    return Physics()


def actions(g4: Any, request: Geant4Request, deposits: Deposits, end_of_event: Callable[[], None]) -> Any:
    """The particle gun, one energy for each event, and the end of an event."""

    class Gun(g4.G4VUserPrimaryGeneratorAction):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gun = g4.G4ParticleGun(1)
            particle = g4.G4ParticleTable.GetParticleTable().FindParticle(request.particle)
            entry, u = request.entry_mm, request.direction
            position = (e - 1e-3 * v for e, v in zip(entry, u, strict=True))
            self.gun.SetParticleDefinition(particle)
            self.gun.SetParticlePosition(g4.G4ThreeVector(*position))
            self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(*u))

        def GeneratePrimaries(self, event: Any) -> None:
            self.gun.SetParticleEnergy(request.energies_mev[event.GetEventID()] * g4.MeV)
            self.gun.GeneratePrimaryVertex(event)

    class Events(g4.G4UserEventAction):  # type: ignore[misc]
        def BeginOfEventAction(self, event: Any) -> None:
            deposits.clear()

        def EndOfEventAction(self, event: Any) -> None:
            end_of_event()

    class Actions(g4.G4VUserActionInitialization):  # type: ignore[misc]
        def Build(self) -> None:
            self.keep = (Gun(), Events())
            for action in self.keep:
                self.SetUserAction(action)

    return Actions()
