"""All evaluations of an experiment together: rows with their floor, the table one reads first, the figures' input.

In: the JSON files written by `evaluate` and `evaluate_predictions`, and training metrics (JSON lines); out: plain
records. Distance in sigma from the floor: (|value - perfect| - |floor - perfect|) / (error (+) floor's error).
It measures nothing itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipeline.config import Config
from pipeline.config.adaptation import OLD_DATA, Prediction
from pipeline.evaluation.comparisons import Row, fault, is_sample, own_floor
from pipeline.evaluation.metrics import perfect_value
from pipeline.evaluation.perturbations import PERTURBATIONS
from pipeline.provenance import ProvenanceError, read_json

FLOOR = "floor"
PREDICTED = (*get_args(Prediction), OLD_DATA)  # what rows of runs are about: no observables of samples

SUMMARY: tuple[tuple[str, str, str, str], ...] = (
    ("energy", "visible_energy", "mean_ratio", "mean visible energy"),
    ("energy", "energy_response", "mean_ratio", "mean response"),
    ("energy", "energy_response", "separation_power", "$S$(response)"),
    ("energy", "energy_response", "spread_ratio", "response spread"),
    ("shape", "longitudinal_profile", "l1", "longitudinal profile $L_1$"),
    ("shape", "radial_profile", "l1", "radial profile $L_1$"),
    ("shape", "azimuthal_profile", "l1", "azimuthal profile $L_1$"),
    ("shape", "second_moment_z", "separation_power", "$S$(second moment $z$)"),
    ("shape", "second_moment_r", "separation_power", "$S$(second moment $r$)"),
    ("cells", "cell_energy", "separation_power", "$S$(cell energy)"),
    ("cells", "hits", "mean_ratio", "mean hits"),
    ("cells", "hits", "separation_power", "$S$(hits)"),
    ("collective", "azimuthal_asymmetry", "spread_ratio", "$A_\\phi$ spread"),
    ("collective", "layer_correlation", "distance", "layer correlations"),
    ("collective", "features", "sliced_wasserstein", "sliced Wasserstein"),
    ("collective", "features", "fpd", "FPD"),
    ("collective", "classifier", "auc_small_cells", "AUC, small, cells"),
    ("collective", "classifier", "auc_small_features", "AUC, small, features"),
)


def collect(config: Config, evaluations: Sequence[Path]) -> list[Row]:
    """All rows, the floor's value and the sigma above it beside each row of the same kind; sorted.

    The floor is the sample's own where it has one, else the experiment's.
    """
    rows = [dict(row) for path in evaluations for row in read_json(path)["rows"]]
    rows = list({_place(row): row for row in rows}.values())
    known = {(row["sample"], *_what(row)): row for row in rows}
    order = {name: i for i, name in enumerate([FLOOR, *config.samples])}

    def floor_of(row: Row) -> Row:
        if is_floor(row["sample"]):
            return row
        return known.get((own_floor(row["sample"]), *_what(row)), known.get((FLOOR, *_what(row)), {}))

    return sorted(
        (above_floor(row, floor_of(row)) for row in rows),
        key=lambda row: (order.get(row["sample"], len(order)), *_place(row)),
    )


def above_floor(row: Row, floor: Row) -> Row:
    """The row with its floor's value and its distance from it in sigma; the floor itself has none."""
    value, error = floor.get("value"), floor.get("error")
    perfect = perfect_value(row["metric"])
    sigma = None if is_floor(row["sample"]) else significance(row["value"], row["error"], value, error, perfect)
    return row | {"floor": value, "sigma": sigma}


def is_floor(name: str) -> bool:
    """Whether rows of that name are the experiment's floor, or that of one sample."""
    return name == FLOOR or name.startswith(own_floor(""))


def _what(row: Row) -> tuple[str, str, str]:
    return row["observable"], row["metric"], row["selection"]


def _place(row: Row) -> tuple[Any, ...]:
    """Where a row stands: by sample, observable, metric, then all energies before the bins in rising order."""
    numbers = tuple(float(x) for x in re.findall(r"[\d.]+", row["selection"]))
    return row["sample"], row["observable"], row["metric"], numbers, row["selection"]


