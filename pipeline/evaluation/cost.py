"""What a shower costs: Geant4 against the incident energy, and every sample, from the measured records alone.

In: the `.measured.json` files beside simulated raw files and generated samples (CPU milliseconds of one core). Out:
plain records for the figures. Nothing is timed here, and no digest covers these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config, SampleSpec
from pipeline.provenance import read_json

BINS = 6


def costs(config: Config, simulated: Sequence[Path], samples: Mapping[str, Path]) -> dict[str, Any]:
    """Geant4's cost in bins of the energy, and each sample's with its run; what was not measured is left out."""
    spent = [read_json(path) for path in simulated if path.exists()]
    energy = np.array([e for record in spent for e in record["incident_energy_mev"]])
    cpu_ms = np.array([ms for record in spent for ms in record["cpu_ms"]])
    found = {name: read_json(path) for name, path in samples.items() if path.exists()}
    return {
        "geant4": binned(energy, cpu_ms),
        "samples": {name: _record(config, name, found[name]) for name in samples if name in found},
    }


def _record(config: Config, name: str, measured: dict[str, Any]) -> dict[str, Any]:
    spec = config.samples[name]
    return measured | {"run": spec.run if isinstance(spec, SampleSpec) else None}


def binned(energy_mev: np.ndarray[Any, Any], cpu_ms: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Mean and standard error of the mean, in bins equal in log energy and over all; empty without showers."""
    if not len(energy_mev):
        return {"bins": [], "mean_ms": None, "showers": 0}
    edges = np.geomspace(energy_mev.min(), energy_mev.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, energy_mev, side="right") - 1, 0, BINS - 1)
    bins = []
    for i in np.unique(place).tolist():
        own = cpu_ms[place == i]
        error = float(own.std(ddof=1) / np.sqrt(len(own))) if len(own) > 1 else 0.0
        centre = float(np.exp(np.log(energy_mev[place == i]).mean()))
        bins.append({"energy_mev": centre, "mean_ms": float(own.mean()), "error_ms": error, "n": len(own)})
    return {"bins": bins, "mean_ms": float(cpu_ms.mean()), "showers": len(cpu_ms)}
