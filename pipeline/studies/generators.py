"""From metric rows to what a generator brings along to a new detector: curves over N, verdicts, the data it saves.

In: metric rows of an experiment's samples (smaller is better), and the losses of each run (JSON lines). Out: plain
records. The spread of a value is the standard deviation over seeds (n - 1) and the mean error of the metric itself, in
quadrature. A network's plateau is, for each seed, that of its trainings from scratch with the smallest last loss on
validation showers; no score of test showers chooses anything. All seeds of a number of showers see the same showers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.config.generator_study import (
    FROZEN,
    OLD_SHOWERS,
    PLATEAU,
    RESAMPLED,
    SCRATCH,
    TUNED,
    ZERO_SHOT,
    GeneratorStudySpec,
    resampled,
)
from pipeline.studies.probe import StudyError
from pipeline.studies.verdicts import deviation

Row = Mapping[str, Any]
Record = dict[str, Any]
ARMS = (TUNED, FROZEN, ZERO_SHOT, PLATEAU, SCRATCH, RESAMPLED)


def judged(study: GeneratorStudySpec, rows: Iterable[Row], curves: Mapping[str, Sequence[Row]]) -> Record:
    """All that figures and summary are made from; a score that some sample has too few showers for is `unmeasured`.

    Raises `StudyError` when none is left.
    """
    table = {(row["sample"], f"{row['observable']}/{row['metric']}"): row for row in rows if row["selection"] == "all"}
    unmeasured = {score for (_, score), row in table.items() if row["value"] is None} & set(study.scores)
    asked, measured = study.scores, tuple(score for score in study.scores if score not in unmeasured)
    study = study.model_copy(update={"scores": measured})
    if not measured:
        raise StudyError(
            f"evaluation.showers: expected enough showers to measure one of {', '.join(asked)}, got too few; raise it"
        )
    chosen = plateaus(study, curves)
    found = [cell for score in study.scores for cell in cells(study, score, table, chosen)]
    return {
        "kind": "generators",
        "question": study.question,
        "scores": list(study.scores),
        "unmeasured": [score for score in asked if score in unmeasured],
        "showers": list(study.showers),
        "cells": found,
        "constant": [constant for score in study.scores for constant in constants(score, table)],
        "plateaus": chosen,
        "claims": claims(study, found),
        "savings": savings(study, found),
    }


def plateaus(study: GeneratorStudySpec, curves: Mapping[str, Sequence[Row]]) -> list[Record]:
    """For each number of showers and seed: last validation loss by factor, and the factor of the smallest one."""
    found = []
    for n in study.showers:
        for seed in study.seeds:
            losses = {k: last_validation_loss(curves[f"scratch_x{k}_n{n}_seed{seed}"]) for k in sorted(study.plateau)}
            best = min(losses, key=lambda k: (losses[k], k))
            found.append({"showers": n, "seed": seed, "losses": {str(k): v for k, v in losses.items()}, "factor": best})
    return found


def last_validation_loss(curve: Sequence[Row]) -> float:
    """The loss on validation showers at the end of a training."""
    return float([row["loss"] for row in curve if row["split"] == "validation"][-1])


def cells(
    study: GeneratorStudySpec, score: str, table: Mapping[tuple[str, str], Row], chosen: Sequence[Record]
) -> list[Record]:
    """A record for each arm and number of showers: mean, spread, seeds."""
    factor = {(c["showers"], c["seed"]): c["factor"] for c in chosen}
    found = []
    for arm in ARMS:
        for n in study.showers:
            names = {
                SCRATCH: [f"scratch_x1_n{n}_seed{seed}" for seed in study.seeds],
                PLATEAU: [f"scratch_x{factor[n, seed]}_n{n}_seed{seed}" for seed in study.seeds],
                RESAMPLED: [resampled(n)],
            }.get(arm, [f"{arm}_n{n}_seed{seed}" for seed in study.seeds])
            found.append({"score": score, "arm": arm, "showers": n, **summed([table[name, score] for name in names])})
    return found


def constants(score: str, table: Mapping[tuple[str, str], Row]) -> list[Record]:
    """What depends on no number of showers: Geant4 against Geant4, and the old detector's showers."""
    return [
        {"score": score, "arm": name, **summed([table[name, score]])}
        for name in ("floor", OLD_SHOWERS)
        if (name, score) in table
    ]


