"""The metric rows that look at many numbers of a shower at once: feature vectors, cells, classifiers.

In: streams of showers on the evaluation's mesh, cut; out: rows as `comparisons` makes them, over all energies.
Which of them are computed is `evaluation.metrics` and `evaluation.classifiers`; below 10 showers a side (12 for
neighbours) a row has no value. Every number depends on the seed and the showers only, not on threads or other rows.
Definitions: docs/metrics.md. The challenge's networks need torch and are imported when one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.calorimeter import RaggedShowers
from pipeline.config import EvaluationSpec
from pipeline.data.compute import Workers
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.cells import Features, Rows, log10_cells, log_cells
from pipeline.evaluation.challenge import FEATURES, high_features, low_features
from pipeline.evaluation.classifier import (
    MIN_SHOWERS,
    Auc,
    Scorer,
    held_out_auc,
    high_level_features,
    score_cells,
    score_features,
)
from pipeline.evaluation.comparisons import Row, finite, same_conditions
from pipeline.evaluation.distances import (
    FPD_SAMPLES,
    KPD_SAMPLES,
    Estimate,
    Frame,
    directions,
    fpd,
    frechet_of_rows,
    kpd,
    mean_wasserstein,
    projected,
    resampled,
    standardised,
)
from pipeline.evaluation.metrics import generator_for
from pipeline.evaluation.neighbours import NAMES, NEIGHBOURS, prdc
from pipeline.evaluation.observables import ONE_THREAD, Table, observables, observe, rows_of

Array = NDArray[np.float64]
Draws = list[tuple[NDArray[np.intp], NDArray[np.intp]]]  # rows of both sides, one pair for each bootstrap replica
Measure = Callable[[Features, Features, EvaluationSpec, Draws, np.random.Generator], Estimate]

FPD_BATCHES, KPD_BATCHES = 200, 10
CHALLENGE_EPOCHS = 50
DIRECTIONS_AT_A_TIME, BLOCK_ROWS = 16, 4096


def multivariate_rows(
    reference: ShowerStream, sample: ShowerStream, spec: EvaluationSpec, seed: int, workers: Workers = ONE_THREAD
) -> list[Row]:
    """All rows that `spec.metrics` and `spec.classifiers` ask for, of the first showers of both sides."""
    rows: list[Row] = []
    sides = reference, sample
    if set(FEATURE_METRICS) & set(spec.metrics):
        first = [side.first(spec.feature_showers) for side in sides]
        paired = same_conditions(first[0].incident_energy, first[1].incident_energy)
        rows += feature_rows(features_of(first[0], workers), features_of(first[1], workers), paired, spec, seed)
    if "prdc" in spec.metrics:
        cells = [side.first(spec.neighbour_showers).read() for side in sides]
        rows += neighbour_rows(cells[0], cells[1], spec, seed)
    if spec.classifiers:
        cells = [side.first(spec.classifier_showers).read() for side in sides]
        ours, theirs = (observe(side, observables(spec.convention), workers) for side in cells)
        rows += classifier_rows(cells[0], cells[1], ours, theirs, spec, seed)
    return rows


# ------------------------------------------------------------------------------- feature vectors


def feature_rows(x: Features, y: Features, paired: bool, spec: EvaluationSpec, seed: int) -> list[Row]:
    """FPD, KPD and sliced Wasserstein distance of features (n, k) and (m, k), those in `spec.metrics`.

    `paired`: row i of both sides has the same conditions.
    """
    rows = []
    with threadpool_limits(limits=1):
        for name in (name for name in FEATURE_METRICS if name in spec.metrics):
            measure, bins = FEATURE_METRICS[name]
            generator = generator_for(seed, "features", name)
            draws = bootstrap_rows(len(x), len(y), spec.bootstrap, generator, paired)
            estimate = measure(x, y, spec, draws, generator) if min(len(x), len(y)) >= MIN_SHOWERS else None
            rows.append(_row("features", name, estimate, len(y), bins or spec.projections, seed))
    return rows


def features_of(showers: ShowerStream, workers: Workers = ONE_THREAD) -> Features:
    """The challenge's high-level features of showers, (n, 8 Z + 2), float32 to keep many of them."""
    table = observe(showers, FEATURES, workers)
    starts = range(0, len(showers), BLOCK_ROWS)
    blocks = (rows_of(table, np.arange(len(showers))[start : start + BLOCK_ROWS]) for start in starts)
    return np.concatenate([high_features(block, showers.mesh).astype(np.float32) for block in blocks])


