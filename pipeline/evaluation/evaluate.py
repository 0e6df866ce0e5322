"""Compare a sample of showers, or the predictions of a head, with held-out Geant4: rows and tables in one JSON.

In: manifests of parts (visible MeV on their own mesh) or a JSON of predictions (MeV); out: {"rows": [...],
"tables": {...}}. All sides are brought to the evaluation's mesh and cut at its threshold before anything is
measured. The reference is one half of the test split, the floor the other half: Geant4 against Geant4.
It draws nothing and fills no floor (`summary.collect`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.config import Config, EvaluationSpec
from pipeline.data.compute import Workers, client_for
from pipeline.data.store import Half, Part
from pipeline.data.stream import ShowerStream, held_out_stream, training_stream
from pipeline.evaluation.baselines import BASELINE, MOST_TRAINING_SHOWERS, PREDICTIVE, PREDICTORS
from pipeline.evaluation.comparisons import ROW_KEYS, Row, compare, finite, own_floor, selection_name
from pipeline.evaluation.conditions import Ground, common_ground, copies, sample_stream
from pipeline.evaluation.metrics import bootstrap_error, generator_for
from pipeline.evaluation.multivariate import multivariate_rows
from pipeline.evaluation.observables import ONE_THREAD, observables, observe
from pipeline.evaluation.response import energy_bins, energy_edges, response
from pipeline.evaluation.sensitivity import sensitivity_rows
from pipeline.evaluation.tables import figure_tables, image_tables, plain
from pipeline.provenance import read_json, write_json

HALVES: tuple[Half, Half] = ("reference", "floor")
PREDICTION_COLUMNS = ("incident_energy", "predicted", "sigma")

Array = NDArray[np.float64]


class EvaluationError(ValueError):
    """Showers or predictions that cannot be compared; names the file, what was expected and the remedy."""


def evaluate(
    config: Config,
    sample: str,
    reference_parts: Sequence[Path],
    sample_parts: Sequence[Path] | None,
    output: Path,
    threads: int = 1,
) -> None:
    """Evaluate a sample's parts against the reference; `sample_parts` None is the floor, the other Geant4 half.

    A sample with other showers than the reference's, in number or energies, brings rows of its own floor with it.
    Raises `EvaluationError` when the sample cannot be brought to the evaluation's mesh or is empty, and
    `ConditionsError` when it has no energies in common with the reference.
    """
    spec = evaluation_of(config)
    parts = [Part.open(path) for path in reference_parts]
    reference = comparable(held_out_stream(parts, config.splits, "reference", spec.showers), config, "the reference")
    floor = comparable(held_out_stream(parts, config.splits, "floor", spec.showers), config, "the floor")
    ground = Ground(reference, floor)
    if sample_parts is not None:
        opened, where = [Part.open(path) for path in sample_parts], str(sample_parts[0])
        ground = common_ground(reference, comparable(sample_stream(opened), config, where), where)
        ground = replace(ground, notes=(*ground.notes, *copies(opened)))
    with client_for(config.compute, threads) as workers:
        rows, tables = comparison(ground, spec, config.seed, workers, whole=reference)
        made = [complete(row, config, sample) for row in rows]
        if len(ground.reference) != len(reference):
            own = common_ground(ground.reference, floor, "the floor")
            rows, _ = comparison(own, spec, config.seed, workers, whole=reference)
            made += [complete(row, config, own_floor(sample)) for row in rows]
    tables |= {"kind": "sample", "sample": sample, "reference": spec.reference}
    write_json(output, {"rows": made, "tables": tables | {"notes": ground.notes, "differs": ground.differs}})


def evaluate_sensitivity(config: Config, reference_parts: Sequence[Path], output: Path, threads: int = 1) -> None:
    """Evaluate known faults of the floor's showers: what the evaluation would have shown of them."""
    spec = evaluation_of(config)
    parts = [Part.open(path) for path in reference_parts]
    reference, floor = (
        comparable(held_out_stream(parts, config.splits, half, spec.showers), config, f"the {half}") for half in HALVES
    )
    with client_for(config.compute, threads) as workers:
        rows = sensitivity_rows(reference, floor, spec, config.seed, workers)
    tables = {"kind": "sensitivity", "reference": spec.reference}
    write_json(output, {"rows": [complete(row, config, name) for name, row in rows], "tables": tables})