def summed(rows: Sequence[Row]) -> Record:
    """Mean over seeds; their spread and the metric's own error (0 where it has none), apart and in quadrature."""
    values, error = [row["value"] for row in rows], float(np.mean([row["error"] or 0.0 for row in rows]))
    over_seeds = deviation(values)
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.hypot(over_seeds, error)),
        "seed_spread": over_seeds,
        "error": error,
        "seeds": len(rows),
    }


def _at(found: Sequence[Record], score: str, arm: str) -> dict[int, Record]:
    return {c["showers"]: c for c in found if (c["score"], c["arm"]) == (score, arm)}


def claims(study: GeneratorStudySpec, found: Sequence[Record]) -> list[Record]:
    """At each number of showers: fine-tuned is better than what stands beside it by more than the summed spreads."""
    score, judged = study.scores[0], []
    ours = _at(found, score, TUNED)
    for n in study.showers:
        for arm in (SCRATCH, PLATEAU, FROZEN, ZERO_SHOT, RESAMPLED):
            theirs = _at(found, score, arm)[n]
            difference, margin = theirs["mean"] - ours[n]["mean"], theirs["spread"] + ours[n]["spread"]
            judged.append(
                {
                    "showers": n,
                    "better": TUNED,
                    "than": arm,
                    "ours": ours[n],
                    "theirs": theirs,
                    "difference": difference,
                    "margin": margin,
                    "holds": bool(difference > margin),
                }
            )
    return judged


def savings(study: GeneratorStudySpec, found: Sequence[Record]) -> list[Record]:
    """How many times the showers a network from scratch, at its plateau, needs for what fine-tuning reaches.

    A factor stands only where fine-tuning is better beyond the summed spreads, the curve from scratch falls from each
    number of showers to the next, and reaches that value: then showers are read off between its points, linear in the
    score against ln N. Where no point of the curve reaches it by more than the summed spreads, the factor is larger
    than the last number over N. Else `why` says why there is none.
    """
    score = study.scores[0]
    tuned, scratch = _at(found, score, TUNED), _at(found, score, PLATEAU)
    falls = all(scratch[a]["mean"] > scratch[b]["mean"] for a, b in pairwise(study.showers))
    return [{"showers": n, **_saved(n, tuned[n], scratch, list(study.showers), falls)} for n in study.showers]


def _saved(n: int, ours: Record, scratch: Mapping[int, Record], showers: list[int], falls: bool) -> Record:
    last = scratch[showers[-1]]
    if scratch[n]["mean"] - ours["mean"] <= scratch[n]["spread"] + ours["spread"]:
        return {"factor": None, "why": "fine-tuning is not better than scratch beyond the summed spreads"}
    if not falls:
        return {"factor": None, "why": "the curve from scratch does not fall from each number of showers to the next"}
    if last["mean"] - ours["mean"] > last["spread"] + ours["spread"]:
        return {"factor": None, "more_than": showers[-1] / n, "why": "no network from scratch reaches it"}
    if ours["mean"] < last["mean"]:
        return {"factor": None, "why": "it lies beyond the curve from scratch, within the spreads of its end"}
    means = [scratch[k]["mean"] for k in showers]
    needed = [
        float(np.exp(np.interp(-value, [-m for m in means], np.log(showers))))
        for value in (ours["mean"] + ours["spread"], ours["mean"], ours["mean"] - ours["spread"])
    ]
    low, factor, high = (k / n for k in needed)
    return {"factor": factor, "low": low, "high": high, "why": ""}
