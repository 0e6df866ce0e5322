"""Compare the predictions of a head with the truth and with the calibrated cell sum: rows and tables in one JSON.

In: a JSON of predicted incident energies with their uncertainties (MeV), the parts of the reference; out: {"rows":
[...], "tables": {...}} with resolution, bias and pulls (predicted - true) / sigma over all energies and in bins.
Definitions: docs/metrics.md. It draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config, EvaluationSpec
from pipeline.data.compute import client_for
from pipeline.data.store import Part
from pipeline.data.stream import held_out_stream, training_stream
from pipeline.evaluation.baselines import BASELINE, MOST_TRAINING_SHOWERS, PREDICTIVE, PREDICTORS
from pipeline.evaluation.comparisons import Row, finite, selection_name
from pipeline.evaluation.evaluate import EvaluationError, comparable, complete, evaluation_of
from pipeline.evaluation.label_predictions import evaluate_labels
from pipeline.evaluation.metrics import bootstrap_error, generator_for
from pipeline.evaluation.observables import observe
from pipeline.evaluation.response import energy_bins, energy_edges, response, spread_with_error
from pipeline.evaluation.tables import plain
from pipeline.provenance import read_json, write_json

PREDICTION_COLUMNS = ("incident_energy", "predicted", "sigma")
PULL_EDGES = np.linspace(-5, 5, 41)

Array = NDArray[np.float64]


def evaluate_predictions(
    config: Config, run: str, predictions: Path, parts: Sequence[Path], output: Path, threads: int = 1
) -> None:
    """Evaluate a head's incident energies beside those of `PREDICTORS`, fitted on the training split.

    Raises `EvaluationError` when the predictions are not those of the reference's showers.
    """
    spec = evaluation_of(config)
    content = read_json(predictions)
    if isinstance(content, dict) and content.get("kind") in ("angle", "classes"):
        evaluate_labels(config, run, content, predictions, output)
        return
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


def pull_mean(truth: NDArray[Any], pull: NDArray[Any]) -> float:
    """Mean of the pulls (predicted - true) / sigma, 0 when nothing is biased."""
    return float(pull.mean())


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
            ("pull_mean", pull_mean, pull),
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
        "pulls": pull_histogram((energy - truth) / sigma),
    }


def pull_histogram(pull: Array) -> dict[str, Any]:
    """Counts of the pulls in `PULL_EDGES` (those beyond in the outer bins), mean and width with errors.

    The error of the mean is width / sqrt(n), that of the width follows from the fourth moment.
    """
    width, width_error = spread_with_error(pull)
    inside = np.clip(pull, PULL_EDGES[0], np.nextafter(PULL_EDGES[-1], 0))
    return {
        "edges": PULL_EDGES.tolist(),
        "counts": np.histogram(inside, PULL_EDGES)[0].tolist(),
        "n": len(pull),
        "mean": float(pull.mean()),
        "mean_error": width / float(np.sqrt(len(pull))),
        "width": width,
        "width_error": width_error,
    }
