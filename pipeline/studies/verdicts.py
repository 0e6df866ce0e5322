"""From tables of errors to what a study found: means with spreads, true minus shuffled, claims, and the best points.

In: rows of `probe`. Out: plain records. A spread is the standard deviation (n - 1) over all seeds and subsets; since
subsets are the same for all arms, differences are also taken shower set by shower set and then spread over seeds. What
is said of the numbers is decided here, by rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config.study import PRETRAINED, SHUFFLED, ClaimSpec, StudySpec

Row = Mapping[str, Any]
Record = dict[str, Any]
Key = tuple[str, int, str, str]  # task, labels, point, arm


def cells(rows: Iterable[Row]) -> list[Record]:
    """A record for each (task, labels, point, arm): mean, spread, n; plateaus where an arm trains to one."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["labels"], row["point"], row["arm"]), []).append(row)
    return [_cell(key, own) for key, own in found.items()]


def _cell(key: Key, rows: Sequence[Row]) -> Record:
    task, labels, point, arm = key
    errors = [row["error"] for row in rows]
    by_seed = [np.mean([r["error"] for r in rows if r["seed"] == seed]) for seed in _seeds(rows)]
    cell: Record = {
        "task": task,
        "labels": labels,
        "point": point,
        "arm": arm,
        "mean": float(np.mean(errors)),
        "spread": deviation(errors),
        "seed_spread": deviation(by_seed),
        "n": len(errors),
        "seeds": len(by_seed),
    }
    if "plateau" in rows[0]:
        cell["plateau"] = float(np.mean([row["plateau"] for row in rows]))
    return cell


def _seeds(rows: Sequence[Row]) -> list[Any]:
    return list(dict.fromkeys(row["seed"] for row in rows))


