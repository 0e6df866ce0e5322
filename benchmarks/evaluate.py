"""The evaluation, measured: `make bench-evaluate`.

In: a raw file of 18x50x45 cells (made once, see workloads.py), ingested once. Out: benchmarks/results/evaluate.json.
- evaluate_vs_numpy: all observables of the showers of a part, against plain NumPy on the same showers read from the raw
  HDF5 file (gzip, page cache warm; see evaluate_numpy.py), on two threads; `_one_thread` on one, `_npy` against dense
  showers in a .npy file, where NumPy has nothing to decompress. All tables are checked to be equal;
- evaluate_memory_growth, evaluate_peak_mb: observables, metrics and figure tables of two sides of 100k showers, against
  a tenth of it; metrics of feature vectors see 10k showers a side, classifiers are left out; the part is read as many
  times as it takes;
- fpd_50k_cpu_s: the Fréchet physics distance of 50k showers a side and 40 features.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from evaluate_numpy import table_of
from measure import REPETITIONS, Case, cost, gain, interleaved, median, row, write
from workloads import FOLDER, raw_file

from pipeline.calorimeter import CylinderMesh
from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, EvaluationSpec
from pipeline.data.compute import Workers
from pipeline.data.ingest import ingest
from pipeline.data.store import Part
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.conditions import Ground
from pipeline.evaluation.distances import fpd
from pipeline.evaluation.evaluate import comparison
from pipeline.evaluation.observables import observe

OUTPUT = FOLDER / "evaluate"
MESH, THRESHOLD_MEV, THREADS = "18x50x45", 5e-4, 2
WORKLOAD = "e-, 1 GeV-1 TeV, 18x50x45 cells"
FPD_FEATURES, FEATURE_SHOWERS = 40, 10_000
Table = dict[str, np.ndarray]


def part_of(gigabytes: float) -> Path:
    """The manifest of the workload's part, made when it is not there."""
    manifest = OUTPUT / f"{MESH}_{gigabytes:g}GB.json"
    if not manifest.exists():
        spec = DatasetSpec(format="par04_events", detector="SiW", sampling_corrected=False, angle_deg=90)
        OUTPUT.mkdir(parents=True, exist_ok=True)
        ingest(raw_file(MESH, gigabytes), manifest, spec, BUILT_IN_DETECTORS["SiW"], "benchmark")
    return manifest


def dense_of(manifest: Path, showers: int) -> Path:
    """The first showers of a part as a dense .npy, float32."""
    path = manifest.with_name(f"{manifest.stem}_{showers}.npy")
    if not path.exists():
        np.save(path, Part.open(manifest).read(slice(0, showers)).dense().energy)
    return path


# ------------------------------------------------------------------------------- cases


def ours(manifest: Path, showers: int, threads: int) -> Table:
    """All observables, block by block from the part."""
    return observe(ShowerStream.of(Part.open(manifest)).first(showers).cut(THRESHOLD_MEV), workers=Workers(threads))


def plain(source: Path, incident_energy: np.ndarray) -> Table:
    """All observables of the first dense showers of a raw file or a .npy, and nothing but NumPy and SciPy."""
    if source.suffix == ".npy":
        energy = np.load(source)
    else:
        with h5py.File(source) as handle:
            energy = handle["showers"][: len(incident_energy)]
    return table_of(energy, incident_energy, CylinderMesh.from_spec(BUILT_IN_DETECTORS["SiW"].mesh), THRESHOLD_MEV)


def evaluation(manifest: Path, showers: int) -> int:
    """The whole comparison of two sides of as many showers, but for classifiers; how many rows it has."""
    part = Part.open(manifest)
    parts = (part,) * -(-showers // part.n_showers)
    sides = []
    for places in (np.arange(showers), np.arange(showers)[::-1]):
        sides.append(ShowerStream(parts, places // part.n_showers, places % part.n_showers).cut(THRESHOLD_MEV))
    spec = EvaluationSpec(
        reference="siw", showers=showers, classifiers=(), bootstrap=10, feature_showers=FEATURE_SHOWERS
    )
    rows, _ = comparison(Ground(*sides), spec, 1, Workers(THREADS))
    return len(rows)


def distance() -> float:
    """FPD of two clouds of 50k showers."""
    rng = np.random.default_rng(0)
    clouds = rng.normal(size=(50_000, FPD_FEATURES)), rng.normal(size=(50_000, FPD_FEATURES)) * 1.02
    return fpd(*clouds).value


def check_equal(fast: Table, slow: Table) -> None:
    """Both ways give the same numbers; widths of layers lose digits in float32 sums."""
    for name, column in slow.items():
        loose = {"rtol": 1e-3, "atol": 2e-2} if name == "layer_centres" else {"rtol": 2e-5, "atol": 1e-6}
        np.testing.assert_allclose(fast[name], column, **loose, err_msg=name)


# ------------------------------------------------------------------------------- rows


def rows(gigabytes: float, showers: int, many: int, repetitions: int) -> list[dict[str, Any]]:
    """All rows; `showers` against plain NumPy, `many` for the memory."""
    manifest = part_of(gigabytes)
    incident = Part.open(manifest).incident_energy[:showers].astype(np.float64)
    showers = len(incident)
    cases = {
        "numpy": Case(plain, (raw_file(MESH, gigabytes), incident)),
        "npy": Case(plain, (dense_of(manifest, showers), incident)),
        "ours": Case(ours, (manifest, showers, THREADS)),
        "one_thread": Case(ours, (manifest, showers, 1)),
    }
    costs = interleaved(cases, repetitions)
    for name in ("ours", "one_thread"):
        check_equal(costs[name][0].result, costs["numpy"][0].result)
    few, all_of_them = (cost(Case(evaluation, (manifest, n))) for n in (many // 10, many))
    fpds = [cost(Case(distance)) for _ in range(min(repetitions, 3))]
    small, large = f"{showers} {WORKLOAD}", f"{many} a side, {WORKLOAD}"
    each_ms = 1e3 * median(costs["one_thread"], "cpu_s") / showers
    numpy, npy = "plain NumPy on raw HDF5", "plain NumPy on .npy"
    return [
        row("evaluate_vs_numpy", gain(costs["numpy"], costs["ours"]), "x", numpy, small, repetitions),
        row("evaluate_vs_numpy_one_thread", gain(costs["numpy"], costs["one_thread"]), "x", numpy, small, repetitions),
        row("evaluate_vs_numpy_npy", gain(costs["npy"], costs["ours"]), "x", npy, small, repetitions),
        row("evaluate_vs_numpy_cpu", gain(costs["numpy"], costs["ours"], "cpu_s"), "x", numpy, small, repetitions),
        row("observe_ms_per_shower", each_ms, "core-ms", None, small, repetitions),
        row("evaluate_memory_growth", all_of_them.peak_mb / few.peak_mb, "x", f"{many // 10} a side", large, 1),
        row("evaluate_peak_mb", all_of_them.peak_mb, "MB", None, large, 1),
        row("evaluate_wall_s", all_of_them.wall_s, "s", None, large, 1),
        row("fpd_50k_cpu_s", median(fpds, "cpu_s"), "core-s", None, f"50k a side, {FPD_FEATURES} features", len(fpds)),
    ]


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4, help="size of the raw file")
    parser.add_argument("--showers", type=int, default=2000, help="showers against plain NumPy")
    parser.add_argument("--many", type=int, default=100_000, help="showers of each side for the memory")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    write("evaluate", rows(options.gigabytes, options.showers, options.many, options.repetitions))


if __name__ == "__main__":
    main()