def _fpd(x: Features, y: Features, spec: EvaluationSpec, draws: Draws, generator: np.random.Generator) -> Estimate:
    """The FPD; its error is the fit's and the bootstrap spread of the plain distance, in quadrature.

    Below 50,000 showers the batches are as large a part of all as jetnet's 20,000 to 50,000.
    """
    largest = min(FPD_SAMPLES[1], len(x), len(y))
    value, error = fpd(x, y, largest * FPD_SAMPLES[0] // FPD_SAMPLES[1], largest)
    frame = Frame.of(x)
    replicas = [frechet_of_rows(x, y, ours, theirs, frame) for ours, theirs in draws]
    return Estimate(value, float(np.hypot(error, _spread(replicas))))


def _kpd(x: Features, y: Features, spec: EvaluationSpec, draws: Draws, generator: np.random.Generator) -> Estimate:
    """The KPD, its batches at most as large as the smaller side."""
    return kpd(x, y, min(KPD_SAMPLES, len(x), len(y)))


def _sliced(x: Features, y: Features, spec: EvaluationSpec, draws: Draws, generator: np.random.Generator) -> Estimate:
    """The sliced Wasserstein distance and its bootstrap error; a few directions at a time, each sorted once."""
    onto, offset = standardised(x, directions(x.shape[1], spec.projections, generator))
    values = np.zeros(1 + len(draws))
    for start in range(0, spec.projections, DIRECTIONS_AT_A_TIME):
        few = slice(start, start + DIRECTIONS_AT_A_TIME)
        seen = [projected(side, onto[:, few], offset[few]) for side in (x, y)]
        values += len(seen[0]) * np.array([mean_wasserstein(*seen), *_replicas(seen, draws)])
    whole, *replicas = (values / spec.projections).tolist()
    return Estimate(whole, _spread(replicas))


def _replicas(seen: list[Array], draws: Draws) -> Iterator[float]:
    """The distance of each bootstrap replica of projected values."""
    order = [np.argsort(side, axis=1) for side in seen]
    for rows in draws:
        counts = [np.bincount(chosen, minlength=side.shape[1]) for chosen, side in zip(rows, seen, strict=True)]
        drawn = (resampled(side, ranks, count) for side, ranks, count in zip(seen, order, counts, strict=True))
        yield mean_wasserstein(*drawn)


def bootstrap_rows(n: int, m: int, replicas: int, generator: np.random.Generator, paired: bool) -> Draws:
    """Rows of both sides drawn with replacement; the same rows where row i of both has the same conditions."""
    ours = [generator.integers(n, size=n) for _ in range(replicas)]
    return [(rows, rows if paired else generator.integers(m, size=m)) for rows in ours]


def _spread(replicas: list[float]) -> float:
    return float(np.std(replicas, ddof=1)) if len(replicas) > 1 else float("nan")


FEATURE_METRICS: dict[str, tuple[Measure, int | None]] = {
    "sliced_wasserstein": (_sliced, None),
    "fpd": (_fpd, FPD_BATCHES),
    "kpd": (_kpd, KPD_BATCHES),
}  # the measure, and what stands under `bins`: batches, or (None) projections


# ------------------------------------------------------------------------------- cells


def neighbour_rows(reference: RaggedShowers, sample: RaggedShowers, spec: EvaluationSpec, seed: int) -> list[Row]:
    """Precision, recall, density and coverage of log10 cells; n is the showers used, bins the neighbours."""
    n = min(spec.neighbour_showers, len(reference), len(sample))
    sides = [log10_cells(side.take(np.arange(n)), spec.threshold_mev) for side in (reference, sample)]
    with threadpool_limits(limits=1):
        few = n < 2 * (NEIGHBOURS + 1)
        values = {} if few else prdc(sides[0], sides[1], generator_for(seed, "cells", "prdc"))
    return [_row("cells", name, values.get(name), n, NEIGHBOURS, seed) for name in NAMES]


def classifier_rows(
    reference: RaggedShowers, sample: RaggedShowers, ours: Table, theirs: Table, spec: EvaluationSpec, seed: int
) -> list[Row]:
    """An AUC for each of `spec.classifiers`, for networks also 1 - BCE / ln 2; n showers a side, bins trainings."""
    rows: list[Row] = []
    n = min(len(reference), len(sample))
    for name in spec.classifiers:
        sides, scorer = _classifier(name, (reference, sample), (ours, theirs), spec)
        auc = held_out_auc(*sides, scorer, spec.classifier_seeds, seed)
        rows += [
            _row("classifier", metric, estimate, n, spec.classifier_seeds, seed)
            for metric, estimate in _estimates(name, auc, spec)
        ]
    return rows


def _classifier(
    name: str, showers: tuple[RaggedShowers, RaggedShowers], tables: tuple[Table, Table], spec: EvaluationSpec
) -> tuple[tuple[Rows, Rows], Scorer]:
    """What a classifier looks at, and the classifier."""
    mesh = showers[0].mesh
    if name == "small_cells":
        return _both(lambda i: log_cells(showers[i], spec.threshold_mev)), score_cells
    if name == "small_features":
        return _both(lambda i: high_level_features(tables[i])), score_features
    from pipeline.evaluation.challenge_networks import NetworkScorer, ResidualNetwork, adamw, dense_network

    if name == "cnn":
        scorer = NetworkScorer(lambda inputs: ResidualNetwork(mesh), adamw, spec.classifier_epochs)
        return _both(lambda i: low_features(showers[i], scale=100)), scorer
    scorer = NetworkScorer(dense_network, epochs=spec.classifier_epochs)
    if name == "low":
        return _both(lambda i: low_features(showers[i])), scorer
    return _both(lambda i: high_features(tables[i], mesh).astype(np.float32)), scorer


def _both(of_side: Callable[[int], Rows]) -> tuple[Rows, Rows]:
    return of_side(0), of_side(1)


def _estimates(name: str, auc: Auc | None, spec: EvaluationSpec) -> Iterator[tuple[str, Estimate | None]]:
    """The rows of one classifier; a network with other epochs than the challenge's says so in its name."""
    small = name.startswith("small")
    suffix = "" if small or spec.classifier_epochs == CHALLENGE_EPOCHS else f"_{spec.classifier_epochs}_epochs"
    yield f"auc_{name}{suffix}", Estimate(auc.value, auc.error) if auc else None
    if not small:
        yield f"jsd_{name}{suffix}", auc.jsd if auc else None


def _row(observable: str, metric: str, estimate: Estimate | None, n: int, bins: int, seed: int) -> Row:
    return {
        "selection": "all",
        "observable": observable,
        "metric": metric,
        "value": finite(estimate.value) if estimate else None,
        "error": finite(estimate.error) if estimate else None,
        "n": n,
        "bins": bins,
        "seed": seed,
    }
