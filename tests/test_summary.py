"""The table one reads first: groups, known faults, published results, and how they look on the page."""

from __future__ import annotations

import numpy as np
import pytest
from test_evaluate import ToyPart, config, evaluations, parts, toy_showers  # noqa: F401

from pipeline.config import Config
from pipeline.data.stream import ShowerStream
from pipeline.evaluation import sensitivity
from pipeline.evaluation.comparisons import fault
from pipeline.evaluation.evaluate import evaluate_sensitivity, evaluation_of
from pipeline.evaluation.perturbations import SENSITIVITY
from pipeline.evaluation.published import COLUMNS, calochallenge_results, published_dataset, published_table
from pipeline.evaluation.summary import collect, gather, overview_row, summarise
from pipeline.figures.page import overview_table, published_page
from pipeline.figures.report import write_report
from pipeline.figures.style import styled
from pipeline.figures.summary import sigmas, summary
from pipeline.provenance import read_json


def line(group: str, label: str, **sigma: float | None) -> dict:
    return {"group": group, "label": label, "cells": {name: {"sigma": value} for name, value in sigma.items()}}


def test_a_group_is_as_far_as_its_farthest_observable() -> None:
    lines = [line("energy", "mean", a=1.0), line("energy", "spread", a=4.0), line("shape", "profile", a=None)]
    cells = overview_row("a", "a", "sample", lines)["cells"]
    assert cells["energy"] == {"sigma": 4.0, "of": "spread", "lines": 2}
    assert cells["shape"]["sigma"] is None


