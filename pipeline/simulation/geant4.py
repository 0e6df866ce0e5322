"""Geant4 showers, made in a process of their own.

In: a `SimulateSpec`, a detector, a seed. Out: visible energies (shower, r, phi, z), MeV, of electrons, positrons
or photons in any stack of layers and any regular mesh along the particle. A crash of Geant4 becomes a
`SimulationError` that says what was asked for, what Geant4 said last and what to do. Same seed, same bytes.
Physics, validation and limits: docs/geant4.md. Electromagnetic interactions only.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pipeline
from pipeline.calorimeter import Showers
from pipeline.config.data import SimulateSpec
from pipeline.config.detectors import DetectorSpec
from pipeline.simulation.conditions import SimulationError, as_showers, incident_energies_mev, mesh_of
from pipeline.simulation.geant4_request import Geant4Request

_PROGRESS = "geant4: "
_TAIL_LINES = 15
_log = logging.getLogger(__name__)


def simulate_geant4(
    spec: SimulateSpec, detector_name: str, detector: DetectorSpec, seed: int, cpu_ms: list[float] | None = None
) -> Showers:
    """The showers of one file; `SimulationError` when Geant4 is missing or stops.

    The CPU time of each event, in ms and with its scoring, is appended to `cpu_ms`.
    """
    mesh = mesh_of(spec, detector)
    energies = incident_energies_mev(spec, seed)
    request = Geant4Request(
        detector=detector,
        mesh=mesh.as_spec(),
        particle=spec.particle,
        angle_deg=spec.angle_deg,
        energies_mev=tuple(energies.tolist()),
        seed=seed,
        threshold_mev=spec.threshold_mev,
    )
    hits = run_geant4(request, detector_name)
    if cpu_ms is not None:
        cpu_ms += hits["cpu_ms"].tolist()
    energy = np.zeros((len(energies), mesh.n_cells), np.float32)
    energy[np.repeat(np.arange(len(energies)), hits["row_size"]), hits["cell"]] = hits["energy"]
    return as_showers(energy.reshape(-1, *mesh.shape), energies, spec, mesh, detector_name)


def run_geant4(request: Geant4Request, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of `geant4_worker` for one request; `name` is the detector's, for messages.

    The worker's lines of progress go to stderr, the rest of its output to this module's log (debug).
    """
    _require(request)
    with tempfile.TemporaryDirectory(prefix="caloforge-geant4-") as folder:
        code, tail = _run_worker(request, Path(folder))
        result = Path(folder) / "hits.npz"
        if code != 0 or not result.exists():
            raise SimulationError(_explain(request, name, code, tail))
        with np.load(result) as arrays:
            return dict(arrays)


def _require(request: Geant4Request) -> None:
    if importlib.util.find_spec("geant4_pybind") is None:
        raise SimulationError(
            "simulate.engine: expected the package geant4_pybind for engine 'geant4', found none; "
            "pip install geant4-pybind==0.1.3, or set engine: parametric"
        )
    if not 0 < request.seed < 2**63:
        raise SimulationError(f"simulate.seed: expected 1 to 2**63 - 1 for engine 'geant4', got {request.seed}")


def _run_worker(request: Geant4Request, folder: Path) -> tuple[int, list[str]]:
    """Exit code and last lines of the worker."""
    code_folder = str(Path(pipeline.__file__).parents[1])
    search = [code_folder, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [code_folder]
    (folder / "request.json").write_text(request.to_json())
    with (
        open(folder / "request.json", "rb") as stdin,
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.simulation.geant4_worker", str(folder)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        ) as worker,
    ):
        try:
            tail = _follow(worker)
        except BaseException:
            worker.kill()
            raise
    return worker.returncode, tail


def _follow(worker: subprocess.Popen[bytes]) -> list[str]:
    """Pass progress on while the worker runs; returns its last lines."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    for raw in worker.stdout or ():
        line = raw.decode(errors="replace").rstrip()
        if line.startswith(_PROGRESS):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        elif line:
            _log.debug(line)
            tail.append(line)
    return list(tail)


def _explain(request: Geant4Request, name: str, code: int, tail: list[str]) -> str:
    low, high = min(request.energies_mev) / 1e3, max(request.energies_mev) / 1e3
    absorber, active = request.detector.absorber.material, request.detector.active.material
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    official = os.environ.get("G4LEDATA") or os.environ.get("GEANT4_DATA_DIR")
    data = f"the Geant4 data in {official}" if official else "the free memory and disk (G4LEDATA is not set)"
    said = "\n  ".join(tail) or "(nothing)"
    return (
        f"geant4: expected showers of {request.particle} at {low:g}-{high:g} GeV in {name} ({absorber}, {active}), "
        f"got {ended}; check the materials and thicknesses of detectors.{name} and {data}, or set engine: parametric. "
        f"Geant4 said last:\n  {said}"
    )
