"""The claims of docs/perturbations.md, small and on parametric showers: what reacts, what does not, in which order."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from test_baselines import THRESHOLD_MEV, geant_like
from workflow_fixtures import REPOSITORY

from pipeline.config import EvaluationSpec
from pipeline.data.stream import ShowerStream
from pipeline.evaluation.comparisons import compare
from pipeline.evaluation.multivariate import classifier_rows
from pipeline.evaluation.observables import observables, observe
from pipeline.evaluation.perturbations import PERTURBATIONS
from pipeline.evaluation.summary import above_floor, summarise

N = 400
NAMES = ("rotated", "reflected", "energy_1_percent", "energy_5_percent", "dropped_layer", "exchanged_cells")
SPEC = EvaluationSpec(
    reference="toy",
    threshold_mev=THRESHOLD_MEV,
    showers=N,
    energy_bins=1,
    bootstrap=10,
    classifiers=("small_features",),
    classifier_seeds=2,
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Rows of the floor and of every perturbation of it, as the evaluation makes them."""
    reference, floor = geant_like(11, N), geant_like(12, N)
    sides = {"floor": floor} | {
        name: PERTURBATIONS[name].apply(floor, np.random.default_rng(1), THRESHOLD_MEV).cut(THRESHOLD_MEV)
        for name in NAMES
    }
    ours = observe(reference, observables())
    made = []
    for name, showers in sides.items():
        theirs = observe(ShowerStream.of(showers), observables())
        found = compare(ours, theirs, SPEC, 1) + classifier_rows(reference, showers, ours, theirs, SPEC, 1)
        made += [{"sample": name, "reference": "toy", "experiment": "toy", **row} for row in found]
    known = {(r["observable"], r["metric"], r["selection"]): r for r in made if r["sample"] == "floor"}
    return [above_floor(row, known[row["observable"], row["metric"], row["selection"]]) for row in made]


def value(rows: list[dict], sample: str, observable: str, metric: str) -> float:
    return next(
        r["value"]
        for r in rows
        if (r["sample"], r["observable"], r["metric"], r["selection"]) == (sample, observable, metric, "all")
    )


@pytest.mark.parametrize("name", ["rotated", "reflected"])
def test_symmetries_leave_every_invariant_as_it_is(rows, name) -> None:
    floor = {(r["observable"], r["metric"], r["selection"]): r["value"] for r in rows if r["sample"] == "floor"}
    for row in (r for r in rows if r["sample"] == name):
        if row["observable"] not in ("azimuthal_profile", "classifier"):
            key = row["observable"], row["metric"], row["selection"]
            assert row["value"] == pytest.approx(floor[key], rel=1e-4, abs=1e-6), key
        else:
            assert abs(row["sigma"]) < 3, row


def test_geant4_against_itself_is_a_coin_flip(rows) -> None:
    row = next(r for r in rows if r["sample"] == "floor" and r["metric"] == "auc_small_features")
    assert abs(row["value"] - 0.5) < 3 * row["error"]


def test_a_dropped_layer_is_told_apart_almost_surely(rows) -> None:
    assert value(rows, "dropped_layer", "classifier", "auc_small_features") > 0.95


def test_exchanged_cells_pass_the_marginals_and_not_the_classifier(rows) -> None:
    assert value(rows, "exchanged_cells", "longitudinal_profile", "l1") == pytest.approx(
        value(rows, "floor", "longitudinal_profile", "l1"), rel=1e-3
    )
    assert value(rows, "exchanged_cells", "azimuthal_asymmetry", "mean_ratio") < 0.8
    assert value(rows, "exchanged_cells", "classifier", "auc_small_features") > 0.75


def test_a_larger_fault_is_farther(rows) -> None:
    ratios = [value(rows, s, "visible_energy", "mean_ratio") for s in ("floor", "energy_1_percent", "energy_5_percent")]
    assert ratios[1] / ratios[0] == pytest.approx(1.01, abs=2e-3)
    assert ratios[2] / ratios[0] == pytest.approx(1.05, abs=2e-3)


def test_the_page_is_written_between_its_marks(rows, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    import perturbations as study

    lines = summarise(rows)["lines"]
    for line in lines:
        if line["metric"] == "auc_small_features":
            lines = [*lines, line | {"metric": "auc_small_cells"}]
    claims = study.claims(lines)
    assert [row["holds"] for row in claims if "dropped" in row["claim"] or "exchanged" in row["claim"]] == [True] * 2
    page = study.page(claims, study.reactions(lines), "today")
    assert "today" in page and "| mean visible energy |" in page and page.count("end of table") == 1
    assert study.page(claims, "other", "today").count("mean visible energy |") == 0