def significance(
    value: float | None, error: float | None, floor: float | None, floor_error: float | None, perfect: float
) -> float | None:
    """How many errors farther from perfect than the floor is; negative when nearer, None when unknown."""
    if value is None or floor is None:
        return None
    width = float(np.hypot(error or 0.0, floor_error or 0.0))
    return (abs(value - perfect) - abs(floor - perfect)) / width if width > 0 else None


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Samples x observables over all energies: value, error, sigma above the floor; and samples x groups of them.

    A sample's sigma in a group is that of the observable farthest above the floor, and named. Faults of known kind
    (`sensitivity`) stand below the samples.
    """
    chosen = {(row["sample"], *_what(row)): row for row in rows if row["selection"] == "all"}
    compared = {row["sample"] for row in rows if row["observable"] not in PREDICTED}
    samples = [s for s in dict.fromkeys(row["sample"] for row in rows) if s in compared and is_sample(s)]
    faults = [(fault(name), p.label, "fault") for name, p in PERTURBATIONS.items() if fault(name) in compared]
    lines: list[dict[str, Any]] = []
    for group, observable, metric, label in SUMMARY:
        cells = {}
        for sample in [*samples, *(name for name, _, _ in faults)]:
            row = chosen.get((sample, observable, metric, "all"))
            if row is not None:
                cells[sample] = {
                    "value": row["value"],
                    "error": row["error"],
                    "n": row["n"],
                    "sigma": row["sigma"],
                }
        if cells:
            lines.append(
                {
                    "group": group,
                    "observable": observable,
                    "metric": metric,
                    "label": label,
                    "perfect": perfect_value(metric),
                    "cells": cells,
                }
            )
    named = [(s, s.replace("_", " "), "sample") for s in samples if s != FLOOR]
    return {
        "samples": samples,
        "lines": [line | {"cells": {s: c for s, c in line["cells"].items() if s in samples}} for line in lines],
        "groups": list(dict.fromkeys(line["group"] for line in lines)),
        "overview": [overview_row(*name, lines) for name in [*named, *faults]],
    }


def overview_row(sample: str, label: str, kind: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One sample (or fault) x groups: of each group the observable farthest above the floor, its sigma and name."""
    cells: dict[str, Any] = {}
    for line in lines:
        sigma = line["cells"].get(sample, {}).get("sigma")
        worst = cells.setdefault(line["group"], {"sigma": None, "of": "", "lines": 0})
        if sigma is not None:
            worst["lines"] += 1
            if worst["sigma"] is None or sigma > worst["sigma"]:
                worst |= {"sigma": sigma, "of": line["label"]}
    return {"sample": sample, "label": label, "kind": kind, "cells": cells}


def gather(
    config: Config,
    evaluations: Sequence[Path],
    training: Mapping[str, Path] | None = None,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything the figures draw, by name: evaluations (floor first), predictions, examinations, training, costs."""
    contents = [read_json(path)["tables"] for path in evaluations]
    samples = {t["sample"]: t for t in contents if t["kind"] == "sample" and not t.get("differs")}
    chosen = config.figures.samples
    names = [name for name in [FLOOR, *(chosen or config.samples)] if name in samples]
    names += [] if chosen else sorted(set(samples) - set(names))
    return {
        "reference": contents[0]["reference"] if contents else "",
        "samples": names,
        "evaluations": {name: samples[name] for name in names},
        "predictions": {t["run"]: t for t in contents if t["kind"] == "prediction"},
        "examinations": {t["run"]: t for t in contents if t["kind"] == "examination"},
        "training": {run: read_lines(path) for run, path in (training or {}).items()},
        "summary": summarise(collect(config, evaluations)),
        "images": config.figures.images,
        "costs": dict(measured or {}),
    }


def notes(evaluations: Sequence[Path]) -> dict[str, list[str]]:
    """What a reader must know of single samples, such as other numbers of showers or copies."""
    contents = [read_json(path)["tables"] for path in evaluations]
    return {t["sample"]: list(t["notes"]) for t in contents if t.get("notes")}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; `ProvenanceError` naming the line that is none."""
    rows = []
    for i, line in enumerate(Path(path).read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ProvenanceError(f"{path}: expected JSON in line {i}, got {line[:40]!r}; train again") from None
    return rows
