"""CPU time of both simulation engines on the same conditions, interleaved: `make bench-simulate`.

Writes benchmarks/results/simulate.json: the median of the repetitions, in core-s per GeV of incident energy
(start-up of a Geant4 process included), and the parametric engine's gain per shower against Geant4.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from datetime import date
from pathlib import Path

from measure import machine

from pipeline.config import BUILT_IN_DETECTORS, SimulateSpec
from pipeline.simulation import ENGINES

REPETITIONS, SHOWERS = 5, 40
WORKLOAD = f"{SHOWERS} e-, log-uniform 1-4 GeV, 18x50x45 cells"


def cpu_seconds() -> float:
    """User and system time of this process and of its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def measure(engine: str, detector: str, seed: int) -> tuple[float, float]:
    """CPU seconds and wall seconds per GeV."""
    spec = SimulateSpec(engine=engine, files=1, showers=SHOWERS, energy_gev=(1, 4))
    cpu, wall = cpu_seconds(), time.monotonic()
    showers = ENGINES[engine](spec, detector, BUILT_IN_DETECTORS[detector], seed)
    gev = showers.incident_energy.sum() / 1000
    return (cpu_seconds() - cpu) / gev, (time.monotonic() - wall) / gev


def main() -> None:
    """Interleave engines and detectors, print the table, write the rows."""
    cases = [(engine, detector) for detector in BUILT_IN_DETECTORS for engine in ("geant4", "parametric")]
    for case in cases:
        measure(*case, seed=1)
    times = {case: [] for case in cases}
    for seed in range(1, REPETITIONS + 1):
        for case in cases:
            times[case].append(measure(*case, seed=seed))
    rows = []
    common = {"workload": WORKLOAD, "n": REPETITIONS, "machine": machine(), "date": date.today().isoformat()}
    for (engine, detector), pairs in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        name = f"{engine}_{detector}"
        rows.append({"name": f"{name}_cpu", "value": cpu, "unit": "core-s/GeV", "against": None, **common})
        rows.append({"name": f"{name}_wall", "value": wall, "unit": "s/GeV", "against": None, **common})
        if engine == "parametric":
            gain = statistics.median(a[0] / b[0] for a, b in zip(times["geant4", detector], pairs, strict=True))
            against = f"geant4_{detector}_cpu"
            rows.append(
                {"name": f"parametric_gain_{detector}", "value": gain, "unit": "x", "against": against, **common}
            )
    for row in rows:
        print(f"{row['name']:28} {row['value']:10.4g} {row['unit']}")
    output = Path(__file__).parent / "results" / "simulate.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