def comparison(
    ground: Ground, spec: EvaluationSpec, seed: int, workers: Workers = ONE_THREAD, whole: ShowerStream | None = None
) -> tuple[list[Row], dict[str, Any]]:
    """Rows and figure tables of showers that are already on the evaluation's mesh and cut.

    Every shower is measured, block by block; rows of many numbers of a shower see the first showers of each side.
    Figures show the `whole` reference, whose bins all samples share.
    """
    narrow = observables(spec.convention, wide=False)
    ours, theirs = (observe(side, narrow, workers) for side in (ground.reference, ground.sample))
    rows = compare(ours, theirs, spec, seed)
    drawn = ours if whole is None or whole is ground.reference else observe(whole, narrow, workers)
    tables = figure_tables(drawn, theirs, ground.reference.mesh, spec.threshold_mev, spec.energy_bins)
    tables["images"] = image_tables(whole or ground.reference, ground.sample)
    return rows + multivariate_rows(ground.reference, ground.sample, spec, seed, workers), tables


def evaluation_of(config: Config) -> EvaluationSpec:
    """The experiment's evaluation section; `EvaluationError` when it has none."""
    if config.evaluation is None:
        raise EvaluationError(
            f"experiment '{config.experiment}': expected an 'evaluation' section, got none; "
            "add one to the configuration"
        )
    return config.evaluation


def comparable(showers: ShowerStream, config: Config, where: str) -> ShowerStream:
    """The showers on the evaluation's mesh and cut at its threshold, block by block as they are read."""
    spec = evaluation_of(config)
    mesh = CylinderMesh.from_spec(config.raw_mesh(spec.reference)).rebinned(spec.rebin)
    if len(showers) == 0:
        raise EvaluationError(f"{where}: expected showers, got none; make the sample again")
    try:
        factors = showers.mesh.factors_to(mesh)
    except ValueError:
        raise EvaluationError(
            f"{where}: expected showers on a mesh that divides into the evaluation's {mesh}, "
            f"got {showers.mesh}; change evaluation.rebin or the run's recipe"
        ) from None
    return showers.rebin(factors).cut(spec.threshold_mev)


def complete(row: Row, config: Config, sample: str) -> Row:
    """The row with every key of a metric row; its floor is filled in when all rows are collected."""
    known = {
        "experiment": config.experiment,
        "sample": sample,
        "reference": evaluation_of(config).reference,
        "floor": None,
        "sigma": None,
    } | row
    return {key: known[key] for key in ROW_KEYS}


# ------------------------------------------------------------------------------- predictions


def evaluate_predictions(
    config: Config, run: str, predictions: Path, parts: Sequence[Path], output: Path, threads: int = 1
) -> None:
    """Evaluate a head's incident energies beside those of `PREDICTORS`, fitted on the training split.

    Raises `EvaluationError` when the predictions are not those of the reference's showers.
    """
    spec = evaluation_of(config)
    columns = prediction_columns(predictions)
    opened = [Part.open(path) for path in parts]
    truth = columns["incident_energy"]
    reference = comparable(held_out_stream(opened, config.splits, "reference", len(truth)), config, "the reference")
    if not np.allclose(reference.incident_energy, truth, rtol=1e-5, atol=0):
        raise EvaluationError(
            f"{predictions}: expected the incident energies of the reference's {len(truth)} "
            "showers in order of their hash, got others; delete the file and predict again"
        )
    training = comparable(training_stream(opened, config.splits, "train"), config, "the training split")
    with client_for(config.compute, threads) as workers:
        limited = training.first(MOST_TRAINING_SHOWERS)
        known, asked = (observe(side, PREDICTIVE, workers) for side in (limited, reference))
    rows, curves = [], {}
    edges = energy_edges(truth, spec.energy_bins)
    predictions_of = {name: predict(known, asked) for name, predict in PREDICTORS.items()}
    for name, (energy, sigma) in {run: (columns["predicted"], columns["sigma"]), **predictions_of}.items():
        made = prediction_rows(truth, energy, sigma, edges, spec, config.seed)
        rows += [complete(row, config, name) for row in made]
        curves[name] = prediction_curve(truth, energy, sigma, edges)
    write_json(
        output,
        {
            "rows": rows,
            "tables": {
                "kind": "prediction",
                "run": run,
                "baseline": BASELINE,
                "reference": spec.reference,
                "n": len(truth),
                "curves": curves,
            },
        },
    )


