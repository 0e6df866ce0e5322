"""Rows for heads that predict an angle or a class: how far off they are, beside what needs no shower.

In: a table of predictions: theta, predicted and sigma (rad), or target (class index) and probability (n, classes), with
what is known of the training showers (mean angle, class frequencies). Out: rows and a table in one JSON. Definitions:
docs/pretraining.md. Energies are compared in `predictions`; it draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.evaluation.comparisons import Row, finite
from pipeline.evaluation.evaluate import EvaluationError, complete, evaluation_of
from pipeline.evaluation.metrics import bootstrap_error, generator_for
from pipeline.provenance import write_json

Array = NDArray[np.float64]
Metric = Callable[[NDArray[Any], NDArray[Any]], float]


def accuracy(target: NDArray[Any], probability: NDArray[Any]) -> float:
    """Share of showers whose most probable class is their own."""
    return float((probability.argmax(axis=1) == target).mean())


def cross_entropy(target: NDArray[Any], probability: NDArray[Any]) -> float:
    """Mean of -ln(probability of the shower's class), nats."""
    own = probability[np.arange(len(target)), target.astype(int)]
    return float(-np.log(np.maximum(own, 1e-12)).mean())


def angle_error(theta: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Root mean square of predicted - true, rad."""
    return float(np.sqrt(((predicted - theta) ** 2).mean()))


def angle_bias(theta: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean of predicted - true, rad."""
    return float((predicted - theta).mean())


def pull_width(theta: NDArray[Any], pull: NDArray[Any]) -> float:
    """Standard deviation of (predicted - true) / sigma, 1 when the uncertainty is honest."""
    return float(pull.std())


def evaluate_labels(config: Config, run: str, content: Mapping[str, Any], path: Path, output: Path) -> None:
    """Write rows and table of a head of angles or classes; `EvaluationError` when columns are missing or uneven."""
    of = {"angle": _angles, "classes": _classes}[content["kind"]]
    truth, sides = of(content, path, run)
    spec, rows = evaluation_of(config), []
    asked = ", ".join(content.get("datasets", [spec.reference]))
    for name, metrics in sides.items():
        for metric, (function, values) in metrics.items():
            generator = generator_for(config.seed, "all", content["predict"], metric)
            row: Row = {
                "selection": "all",
                "observable": content["predict"],
                "metric": metric,
                "value": finite(function(truth, values)),
                "error": finite(bootstrap_error(function, truth, values, spec.bootstrap, generator, paired=True)),
                "n": len(truth),
                "bins": None,
                "seed": config.seed,
            }
            rows.append(complete(row | {"reference": asked}, config, name))
    table = {"kind": "labels", "run": run, "reference": asked, "n": len(truth)}
    write_json(output, {"rows": rows, "tables": {**table, **_confusion(content)}})


Sides = dict[str, dict[str, tuple[Metric, Array]]]


def _angles(content: Mapping[str, Any], path: Path, run: str) -> tuple[Array, Sides]:
    theta, predicted, sigma = (_column(content, name, path) for name in ("theta", "predicted", "sigma"))
    mean = np.full_like(theta, content["training_mean"])
    own: dict[str, tuple[Metric, Array]] = {
        "angle_error": (angle_error, predicted),
        "angle_bias": (angle_bias, predicted),
    }
    pulls: dict[str, tuple[Metric, Array]] = {"angle_pull_width": (pull_width, (predicted - theta) / sigma)}
    return theta, {run: {**own, **pulls}, "mean_angle": {"angle_error": (angle_error, mean)}}


def _classes(content: Mapping[str, Any], path: Path, run: str) -> tuple[Array, Sides]:
    target, probability = (_column(content, name, path) for name in ("target", "probability"))
    frequencies = np.tile(np.asarray(content["training_frequencies"], dtype=np.float64), (len(target), 1))
    sides = {run: probability, "class_frequencies": frequencies}
    return target, {
        name: {"accuracy": (accuracy, values), "cross_entropy": (cross_entropy, values)}
        for name, values in sides.items()
    }


def _column(content: Mapping[str, Any], name: str, path: Path) -> Array:
    values = np.asarray(content.get(name, []), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise EvaluationError(f"{path}: expected finite numbers in the column {name}, got none; predict again")
    return values


def _confusion(content: Mapping[str, Any]) -> dict[str, Any]:
    """Showers by true and most probable class."""
    if content["kind"] != "classes":
        return {}
    n = len(content["classes"])
    counts = np.zeros((n, n), dtype=int)
    np.add.at(counts, (np.asarray(content["target"]), np.argmax(content["probability"], axis=1)), 1)
    return {"classes": content["classes"], "confusion": counts.tolist()}