@pytest.fixture(scope="module")
def faults(config, parts, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("sensitivity") / "sensitivity.json"
    evaluate_sensitivity(config, [], path)
    return path


def test_known_faults_stand_below_the_samples(config, evaluations, faults) -> None:  # noqa: F811
    rows = collect(config, [*evaluations, faults])
    data = summarise(rows)
    assert [(row["label"], row["kind"]) for row in data["overview"][:2]] == [("good", "sample"), ("null", "sample")]
    assert {row["sample"] for row in data["overview"][2:]} == {fault(name) for name in SENSITIVITY}
    assert data["samples"] == ["floor", "good", "null"]
    assert all(set(line["cells"]) <= set(data["samples"]) for line in data["lines"])
    assert all(row["selection"] == "all" for row in rows if row["sample"].startswith("fault_"))


def test_a_dropped_layer_is_far_and_a_rotation_is_not(config, evaluations, faults) -> None:  # noqa: F811
    rows = {r["sample"]: r["cells"] for r in summarise(collect(config, [*evaluations, faults]))["overview"]}
    assert rows[fault("dropped_layer")]["shape"]["sigma"] > 5
    assert rows[fault("rotated")]["energy"]["sigma"] == 0
    assert abs(rows[fault("rotated")]["cells"]["sigma"]) < 1e-9


def test_many_showers_are_bounded_and_bring_their_own_floor(config, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(sensitivity, "MOST_SHOWERS", 30)
    spec = evaluation_of(config).model_copy(update={"classifiers": (), "metrics": ("mean_ratio",)})
    sides = [ShowerStream.of(toy_showers(seed).rebin((2, 1, 2))).cut(0.01) for seed in (1, 2)]
    rows = sensitivity.sensitivity_rows(sides[0], sides[1], spec, 1)
    assert {row["n"] for _, row in rows} == {30}
    assert {name for name, _ in rows} >= {"fault_rotated", "floor_of_fault_rotated"}
    values = {name: row["value"] for name, row in rows if row["observable"] == "visible_energy"}
    assert values["fault_energy_1_percent"] == pytest.approx(1.01 * values["floor_of_fault_energy_1_percent"], rel=1e-3)


def test_a_sample_may_not_have_the_name_of_a_fault(test_config) -> None:
    test_config["samples"]["fault_rotated"] = test_config["samples"].pop("generator")
    with pytest.raises(ValueError, match=r"samples\.fault_rotated: the name is taken"):
        Config.model_validate(test_config)


# ------------------------------------------------------------------------------- how it looks


def test_the_summary_figure_and_page_show_samples_and_faults(config, evaluations, faults, tmp_path) -> None:  # noqa: F811
    paths = [*evaluations, faults]
    data = summarise(collect(config, paths))
    with styled():
        figure, numbers = summary(gather(config, paths))
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"good", "energy +1 %", "collective"} <= words and numbers["overview"] == data["overview"]
    table = overview_table(data)
    assert table["groups"] == data["groups"] and len(table["lines"]) == 2 + len(SENSITIVITY)
    assert {cell["class"] for row in table["lines"] for cell in row["cells"]} <= {"good", "fair", "poor", "unknown"}
    write_report(
        tmp_path / "report.html", title="toy", rows=[], figures={}, summary=data, notes={"peer": ["12 <showers>"]}
    )
    page = (tmp_path / "report.html").read_text()
    assert "a known fault" in page and "12 &lt;showers&gt;" in page and "layer dropped" in page


@pytest.mark.parametrize(("sigma", "text"), [(1.26, "+1.3"), (-0.4, "-0.4"), (27.3, "+27")])
def test_sigmas_have_the_digits_that_matter(sigma, text) -> None:
    assert sigmas(sigma) == text


# ------------------------------------------------------------------------------- published results


def on_mesh(config: Config, cells: list[int], **changes) -> Config:  # noqa: F811
    content = config.model_dump(mode="json", exclude_unset=True)
    content["datasets"]["siw"]["mesh"]["cells"] = cells
    content["runs"]["generator"]["model"]["patch"] = [1, 1, 1]
    content["evaluation"] |= {"rebin": [1, 1, 1], **changes}
    return Config.model_validate(content)


def test_the_mesh_or_the_configuration_names_the_published_table(config) -> None:  # noqa: F811
    assert published_dataset(config) is None and published_table(config, []) is None
    assert published_dataset(on_mesh(config, [9, 16, 45])) == "ds2"
    assert published_dataset(on_mesh(config, [18, 50, 45])) == "ds3"
    assert published_dataset(on_mesh(config, [4, 6, 8], published="calochallenge_ds2")) == "ds2"


def test_ours_stand_beside_rows_of_the_same_name_only(config) -> None:  # noqa: F811
    row = {"sample": "good", "selection": "all", "observable": "features", "metric": "fpd", "value": 0.02}
    table = published_table(on_mesh(config, [9, 16, 45]), [row, row | {"metric": "auc_small_cells"}])
    assert table is not None
    assert [r[0] for r in table["published"]][:2] == ["Geant4 floor", "CaloDREAM"]
    assert table["ours"] == [["good", None, 20.0, *[None] * (len(COLUMNS) - 2)]]
    page = published_page(table)
    assert page["ours"][0][:3] == ["good", "", "20"] and "their classifiers" in page["caption"]
    assert published_page(None) == {}


def test_the_published_file_is_whole() -> None:
    """Values of arXiv:2410.21611: nine rows, AUCs in [.5, 1] but for the floor's fluctuation."""
    content = calochallenge_results()
    assert content["source"].endswith("arXiv:2410.21611") and len(content["rows"]) == 9
    aucs = np.array([[row[f"auc_{kind}"] for kind in ("low", "high", "cnn")] for row in content["rows"]])
    assert (aucs >= 0.499).all() and (aucs < 1).all()
    assert all(set(row) >= {"dataset", "model", *COLUMNS} for row in content["rows"])
    assert all(band["good"] < band["recognisable"] for band in content["acceptance"])


def test_an_evaluation_leaves_nothing_of_the_faults_in_the_figures(config, evaluations, faults) -> None:  # noqa: F811
    tables = gather(config, [*evaluations, faults])
    assert tables["samples"] == ["floor", "good", "null"]
    assert {row["sample"] for row in read_json(faults)["rows"]} == {fault(name) for name in SENSITIVITY}