def prediction_columns(path: Path) -> dict[str, Array]:
    """The columns of a table of predictions, (n,) MeV each; from {"columns": {...}}, {...} or a list of rows."""
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("columns", content)
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        content = {key: [row.get(key) for row in content] for key in content[0]}
    missing = [c for c in PREDICTION_COLUMNS if not isinstance(content, dict) or c not in content]
    if missing:
        raise EvaluationError(
            f"{path}: expected the columns {list(PREDICTION_COLUMNS)}, got none named {missing}; "
            "delete the file and predict again"
        )
    columns = {c: np.asarray(content[c], dtype=np.float64) for c in PREDICTION_COLUMNS}
    lengths = {len(c) for c in columns.values()}
    if lengths == {0} or len(lengths) > 1 or not all(np.isfinite(c).all() for c in columns.values()):
        raise EvaluationError(
            f"{path}: expected columns of finite numbers of one length, got lengths "
            f"{sorted(lengths)}; delete the file and predict again"
        )
    return columns


def resolution(truth: NDArray[Any], energy: NDArray[Any]) -> float:
    """Standard deviation of (predicted - true) / true."""
    return float(((energy - truth) / truth).std())


def bias(truth: NDArray[Any], energy: NDArray[Any]) -> float:
    """Mean of (predicted - true) / true."""
    return float(((energy - truth) / truth).mean())


def pull_width(truth: NDArray[Any], pull: NDArray[Any]) -> float:
    """Standard deviation of the pulls (predicted - true) / sigma, 1 when the uncertainty is honest."""
    return float(pull.std())


def prediction_rows(
    truth: Array, energy: Array, sigma: Array, edges: Array, spec: EvaluationSpec, seed: int
) -> list[Row]:
    """Resolution, bias and pull width over all energies and in each bin, with bootstrap errors."""
    pull = (energy - truth) / sigma
    rows: list[Row] = []
    bins = [(selection_name(low, high), chosen) for low, high, chosen in energy_bins(truth, edges)]
    for selection, chosen in [("all", np.arange(len(truth))), *bins]:
        for metric, function, values in (
            ("resolution", resolution, energy),
            ("bias", bias, energy),
            ("pull_width", pull_width, pull),
        ):
            sides = truth[chosen], values[chosen]
            error = bootstrap_error(
                function, *sides, spec.bootstrap, generator_for(seed, selection, "incident_energy", metric), paired=True
            )
            rows.append(
                {
                    "selection": selection,
                    "observable": "incident_energy",
                    "metric": metric,
                    "value": finite(function(*sides)),
                    "error": finite(error),
                    "n": len(chosen),
                    "bins": None,
                    "seed": seed,
                }
            )
    return rows


def prediction_curve(truth: Array, energy: Array, sigma: Array, edges: Array) -> dict[str, Any]:
    """What the figure draws: at most 2000 points, and per bin the spread of predicted / true and the mean sigma."""
    shown = slice(0, 2000)
    bins = [
        {
            "low_mev": b.low_mev,
            "high_mev": b.high_mev,
            "energy_mev": b.energy_mev,
            "n": b.n,
            "bias": b.mean - 1,
            "bias_error": b.mean_error,
            "resolution": b.sigma,
            "resolution_error": b.sigma_error,
        }
        for b in response(truth, energy, edges)
    ]
    relative = [float(np.mean(sigma[rows] / truth[rows])) for _, _, rows in energy_bins(truth, edges)]
    return {
        "true_mev": plain(truth[shown]),
        "predicted_mev": plain(energy[shown]),
        "sigma_mev": plain(sigma[shown]),
        "bins": [b | {"mean_sigma": s} for b, s in zip(bins, relative, strict=True)],
    }
