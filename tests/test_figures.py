"""Figures draw whatever tables there are, the same bytes each time; the report is one file that escapes its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_evaluate import config, evaluations, parts, predictions  # noqa: F401

from pipeline.config import FiguresSpec
from pipeline.config.evaluation import ON_REQUEST
from pipeline.evaluation.predictions import evaluate_predictions
from pipeline.evaluation.summary import collect, gather, summarise
from pipeline.figures import CATEGORIES, FIGURES, draw
from pipeline.figures.captions import CAPTIONS
from pipeline.figures.page import flat, lineage_tables, plain_text
from pipeline.figures.panels import MOST_INSIDE, Curve, finish_ratio, histogram_curve
from pipeline.figures.report import ReportError, write_report
from pipeline.figures.showers import in_space
from pipeline.figures.style import label_with_power, looks, power_of_thousand, styled
from pipeline.figures.summary import light, number
from pipeline.provenance import read_json

REPOSITORY = Path(__file__).resolve().parent.parent
EMPTY = {
    "reference": "siw",
    "samples": [],
    "evaluations": {},
    "predictions": {},
    "training": {},
    "summary": {"samples": [], "lines": []},
    "images": 4,
}

EXAMINATION = {
    "attention": {
        "grid": [2, 1, 3],
        "tokens": 6,
        "asking": [0, 0, 1],
        "from_asking": [[[[0.1, 0.6, 0.1], [0.1, 0.05, 0.05]], [[0.2, 0.2, 0.2], [0.2, 0.1, 0.1]]]],
        "from_asking_tokens": [[3.4, 5.8]],
        "incident_energy_mev": 2000.0,
        "energy_mev": [[1.0, 5.0, 0.5], [0.2, 0.4, 0.0]],
        "r_mm": 40.0,
        "z_mm": 150.0,
    },
    "old_data": [
        {
            "dataset": "siw",
            "parent": "first",
            "loss_of_parent": {"value": 0.5, "error": 0.02},
            "loss": {"value": 0.8, "error": 0.03},
            "forgetting": {"value": 0.3, "error": 0.01},
        }
    ],
}
STUDY = {
    "axis": "mask ratio",
    "tasks": ["front"],
    "labels": [50, 100],
    "points": [{"name": name, "label": name, "value": None} for name in ("half", "most")],
    "cells": [
        {"task": "front", "labels": n, "point": point, "arm": arm, "mean": 0.2, "spread": 0.01}
        for n in (50, 100)
        for point, arm in (("half", "pretrained"), ("most", "pretrained"), ("", "features"))
    ],
    "gains": [],
}


@pytest.fixture(scope="module")
def head(config, parts, predictions, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("head") / "head.json"
    evaluate_predictions(config, "head", predictions, [], path)
    return path


@pytest.fixture(scope="module")
def tables(config, evaluations, head, tmp_path_factory):  # noqa: F811
    curve = tmp_path_factory.mktemp("training") / "metrics.jsonl"
    curve.write_text(
        "".join(
            f'{{"samples": {100 * i}, "split": "{s}", "loss": {2 + 1 / i}}}\n'
            for i in range(1, 6)
            for s in ("train", "validation")
        )
    )
    geant4 = {"bins": [{"energy_mev": 1e3, "mean_ms": 30.0, "error_ms": 1.0, "n": 9}], "mean_ms": 30.0, "showers": 9}
    cost = {"run": None, "cpu_ms_per_shower": 0.5, "cpu_ms_alone": 2.0, "evaluations": 3}
    measured = {"geant4": geant4, "samples": dict.fromkeys(config.samples, cost)}
    made = gather(config, [*evaluations, head], {"generator": curve}, measured)
    return made | {"examinations": {"representation": EXAMINATION}, "study": STUDY}


def test_every_figure_is_drawn_with_its_numbers(tables, tmp_path) -> None:
    for name in FIGURES:
        draw(name, tables, tmp_path / f"{name}.pdf", {"experiment": "toy"})
        record = read_json(tmp_path / f"{name}.json")
        assert record["numbers"] and record["provenance"] == {"experiment": "toy"}
        assert (tmp_path / f"{name}.pdf").stat().st_size > 3000
        assert (tmp_path / f"{name}.png").stat().st_size > 3000


@pytest.mark.parametrize("name", ["cell_spectrum", "energy_prediction", "shower_space", "average_showers"])
def test_drawing_twice_gives_the_same_bytes(tables, tmp_path, name) -> None:
    for folder in ("a", "b"):
        draw(name, tables, tmp_path / folder / f"{name}.pdf", {})
    for kind in ("pdf", "png", "json"):
        first, second = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second
    assert b"CreationDate" not in (tmp_path / "a" / f"{name}.pdf").read_bytes()


def test_a_study_is_drawn_against_labels_or_along_its_axis() -> None:
    along, _ = FIGURES["study"]({"study": STUDY})
    assert [ax.get_xlabel() for ax in along.axes] == ["mask ratio"] * 2  # a panel for each number of labels
    one = {**STUDY, "points": STUDY["points"][:1]}
    against, _ = FIGURES["study"]({"study": one})
    assert [ax.get_xlabel() for ax in against.axes] == ["labelled showers"]
    names = against.legends[0].get_texts()
    assert [text.get_text() for text in names] == ["pre-trained, frozen", "hand-made features, linear"]


def test_an_arm_that_stands_in_one_panel_alone_is_in_the_legend() -> None:
    scratch = {"task": "front", "labels": 100, "point": "half", "arm": "scratch", "mean": 0.3, "spread": 0.01}
    figure, _ = FIGURES["study"]({"study": {**STUDY, "cells": [*STUDY["cells"], scratch]}})
    assert "from scratch, at its plateau" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_figures_without_data_say_so() -> None:
    for name, function in FIGURES.items():
        with styled():
            figure, numbers = function(EMPTY)
        assert isinstance(figure, Figure) and not numbers, name
        assert "nothing to show" in figure.texts[0].get_text()


def test_an_unknown_figure_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"figures\.draw: expected one of .* got 'nonsense'"):
        draw("nonsense", EMPTY, tmp_path / "x.pdf", {})


def test_figures_captions_categories_and_configuration_agree() -> None:
    assert set(FIGURES) == set(CAPTIONS) == set(CATEGORIES) == {*FiguresSpec().draw, *ON_REQUEST}
    for name, caption in CAPTIONS.items():
        text = (REPOSITORY / "workflow" / "report" / f"{name}.rst").read_text()
        assert " ".join(text.split()) == " ".join(caption.split()), name


def test_a_sample_keeps_its_look_whatever_the_floor() -> None:
    assert looks(["floor", "a", "b"])["b"] == looks(["a", "b"])["b"]
    assert len({look.colour for look in looks(["a", "b", "c", "floor"]).values()}) == 4


def test_sixteen_samples_look_different_and_the_first_keep_their_looks() -> None:
    names = [f"sample_{i}" for i in range(16)]
    many = looks(names)
    assert len({(many[n].colour, many[n].marker) for n in names}) == 16
    assert all(looks(names[:8])[n] == many[n] for n in names[:8])


def test_names_of_many_samples_stand_below_the_figure(tables) -> None:
    def repeated(n: int) -> dict[str, Any]:
        first = tables["samples"][1]
        names = ["floor", *(f"sample_{i}" for i in range(n))]
        return {**tables, "samples": names, "evaluations": {m: tables["evaluations"][first] for m in names}}

    for name in ("longitudinal_profile", "cell_spectrum", "hits", "linearity", "resolution", "shower_depth"):
        few, _ = FIGURES[name](repeated(MOST_INSIDE))
        many, _ = FIGURES[name](repeated(MOST_INSIDE + 1))
        assert few.axes[0].get_legend() is not None and not few.legends, name
        assert many.axes[0].get_legend() is None, name
        assert {f"sample {i}" for i in range(5)} <= {t.get_text().split(":")[0] for t in many.legends[0].get_texts()}


@pytest.mark.parametrize(("top", "power"), [(2.0, 0), (0.02, 0), (4e-3, -3), (4e-4, -6), (2e4, 0), (2e5, 3)])
def test_small_and_large_values_say_their_power_on_the_axis(top, power) -> None:
    assert power_of_thousand(top) == power
    ax = Figure().add_subplot()
    ax.set_ylim(0, top)
    label_with_power(ax, "loss")
    assert ax.get_ylabel() == (f"loss [$10^{{{power}}}$]" if power else "loss")
    if power:
        assert ax.yaxis.get_major_formatter()(2 * 10**power) == "2"


def test_no_power_of_ten_lies_on_a_heading() -> None:
    rows = [{"samples": i, "loss": 4e-3 / i, "split": "train"} for i in (1, 2, 3)]
    figure, numbers = FIGURES["training_curves"]({"training": {"run": rows}})
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_ylabel() == "loss [$10^{-3}$]" and numbers["run"] == rows
    assert figure.axes[0].yaxis.get_offset_text().get_text() == ""


def test_a_histogram_becomes_a_density() -> None:
    curve = histogram_curve([0, 1, 3], {"counts": [4, 4], "total": 10})
    np.testing.assert_allclose(curve.values, [0.4, 0.2])
    np.testing.assert_allclose(curve.errors, [0.2, 0.1])
    assert isinstance(curve, Curve) and curve.centres.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.0172, 0.0031, "1.017 ± 0.003"),
        (0.984, 0.018, "0.984 ± 0.018"),
        (6e-5, 3e-5, "(6 ± 3)e-5"),
        (None, None, "n/a"),
        (0.5, None, "0.5"),
        (12.3, 4.0, "12 ± 4"),
        (2.5e28, 3e28, "2.50e+28 ± 3.0e+28"),
    ],
)
def test_numbers_have_the_digits_of_their_error(value, error, text) -> None:
    assert number(value, error) == text


def test_lights_differ_in_mark_and_colour() -> None:
    assert len({light(s) for s in (None, 0.0, 3.0, 9.0)}) == 4
    assert light(-4.0) == light(1.9)


# ------------------------------------------------------------------------------- report


@pytest.fixture(scope="module")
def report(config, tables, evaluations, head, tmp_path_factory) -> str:  # noqa: F811
    rows = collect(config, [*evaluations, head])
    page = tmp_path_factory.mktemp("report")
    folder = page / "figures"
    for name in ("summary", "hits"):
        draw(name, tables, folder / f"{name}.pdf", {})
    write_report(
        page / "report.html",
        title="<script>toy",
        rows=rows,
        summary=summarise(rows),
        figures={name: folder / f"{name}.pdf" for name in ("summary", "hits")},
        configuration="a: <b>",
        models={"generator": {"lineage": {"parent": None}}},
        showers=in_space(tables),
        measured={"generate/good": {"milliseconds_per_shower": 6.23456}},
    )
    return (page / "report.html").read_text()


def test_report_escapes_and_holds_everything(report) -> None:
    assert "&lt;script&gt;toy" in report and "<script>toy" not in report
    assert "a: &lt;b&gt;" in report
    assert "6.235" in report and "calibrated cell sum" in report and "data:image/png;base64," in report
    assert 'href="figures/hits.pdf"' in report and 'href="figures/summary.pdf"' in report


def test_report_loads_nothing(report) -> None:
    assert "http" not in report and "url(" not in report and "<link" not in report


def test_report_of_an_experiment_without_samples(tmp_path) -> None:
    write_report(tmp_path / "report.html", title="bare", rows=[], figures={})
    assert "<h1>bare</h1>" in (tmp_path / "report.html").read_text()


def test_report_misses_a_figure(tmp_path) -> None:
    with pytest.raises(ReportError, match=r"figure 'hits': expected .*hits\.png, found no file"):
        write_report(tmp_path / "r.html", title="x", rows=[], figures={"hits": tmp_path / "hits.pdf"})


def test_labels_and_records_become_plain() -> None:
    assert plain_text(r"$A_\phi$ spread") == "Aᵩ spread"
    assert plain_text("longitudinal profile $L_1$") == "longitudinal profile L₁"
    assert flat({"a": {"b_c": 1.23456}}) == [("a b c", "1.235")]


def test_lineage_names_parents_and_digests() -> None:
    models = {
        "energy": {
            "architecture": {"model": {"name": "masked_vit"}},
            "lineage": {
                "parent": {"run": "representation", "weights_digest": "0123456789abcdef"},
                "model_parents": {"tokenizer": {"run": "codes", "digest": "c0de"}},
                "parts": {"siw": ["a", "b"]},
                "transforms": {"siw": "ff00"},
            },
            "weights_digest": "beef",
        }
    }
    part = {
        "source": {"name": "x.h5", "digest": "d1"},
        "n_showers": 7,
        "mesh": {"cells": [2, 3, 4]},
        "store_digest": "d2",
    }
    table = lineage_tables(models, {"siw": [part]}, {"peer_one": [part]})
    row = ["x.h5", "7", "2×3×4", "d1", "d2"]
    assert table["data"] == [["siw", *row]] and table["samples"] == [["peer one", *row]]
    parent = "start from representation 0123456789ab, tokenizer codes c0de"
    assert table["models"] == [["energy", "masked_vit", parent, "siw (2 parts)", "ff00", "beef"]]


def test_the_display_holds_every_cell_of_every_sample(tables) -> None:
    content = in_space(tables)
    assert [s["name"] for s in content["samples"]] == ["Geant4", "good", "null"]
    n_cells = int(np.prod(content["cells"]))
    for sample in content["samples"]:
        assert len(sample["showers"]) == tables["images"]
        for shower in sample["showers"]:
            assert len(shower["cell"]) == len(shower["mev"]) == shower["of"] and max(shower["cell"]) < n_cells
            assert sum(shower["mev"]) == pytest.approx(shower["total"], rel=1e-2)
    assert in_space(EMPTY) == {}


def test_points_beyond_the_ratio_panel_become_arrows() -> None:
    ax = Figure().subplots()
    finish_ratio(ax, 0.04, [(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 0.1]), "#0072b2")])
    arrows = {line.get_marker(): line.get_xdata().tolist() for line in ax.lines if line.get_marker() in "^v"}
    low, high = ax.get_ylim()
    assert arrows == {"^": [2.0], "v": [3.0]}
    assert all(low < y < high for line in ax.lines if line.get_marker() in "^v" for y in line.get_ydata())
