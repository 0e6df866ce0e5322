"""The front of quality against time: costs from measured records, and the figures drawn from them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import CONTENT

from pipeline.config import load_config
from pipeline.evaluation.cost import BINS, binned, costs
from pipeline.figures import FIGURES, draw
from pipeline.figures.front import AUC, apart
from pipeline.provenance import read_json, write_json

EVALUATIONS = {"slow": 17, "fast": 1}


@pytest.fixture
def measured(tmp_path):
    """Geant4 at 30 ms/GeV in two files, and two samples of one run."""
    energy = np.geomspace(1000, 16000, 200)
    simulated = [tmp_path / "a.json", tmp_path / "b.json"]
    for i, path in enumerate(simulated):
        record = {"incident_energy_mev": energy[i::2].tolist(), "cpu_ms": (0.03 * energy[i::2]).tolist()}
        write_json(path, record)
    made = {}
    for name, evaluations in EVALUATIONS.items():
        made[name] = tmp_path / f"{name}.json"
        record = {"cpu_ms_per_shower": 0.5 * evaluations, "cpu_ms_alone": 2.0 * evaluations}
        write_json(made[name], record | {"evaluations": evaluations})
    samples = {name: {"run": "generator"} for name in EVALUATIONS}
    return costs(load_config({**CONTENT, "samples": samples}), [*simulated, tmp_path / "gone.json"], made)


def test_costs_are_binned_in_energy(measured) -> None:
    bins = measured["geant4"]["bins"]
    assert len(bins) == BINS and sum(b["n"] for b in bins) == measured["geant4"]["showers"] == 200
    assert all(b["mean_ms"] == pytest.approx(0.03 * b["energy_mev"], rel=0.03) for b in bins)
    assert measured["samples"]["fast"]["run"] == "generator"


def test_nothing_measured_is_no_cost() -> None:
    assert binned(np.array([]), np.array([])) == {"bins": [], "mean_ms": None, "showers": 0}


def test_the_front_shows_what_was_measured(measured, tmp_path) -> None:
    cells = {name: {"value": 0.6 + 0.01 * i, "error": 0.01} for i, name in enumerate(["floor", *EVALUATIONS])}
    lines = [{"metric": "auc_small_features", "cells": cells}]
    tables = {"costs": measured, "reference": "toy", "summary": {"lines": lines}, "samples": ["floor", *EVALUATIONS]}
    draw("front", tables, tmp_path / "front.pdf", {})
    points = read_json(tmp_path / "front.json")["numbers"]["points"]
    assert [(p["sample"], p["auc"], p["evaluations"]) for p in points] == [("slow", 0.61, 17), ("fast", 0.62, 1)]
    assert {p["run"] for p in points} == {"generator"}
    draw("speedup", tables, tmp_path / "speedup.pdf", {})
    numbers = read_json(tmp_path / "speedup.json")["numbers"]
    assert np.allclose(numbers["factor"]["fast"], [b["mean_ms"] / 2 for b in measured["geant4"]["bins"]])
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_samples_without_evaluations_are_not_joined(measured) -> None:
    for record in measured["samples"].values():
        record["evaluations"] = 0
    cells = {name: {"value": 0.6, "error": 0.01} for name in EVALUATIONS}
    tables = {"costs": measured, "reference": "toy", "summary": {"lines": [{"metric": AUC, "cells": cells}]}}
    figure, numbers = FIGURES["front"](tables)
    assert [p["run"] for p in numbers["points"]] == list(EVALUATIONS)
    assert not figure.axes[1].lines and not figure.axes[1].containers  # nothing against evaluations


@pytest.mark.parametrize("figure", ["front", "speedup"])
def test_without_times_a_figure_says_so(figure, tmp_path) -> None:
    draw(figure, {"summary": {"lines": []}, "reference": ""}, tmp_path / "x.pdf", {})
    assert read_json(tmp_path / "x.json")["numbers"] == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=12))
def test_names_stand_apart_in_the_order_of_their_heights(heights) -> None:
    own = {str(i): height for i, height in enumerate(heights)}
    placed = apart(own)
    ordered = sorted(own, key=lambda name: own[name])
    assert set(placed) == set(own)
    assert all(placed[b] >= 1.2 * placed[a] for a, b in pairwise(ordered))
    assert np.prod(list(placed.values())) == pytest.approx(np.prod(heights))
    near = any(own[b] < 1.23 * own[a] for a, b in pairwise(ordered))
    assert near or placed == pytest.approx(own)
