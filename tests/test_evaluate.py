"""From parts to metric rows: every row complete, the floor filled in, the same bytes twice, clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import Config, FiguresSpec
from pipeline.data.store import shower_hashes
from pipeline.data.stream import InMemory, ShowerStream
from pipeline.evaluation import challenge_networks
from pipeline.evaluation import evaluate as module
from pipeline.evaluation import predictions as predictions_module
from pipeline.evaluation.comparisons import COMPARISONS, ROW_KEYS, same_conditions, selection_name
from pipeline.evaluation.evaluate import (
    EvaluationError,
    comparable,
    evaluate,
)
from pipeline.evaluation.multivariate import FEATURE_METRICS
from pipeline.evaluation.neighbours import NAMES
from pipeline.evaluation.predictions import evaluate_predictions, prediction_columns
from pipeline.evaluation.summary import SUMMARY, collect, gather, significance, summarise
from pipeline.provenance import read_json, write_json

MESH = CylinderMesh(4, 6, 8, dr_mm=2.0, dz_mm=3.0)
N = 60


def toy_showers(seed: int, n: int = N, incident: np.ndarray | None = None, mesh: CylinderMesh = MESH) -> RaggedShowers:
    """Sparse showers whose energy falls with the radius and follows the incident energy."""
    rng = np.random.default_rng(seed)
    incident = np.exp(rng.uniform(np.log(1e3), np.log(4e3), size=n)) if incident is None else incident
    mean = np.exp(-mesh.r_mm / 4)[:, None, None] * np.ones(mesh.shape)
    energy = rng.exponential(mean, size=(n, *mesh.shape)) * (rng.uniform(size=(n, *mesh.shape)) < 0.4)
    energy *= (0.03 * incident * rng.normal(1, 0.05, size=n) / energy.sum(axis=(1, 2, 3)))[:, None, None, None]
    return RaggedShowers.from_dense(
        Showers(energy.astype(np.float32), incident, np.resize([np.pi / 2, 1.2], n), np.zeros(n), mesh, "SiW")
    )


class ToyPart:
    """Stands in for a part: its `read` returns given showers."""

    known: ClassVar[dict[str, RaggedShowers]] = {}

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def open(cls, path) -> ToyPart:
        return cls(str(path))

    def read(self, rows: slice = slice(None)) -> RaggedShowers:
        return InMemory(self.known[self.name]).read(rows)

    @property
    def n_showers(self) -> int:
        return len(self.known[self.name])

    @property
    def shower_hash(self) -> np.ndarray:
        return shower_hashes(self.known[self.name])

    def __getattr__(self, name: str):
        return getattr(self.known[self.name], name)


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate(
        {
            "experiment": "toy",
            "datasets": {
                "siw": {
                    "format": "calochallenge",
                    "files": "x.h5",
                    "detector": "SiW",
                    "angle_deg": 90,
                    "mesh": {"cells": list(MESH.shape), "dr_mm": 2.0, "dz_mm": 3.0},
                }
            },
            "preprocessing": {"plain": ["log1p"]},
            "runs": {
                "generator": {
                    "model": {"name": "diffusion", "patch": [4, 6, 1]},
                    "data": ["siw"],
                    "recipe": "plain",
                    "training": {"samples": 10},
                }
            },
            "samples": {"good": {"run": "generator"}, "null": {"run": "generator", "steps": 0}},
            "evaluation": {
                "reference": "siw",
                "rebin": [2, 1, 2],
                "threshold_mev": 0.01,
                "showers": N,
                "bootstrap": 5,
                "classifier_seeds": 1,
            },
        }
    )


@pytest.fixture(scope="module")
def parts() -> Iterator[None]:
    """Toy showers in place of parts on disk."""
    monkeypatch = pytest.MonkeyPatch()
    halves = {"reference": toy_showers(1), "floor": toy_showers(2)}
    incident = halves["reference"].incident_energy
    coarse = toy_showers(3, incident=incident).rebin((2, 1, 2))
    loud = toy_showers(4, incident=incident)
    monkeypatch.setattr(ToyPart, "known", {"good": coarse, "null": replace(loud, energy=1.3 * loud.energy)})
    for room in (module, predictions_module):
        monkeypatch.setattr(room, "Part", ToyPart)
        monkeypatch.setattr(room, "held_out_stream", lambda parts, splits, half, n: ShowerStream.of(halves[half]))
    monkeypatch.setattr(
        predictions_module, "training_stream", lambda parts, splits, split: ShowerStream.of(toy_showers(5))
    )
    yield
    monkeypatch.undo()


@pytest.fixture(scope="module")
def evaluations(config, parts, tmp_path_factory) -> list:
    paths = {name: tmp_path_factory.mktemp("evaluate") / f"{name}.json" for name in ("floor", "good", "null")}
    for name, path in paths.items():
        evaluate(config, name, [], None if name == "floor" else [name], path)
    return list(paths.values())


def test_every_row_is_complete(evaluations) -> None:
    for path in evaluations:
        for row in read_json(path)["rows"]:
            assert tuple(sorted(row)) == tuple(sorted(ROW_KEYS))
            assert row["n"] > 0 and row["reference"] == "siw" and row["experiment"] == "toy"


def test_all_comparisons_have_their_rows(evaluations) -> None:
    rows = {(r["observable"], r["metric"], r["selection"]) for r in read_json(evaluations[1])["rows"]}
    wanted = {(c.observable, m, "all") for c in COMPARISONS for m in c.metrics}
    wanted |= {("features", m, "all") for m in FEATURE_METRICS} | {("cells", m, "all") for m in NAMES}
    wanted |= {("classifier", m, "all") for m in ("auc_small_cells", "auc_small_features")}
    assert wanted <= rows
    assert len([r for r in rows if r[0] == "energy_response" and r[1] == "separation_power"]) == 4
    assert {(o, m, "all") for _, o, m, _ in SUMMARY} <= rows


def test_the_same_inputs_give_the_same_bytes(config, evaluations, parts, tmp_path) -> None:
    evaluate(config, "good", [], ["good"], tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == evaluations[1].read_bytes()


def test_a_louder_sample_is_seen(config, evaluations) -> None:
    rows = {(r["sample"], r["selection"], r["observable"], r["metric"]): r for r in collect(config, evaluations)}
    loud = rows["null", "all", "energy_response", "mean_ratio"]
    assert loud["value"] == pytest.approx(1.3, abs=0.03) and loud["error"] < 0.05
    assert rows["null", "all", "energy_response", "separation_power"]["value"] > 0.8  # .818 is the most: all in one bin
    assert rows["good", "all", "energy_response", "separation_power"]["value"] < 0.2
    assert rows["null", "all", "classifier", "auc_small_features"]["value"] > 0.9


def test_collect_fills_every_floor_and_sorts(config, evaluations) -> None:
    rows = collect(config, evaluations)
    assert all(row["floor"] is not None for row in rows)
    assert list(dict.fromkeys(row["sample"] for row in rows)) == ["floor", "good", "null"]
    assert rows == collect(config, [*reversed(evaluations), evaluations[0]])


def test_rows_say_how_far_above_the_floor_they_are(config, evaluations) -> None:
    rows = collect(config, evaluations)
    known = [row for row in rows if row["sample"] != "floor" and row["value"] is not None and row["error"]]
    assert len(known) > 50 and all(isinstance(row["sigma"], float) for row in known)
    assert all(row["sigma"] is None for row in rows if row["sample"] == "floor")
    loud = {row["metric"]: row for row in rows if row["sample"] == "null" and row["observable"] == "energy_response"}
    assert loud["wasserstein"]["sigma"] > 5


def test_only_the_metrics_and_classifiers_asked_for(config, parts, tmp_path) -> None:
    spec = config.evaluation.model_copy(update={"metrics": ("wasserstein", "kpd"), "classifiers": ("small_features",)})
    evaluate(config.model_copy(update={"evaluation": spec}), "good", [], ["good"], tmp_path / "few.json")
    metrics = {row["metric"] for row in read_json(tmp_path / "few.json")["rows"]}
    assert metrics == {"wasserstein", "kpd", "auc_small_features"}


def test_the_challenges_networks_are_rows_that_name_their_epochs(config, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(challenge_networks, "dense_network", partial(challenge_networks.dense_network, width=8))
    network = partial(challenge_networks.ResidualNetwork, planes=(2, 2, 2, 4))
    monkeypatch.setattr(challenge_networks, "ResidualNetwork", network)
    spec = config.evaluation.model_copy(
        update={"metrics": (), "classifiers": ("low", "high", "cnn"), "classifier_epochs": 1}
    )
    evaluate(config.model_copy(update={"evaluation": spec}), "good", [], ["good"], tmp_path / "networks.json")
    rows = {row["metric"]: row for row in read_json(tmp_path / "networks.json")["rows"]}
    assert set(rows) == {f"{kind}_{name}_1_epochs" for kind in ("auc", "jsd") for name in ("low", "high", "cnn")}
    assert all(0 <= rows[f"auc_{name}_1_epochs"]["value"] <= 1 for name in ("low", "high", "cnn"))


def test_summary_counts_sigma_from_the_floor(config, evaluations) -> None:
    lines = {(x["observable"], x["metric"]): x["cells"] for x in summarise(collect(config, evaluations))["lines"]}
    assert len(lines) == len(SUMMARY)
    assert lines["energy_response", "mean_ratio"]["null"]["sigma"] > 5
    assert lines["energy_response", "mean_ratio"]["floor"]["sigma"] is None


def test_significance_by_hand() -> None:
    assert significance(1.2, 0.03, 0.9, 0.04, perfect=1) == pytest.approx(2)
    assert significance(None, 0.1, 0.1, 0.1, 0) is None
    assert significance(0.1, 0.0, 0.1, 0.0, 0) is None


def test_gathered_tables_hold_floor_first_and_are_json(config, evaluations, tmp_path) -> None:
    curve = tmp_path / "metrics.jsonl"
    curve.write_text('{"samples": 1, "split": "train", "loss": 2.0}\n')
    tables = gather(config, evaluations[::-1], {"generator": curve})
    assert tables["samples"] == ["floor", "good", "null"]
    assert tables["training"]["generator"][0]["loss"] == 2.0
    json.dumps(tables, allow_nan=False)


def test_figures_hold_the_samples_that_are_asked_for_and_the_summary_all(config, evaluations) -> None:
    tables = gather(config.model_copy(update={"figures": FiguresSpec(samples=("null",))}), evaluations)
    assert tables["samples"] == list(tables["evaluations"]) == ["floor", "null"]
    assert tables["summary"]["samples"] == ["floor", "good", "null"]


def test_selection_names_and_conditions() -> None:
    assert selection_name(1000, 1587.4) == "energy_mev:[1000,1587]"
    a = np.array([1000.0, 2000.0])
    assert same_conditions(a, a.astype(np.float32)) and not same_conditions(a, a[::-1])
    assert not same_conditions(a, a[:1])


def test_a_sample_on_the_wrong_mesh_is_refused(config) -> None:
    wrong = toy_showers(1, mesh=CylinderMesh(3, 6, 8, 2.0, 3.0))
    with pytest.raises(EvaluationError, match=r"sample\.json: expected showers on a mesh that divides into"):
        comparable(ShowerStream.of(wrong), config, "sample.json")


def test_an_empty_sample_is_refused(config) -> None:
    with pytest.raises(EvaluationError, match="expected showers, got none"):
        comparable(ShowerStream.of(toy_showers(1)).first(0), config, "sample.json")


def test_an_experiment_without_evaluation_is_refused(config, tmp_path) -> None:
    bare = config.model_copy(update={"evaluation": None})
    with pytest.raises(EvaluationError, match="expected an 'evaluation' section"):
        evaluate(bare, "floor", [], None, tmp_path / "x.json")


# ------------------------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    truth = toy_showers(1).incident_energy
    path = tmp_path_factory.mktemp("predict") / "predictions.json"
    rng = np.random.default_rng(0)
    write_json(
        path,
        {
            "incident_energy": truth.tolist(),
            "sigma": (0.1 * truth).tolist(),
            "predicted": (truth * rng.normal(1.02, 0.1, size=N)).tolist(),
        },
    )
    return path


def test_predictions_stand_beside_the_calibrated_cell_sum(config, parts, predictions, tmp_path) -> None:
    evaluate_predictions(config, "head", predictions, [], tmp_path / "head.json")
    rows = {(r["sample"], r["metric"]): r for r in collect(config, [tmp_path / "head.json"]) if r["selection"] == "all"}
    assert rows["head", "resolution"]["value"] == pytest.approx(0.1, rel=0.3)
    assert rows["head", "pull_width"]["value"] == pytest.approx(1, rel=0.3)
    assert rows["head", "bias"]["value"] == pytest.approx(0.02, abs=0.04)
    assert rows["calibrated_cell_sum", "resolution"]["value"] == pytest.approx(0.05, rel=0.3)
    assert all(set(row) == set(ROW_KEYS) for row in rows.values())


def test_predictions_of_other_showers_are_refused(config, parts, predictions, tmp_path) -> None:
    content = read_json(predictions)
    other = tmp_path / "other.json"
    write_json(other, content | {"incident_energy": content["incident_energy"][::-1]})
    with pytest.raises(EvaluationError, match="expected the incident energies of the reference"):
        evaluate_predictions(config, "head", other, [], tmp_path / "head.json")


def test_predictions_without_a_column_are_refused(tmp_path) -> None:
    write_json(tmp_path / "p.json", {"incident_energy": [1.0], "predicted": [1.0]})
    with pytest.raises(EvaluationError, match=r"p\.json: expected the columns .* got none named \['sigma'\]"):
        prediction_columns(tmp_path / "p.json")
