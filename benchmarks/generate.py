"""Generation, measured: `make bench-generate` (after the models of config/experiments/front.yaml are trained).

In: the trained models of the front. Out: benchmarks/results/generate.json. Everything runs on one core and is
interleaved in one run: each family, by its sample of FAMILIES, makes showers of 16 GeV, and Geant4 simulates them.
- ms_per_shower_<family>_batch1, _batch100: CPU time of a shower in network calls of 1 and of 100 showers, with the
  energy network, the inverse transform, the threshold and the exact rescale; the model is loaded before;
- geant4_ms_per_shower_16gev: CPU time of a Geant4 event, start-up left out; its full mesh is finer than the models',
  which costs Geant4 next to nothing;
- speedup_vs_geant4_16gev_<family>: Geant4 over batch 1, the median over repetitions;
- distilled_vs_teacher_speedup, distilled_head_vs_teacher_speedup: the teacher's batch 1 over the one-step model's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from measure import REPETITIONS, Case, Row, interleaved, row, write

from pipeline.config import BUILT_IN_DETECTORS, Config, SampleSpec, SimulateSpec, load_config
from pipeline.paths import Paths
from pipeline.simulation import ENGINES

CONFIGURATION = Path("config/experiments/front.yaml")
FAMILIES = {
    "mixture": "mixture_8",
    "mixture_2steps": "mixture_2steps",
    "null_model": "null_model",
    "pixels": "pixels_16",
    "distilled": "distilled_1",
    "distilled_head": "distilled_head_1",
    "vae": "vae",
    "vq_ar": "vq_ar",
}
TEACHERS = {"distilled": "pixels", "distilled_head": "mixture"}
ENERGY_GEV, GEANT4_SHOWERS = 16.0, 6
SHOWERS = {1: 20, 100: 100}
"""How many showers are made in calls of so many."""
WORKLOAD = "e- of 16 GeV in SiW, 9x10x15 cells"


def generated_ms(configuration: str, sample: str) -> dict[int, float]:
    """CPU milliseconds of a shower, by how many showers a network call has."""
    import torch

    from pipeline.calorimeter import CylinderMesh, Showers
    from pipeline.generation.model import GenerativeModel

    config = load_config(configuration)
    spec = config.samples[sample]
    assert isinstance(spec, SampleSpec) and config.evaluation is not None
    torch.set_num_threads(1)
    model = GenerativeModel.load(Paths(config).model(spec.run), config.evaluation.reference)
    mesh = CylinderMesh(1, 1, 1, 1.0, 1.0)

    def asked(n: int) -> Showers:
        energy, angle = np.full(n, 1e3 * ENERGY_GEV), np.full(n, np.pi / 2)
        return Showers(np.zeros((n, 1, 1, 1), np.float32), energy, angle, np.zeros(n), mesh, "SiW")

    spent = {}
    for batch, n in SHOWERS.items():
        model.sample(asked(1), rng=0, spec=spec, block=batch)  # one call to warm up
        started = time.process_time()
        model.sample(asked(n), rng=1, spec=spec, block=batch)
        spent[batch] = 1000 * (time.process_time() - started) / n
    return spent


def geant4_ms() -> float:
    """CPU milliseconds of a Geant4 event of the same energy."""
    spec = SimulateSpec(files=1, showers=GEANT4_SHOWERS, energy_gev=(ENERGY_GEV,), spectrum="fixed")
    cpu_ms: list[float] = []
    ENGINES["geant4"](spec, "SiW", BUILT_IN_DETECTORS["SiW"], 1, cpu_ms)
    return statistics.mean(cpu_ms)


def trained(config: Config, sample: str) -> bool:
    """Whether the model of a sample is there."""
    spec = config.samples.get(sample)
    return isinstance(spec, SampleSpec) and Paths(config).model(spec.run).exists()


def measured(configuration: Path, config: Config, repetitions: int) -> list[Row]:
    """All rows."""
    samples = {family: sample for family, sample in FAMILIES.items() if trained(config, sample)}
    cases = {family: Case(generated_ms, (str(configuration), sample)) for family, sample in samples.items()}
    done = interleaved({"geant4": Case(geant4_ms), **cases}, repetitions)
    geant4 = [cost.result for cost in done["geant4"]]
    ms = {(family, batch): [c.result[batch] for c in done[family]] for family in samples for batch in SHOWERS}

    def ratio(slow: list[float], fast: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(slow, fast, strict=True))

    rows = [("geant4_ms_per_shower_16gev", statistics.median(geant4), "ms", None)]
    for family in samples:
        for batch in SHOWERS:
            rows.append((f"ms_per_shower_{family}_batch{batch}", statistics.median(ms[family, batch]), "ms", None))
        gain = ratio(geant4, ms[family, 1])
        rows.append((f"speedup_vs_geant4_16gev_{family}", gain, "x", "geant4_ms_per_shower_16gev"))
    for student, teacher in TEACHERS.items():
        if {student, teacher} <= set(samples):
            gain = ratio(ms[teacher, 1], ms[student, 1])
            rows.append((f"{student}_vs_teacher_speedup", gain, "x", f"ms_per_shower_{teacher}_batch1"))
    return [row(name, value, unit, against, WORKLOAD, repetitions) for name, value, unit, against in rows]


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configuration", type=Path, default=CONFIGURATION)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    config = load_config(options.configuration)
    missing = [sample for sample in FAMILIES.values() if not trained(config, sample)]
    if len(missing) == len(FAMILIES):
        raise SystemExit(
            f"expected trained models of {options.configuration}, found none; "
            f"run snakemake --configfile {options.configuration}"
        )
    if missing:
        print(f"left out, for their models are not trained: {', '.join(missing)}", file=sys.stderr)
    write("generate", measured(options.configuration, config, options.repetitions))


if __name__ == "__main__":
    main()
