"""What the evaluation would have shown of known faults: the floor's showers, made wrong on purpose, as samples.

In: the held-out showers of reference and floor on the evaluation's mesh; out: rows named `fault_<perturbation>`, those
that the summary shows. The perturbation comes before the cut, as a fault of a detector does. At most
`MOST_SHOWERS` of each side are used, in memory; beyond, the rows of a floor of equal number are made with them.
Cheaper than a sample's evaluation (one training, fewer replicas), so what it shows is a lower limit.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import EvaluationSpec
from pipeline.data.compute import Workers
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.comparisons import Row, compare, fault, own_floor
from pipeline.evaluation.metrics import generator_for
from pipeline.evaluation.multivariate import multivariate_rows
from pipeline.evaluation.observables import ONE_THREAD, observables, observe
from pipeline.evaluation.perturbations import PERTURBATIONS, SENSITIVITY

MOST_SHOWERS, MOST_REPLICAS = 5000, 20
METRICS = ("mean_ratio", "spread_ratio", "separation_power", "l1", "distance", "sliced_wasserstein", "fpd")
CLASSIFIERS = ("small_cells", "small_features")


def sensitivity_rows(
    reference: ShowerStream, floor: ShowerStream, spec: EvaluationSpec, seed: int, workers: Workers = ONE_THREAD
) -> list[tuple[str, Row]]:
    """(name, row) of every fault of `SENSITIVITY`, over all energies; both sides cut at the spec's threshold."""
    spec = bounded(spec)
    n = min(len(reference), len(floor), MOST_SHOWERS)
    ours = reference.first(n)
    whole = replace(floor.first(n), threshold_mev=0.0).read()
    made = {
        fault(name): PERTURBATIONS[name]
        .apply(whole, generator_for(seed, "perturbation", name), spec.threshold_mev)
        .cut(spec.threshold_mev)
        for name in SENSITIVITY
    }
    if n < len(reference):
        made |= {own_floor(fault(name)): whole.cut(spec.threshold_mev) for name in SENSITIVITY}
    narrow = observables(spec.convention, wide=False)
    table = observe(ours, narrow, workers)
    rows = []
    for name, showers in made.items():
        theirs = ShowerStream.of(showers)
        found = compare(table, observe(theirs, narrow, workers), spec, seed)
        found += multivariate_rows(ours, theirs, spec, seed, workers)
        rows += [(name, row) for row in found if row["selection"] == "all"]
    return rows


def bounded(spec: EvaluationSpec) -> EvaluationSpec:
    """The spec with the summary's metrics only, one energy bin, one training of each classifier and no network."""
    return spec.model_copy(
        update={
            "metrics": tuple(name for name in METRICS if name in spec.metrics),
            "classifiers": tuple(name for name in CLASSIFIERS if name in spec.classifiers),
            "energy_bins": 1,
            "classifier_seeds": 1,
            "bootstrap": min(spec.bootstrap, MOST_REPLICAS),
        }
    )