def deviation(values: Sequence[float] | Sequence[np.floating[Any]]) -> float:
    """Standard deviation with n - 1; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def paired(rows: Sequence[Row], worse: tuple[str, str], better: tuple[str, str], task: str, labels: int) -> Record:
    """Error of `worse` minus that of `better` (point, arm), over what both have of (seed, subset).

    Mean, spread over all pairs, and over the seeds' means. Baselines have one value for all seeds.
    """
    sides = [
        {(r["seed"], r["subset"]): r["error"] for r in rows if (r["task"], r["labels"], r["point"], r["arm"]) == side}
        for side in ((task, labels, *worse), (task, labels, *better))
    ]
    keys = [key for side in sides for key in side if key[0] is not None] or list(sides[0])

    def at(side: Mapping[Any, float], key: tuple[Any, int]) -> float | None:
        subset = key[1] if any(other for _, other in side) else 0  # the whole pool of labels is one subset
        return side.get((key[0], subset), side.get((None, subset)))

    pairs = [(k[0], at(sides[0], k), at(sides[1], k)) for k in dict.fromkeys(keys)]
    known = [(seed, w - b) for seed, w, b in pairs if w is not None and b is not None]
    by_seed = [np.mean([d for s, d in known if s == seed]) for seed in dict.fromkeys(s for s, _ in known)]
    differences = [d for _, d in known]
    return {
        "mean": float(np.mean(differences)) if differences else None,
        "spread": deviation(differences),
        "seed_spread": deviation(by_seed),
        "n": len(differences),
    }


def gains(study: StudySpec, rows: Sequence[Row]) -> list[Record]:
    """Shuffled minus true for each task, number of labels and point: what the places of cells are worth."""
    return [
        {"task": task, "labels": n, "point": point, **paired(rows, (point, SHUFFLED), (point, PRETRAINED), task, n)}
        for task in study.tasks
        for n in study.labels
        for point in study.points
        if study.shuffled
    ]


def contestant(study: StudySpec, name: str) -> tuple[str, str]:
    """Point and arm of `<arm>` or `<point>/<arm>`; baselines have no point."""
    point, slash, arm = name.rpartition("/")
    if slash:
        return point, arm
    from pipeline.config.study import BASELINES

    return ("", name) if name in BASELINES else (next(iter(study.points)), name)


def judged(study: StudySpec, rows: Sequence[Row]) -> list[Record]:
    """Every claim against each of its others, at each number of labels: difference, margin, whether it holds."""
    table = {(c["task"], c["labels"], c["point"], c["arm"]): c for c in cells(rows)}
    return [
        _judged(study, claim, other, n, table, rows)
        for claim in study.claims
        for n in claim.labels
        for other in claim.than
        if (claim.task, n, *contestant(study, other)) in table
        and (claim.task, n, *contestant(study, claim.better)) in table
    ]


def _judged(
    study: StudySpec, claim: ClaimSpec, other: str, n: int, table: Mapping[Key, Record], rows: Sequence[Row]
) -> Record:
    sides = contestant(study, claim.better), contestant(study, other)
    ours, theirs = (table[claim.task, n, point, arm] for point, arm in sides)
    spreads = ours["spread"], theirs["spread"]
    margin = claim.factor * (sum(spreads) if claim.margin == "summed_spreads" else max(spreads))
    difference = theirs["mean"] - ours["mean"]
    return {
        "task": claim.task,
        "labels": n,
        "better": claim.better,
        "than": other,
        "ours": ours,
        "theirs": theirs,
        "difference": difference,
        "margin": margin,
        "rule": claim.margin,
        "factor": claim.factor,
        "holds": bool(difference > margin),
        "paired": paired(rows, sides[1], sides[0], claim.task, n),
    }


def ranking(study: StudySpec, rows: Sequence[Row], arm: str = PRETRAINED) -> list[Record]:
    """For each task and number of labels: the best point, and those that cannot be told from it.

    Two points are told apart when their mean errors differ by more than the sum of their spreads over seeds.
    """
    found = []
    table = cells(rows)
    for task in study.tasks:
        for n in study.labels:
            own = [c for c in table if (c["task"], c["labels"], c["arm"]) == (task, n, arm)]
            if len(own) < 2:
                continue
            best, worst = (choose(own, key=lambda c: c["mean"]) for choose in (min, max))
            equal = [c["point"] for c in own if c is not best and not _apart(best, c)]
            found.append({"task": task, "labels": n, "best": best, "worst": worst, "equal": equal, "points": len(own)})
    return found


def _apart(a: Record, b: Record) -> bool:
    return bool(abs(a["mean"] - b["mean"]) > a["seed_spread"] + b["seed_spread"])


def power_laws(study: StudySpec, rows: Sequence[Row], arm: str = PRETRAINED) -> list[Record]:
    """Exponents a of error = c prod(size ** a) over the points, for each task and number of labels.

    Least squares in logarithms for each seed by itself; mean and standard deviation over seeds.
    """
    names = sorted(next(iter(study.points.values())).scale)
    if not names or len(study.points) < len(names) + 2:
        return []
    sizes = {p: [1.0, *(np.log(spec.scale[name]) for name in names)] for p, spec in study.points.items()}
    found = []
    for task in study.tasks:
        for n in study.labels:
            own = [r for r in rows if (r["task"], r["labels"], r["arm"]) == (task, n, arm)]
            fits = [_exponents([r for r in own if r["seed"] == seed], sizes) for seed in _seeds(own)]
            exponents = {
                name: {"mean": float(np.mean([f[i] for f in fits])), "spread": deviation([f[i] for f in fits])}
                for i, name in enumerate(names, start=1)
                if fits
            }
            found.append({"task": task, "labels": n, "exponents": exponents, "seeds": len(fits)})
    return found


def _exponents(rows: Sequence[Row], sizes: Mapping[str, Sequence[float]]) -> Any:
    points = list(dict.fromkeys(row["point"] for row in rows))
    errors = [np.log(np.mean([row["error"] for row in rows if row["point"] == point])) for point in points]
    return np.linalg.lstsq(np.array([sizes[point] for point in points]), np.array(errors), rcond=None)[0]


def metrics_of(study: StudySpec, rows: Sequence[Row]) -> Record:
    """All that figures and summary are made from."""
    return {
        "question": study.question,
        "axis": study.axis,
        "tasks": list(study.tasks),
        "labels": list(study.labels),
        "points": [
            {"name": name, "label": study.label_of(name), "value": point.value} for name, point in study.points.items()
        ],
        "cells": cells(rows),
        "gains": gains(study, rows),
        "claims": judged(study, rows),
        "ranking": ranking(study, rows),
        "power_laws": power_laws(study, rows),
    }
