"""The process that runs Geant4: a request on stdin, the hits in an .npz file, all talk on stderr.

    python -m pipeline.simulation.geant4_worker FOLDER < request.json

Geant4 allows one run per process and answers fatal errors with SIGABRT, so it lives here and not in the caller.
Writes `FOLDER/hits.npz`: row_size (shower,), cell (hit,) flat index into (r, phi, z), energy (hit,) float32 MeV,
active_mev and absorber_mev (shower,) all energy left in the active material and (planar only) the absorber,
cpu_ms (shower,) the CPU time of each event with its scoring, the one array that differs from run to run.
`G4LEDATA` or `GEANT4_DATA_DIR` in the environment are used as they are; else a stand-in is written to `FOLDER`.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.simulation.geant4_request import Geant4Request
from pipeline.simulation.geant4_scene import Deposits, actions, detector_construction, physics_list
from pipeline.simulation.geant4_tables import write_empty_nuclides, write_standin_data

_DATA_VARIABLES = (
    "GEANT4_DATA_DIR", "G4LEDATA", "G4ENSDFSTATEDATA", "G4NEUTRONHPDATA", "G4LEVELGAMMADATA", "G4RADIOACTIVEDATA",
    "G4PARTICLEXSDATA", "G4PIIDATA", "G4REALSURFACEDATA", "G4SAIDXSDATA", "G4ABLADATA", "G4INCLDATA",
    "G4CHANNELINGDATA",
)  # fmt: skip


def load_geant4(folder: Path, materials: tuple[str, ...]) -> Any:
    """The bindings, imported with every data variable set (else their import asks on stdin)."""
    official = os.environ.get("G4LEDATA") or os.environ.get("GEANT4_DATA_DIR")
    if os.environ.get("GEANT4_DATA_DIR"):  # Geant4 finds every data set below it
        return importlib.import_module("geant4_pybind")
    for variable in _DATA_VARIABLES:
        os.environ[variable] = os.environ.get(variable) or str(folder)
    g4 = importlib.import_module("geant4_pybind")
    if official:
        write_empty_nuclides(folder)
    else:
        write_standin_data(folder, g4, elements_of(g4, materials))
    return g4


def elements_of(g4: Any, materials: tuple[str, ...]) -> list[int]:
    """Atomic numbers in the materials; an unknown material ends the process."""
    nist, elements = g4.G4NistManager.Instance(), set()
    for name in materials:
        material = nist.FindOrBuildMaterial(name)
        if material is None:
            raise SystemExit(f"material: expected the name of a Geant4 NIST material (such as G4_W), got {name!r}")
        elements |= {round(material.GetElement(i).GetZ()) for i in range(material.GetNumberOfElements())}
    return sorted(elements)


def rotation(angle_deg: float) -> NDArray[np.float64]:
    """Rows: the mesh's axes x, y, z in the laboratory; z lies along the particle."""
    theta = math.radians(angle_deg)
    cos, sin = math.cos(theta), math.sin(theta)
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def bin_steps(
    position_mm: NDArray[np.float64], energy_mev: NDArray[np.float64], mesh: CylinderMesh
) -> NDArray[np.float32]:
    """Energies at (3, step) positions in the mesh's frame, summed into its cells: flat, shape (cell,)."""
    x, y, z = position_mm
    i_r = (np.hypot(x, y) / mesh.dr_mm).astype(int)
    i_phi = ((math.pi + np.arctan2(y, x)) / (2 * math.pi / mesh.n_phi)).astype(int) % mesh.n_phi
    i_z = np.floor(z / mesh.dz_mm).astype(int)
    inside = (i_r < mesh.n_r) & (i_z >= 0) & (i_z < mesh.n_z)
    cell = (i_r[inside] * mesh.n_phi + i_phi[inside]) * mesh.n_z + i_z[inside]
    return np.bincount(cell, energy_mev[inside], mesh.n_cells).astype(np.float32)


class Events:
    """Collects the hits above threshold, event by event."""

    def __init__(self, request: Geant4Request, deposits: Deposits) -> None:
        """Start with no event; `deposits` is what the scoring fills."""
        self.request, self.deposits = request, deposits
        self.mesh = CylinderMesh.from_spec(request.mesh)
        self.axes, self.origin = rotation(request.angle_deg), np.array(request.entry_mm)
        self.cells: list[NDArray[np.uint32]] = []
        self.energies: list[NDArray[np.float32]] = []
        self.totals_mev: list[tuple[float, float]] = []
        self.cpu_ms: list[float] = []
        self.parent = os.getppid()

    def end_of_event(self) -> None:
        """Bin the event that just ended, say how far the run is, and stop when the caller is gone."""
        steps = np.array(self.deposits.steps).reshape(-1, 4)
        local = self.axes @ (0.5 * steps[:, :3] - self.origin).T
        image = bin_steps(local, steps[:, 3], self.mesh)
        hit = np.flatnonzero((image > 0) & (image >= self.request.threshold_mev))
        self.cells.append(hit.astype(np.uint32))
        self.energies.append(image[hit])
        self.totals_mev.append((float(steps[:, 3].sum()), self.deposits.absorber_mev))
        self.cpu_ms.append(1e3 * (time.process_time() - self.deposits.started))
        self._report()
        if os.getppid() != self.parent:
            os._exit(1)

    def _report(self) -> None:
        done, n = len(self.cells), len(self.request.energies_mev)
        if done * 10 // n > (done - 1) * 10 // n:
            sys.stderr.write(f"geant4: {done}/{n} showers\n")
            sys.stderr.flush()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything collected, ragged."""
        totals = np.array(self.totals_mev).reshape(-1, 2)
        return {
            "row_size": np.array([len(cells) for cells in self.cells], np.int64),
            "cell": np.concatenate([np.zeros(0, np.uint32), *self.cells]),
            "energy": np.concatenate([np.zeros(0, np.float32), *self.energies]),
            "active_mev": totals[:, 0],
            "absorber_mev": totals[:, 1],
            "cpu_ms": np.array(self.cpu_ms),
        }


def run(request: Geant4Request, folder: Path) -> dict[str, NDArray[Any]]:
    """One event for each energy of the request; once per process."""
    g4 = load_geant4(folder, request.materials)
    deposits = Deposits()
    events = Events(request, deposits)
    g4.HepRandom.setTheSeed(request.seed)
    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
    keep = (
        detector_construction(g4, request, deposits),
        physics_list(g4, request.cut_mm),
        actions(g4, request, deposits, events.end_of_event),
    )
    for part in keep:
        manager.SetUserInitialization(part)
    g4.G4EmParameters.Instance().SetVerbose(0)
    manager.Initialize()
    manager.BeamOn(len(request.energies_mev))
    return events.arrays()


def main() -> None:
    """Run the request on stdin; leave without Geant4's tear-down, which knows nothing of Python's objects."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    folder = Path(sys.argv[1])
    hits = run(Geant4Request.from_json(sys.stdin.read()), folder)
    np.savez(folder / "hits.npz", allow_pickle=False, **hits)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
