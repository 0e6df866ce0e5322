"""Studies: views hide cells, linear heads are ridge regressions, and verdicts and sentences follow from the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import Config, ConfigError, MaskedViTSpec, RecipeSpec, StudySpec, TaskSpec, load_config
from pipeline.config.study import LabelTrainingSpec, merged
from pipeline.data.transforms import Transform
from pipeline.models import Architecture, build_network
from pipeline.models.detectors import descriptor
from pipeline.models.masked_vit import MaskedViT
from pipeline.plan import Plan
from pipeline.studies.baselines import baseline_heads, log_visible_energy
from pipeline.studies.encoders import encoded, frozen_features, placed, token_batches
from pipeline.studies.from_labels import train_from_labels
from pipeline.studies.linear import linear_head, ridge, standardised
from pipeline.studies.pool import Labelled, Pool, relative_error
from pipeline.studies.probe import _baseline_rows, _network_rows, _zero_shot_rows
from pipeline.studies.summary import findings, percent, summary, verdict
from pipeline.studies.verdicts import cells, deviation, gains, judged, metrics_of, paired, power_laws, ranking
from pipeline.studies.views import groups, visible_cells, visible_tokens
from pipeline.training.checkpoint import TrainedModel

SHAPE = (6, 8, 6)
PATCH = (3, 4, 2)
MESH = CylinderMesh(*SHAPE, dr_mm=5.0, dz_mm=5.0)
FRONT = TaskSpec(layers=2)
DEAD = TaskSpec(dead=0.75, block=PATCH)
RECIPE = RecipeSpec.model_validate([{"cut": {"threshold_mev": 0.01}}, {"log1p": {"scale_mev": 0.1}}])
EXPERIMENT = yaml.safe_load((REPOSITORY / "config" / "experiments" / "data_efficiency.yaml").read_text())


def labelled(n: int = 60, seed: int = 0) -> Labelled:
    """Showers whose cells all grow with the incident energy; half of them train, a quarter validates."""
    rng = np.random.default_rng(seed)
    incident = np.exp(rng.uniform(np.log(1e3), np.log(16e3), n))
    cell = rng.exponential(0.3, (n, *SHAPE)) * (rng.random((n, *SHAPE)) < 0.4) * (incident / 1e3)[:, None, None, None]
    angles = np.full(n, np.pi / 2, np.float32), np.zeros(n, np.float32)
    showers = Showers(cell.astype(np.float32), incident.astype(np.float32), *angles, MESH, "SiW")
    return Labelled(RaggedShowers.from_dense(showers), n // 2, n // 4)


def pool(task: TaskSpec, showers: Labelled | None = None) -> Pool:
    return Pool.of(showers or labelled(), Transform.from_recipe(RECIPE, MESH), task, seed=3)


def network(seed: int = 0) -> MaskedViT:
    torch.manual_seed(seed)
    spec = MaskedViTSpec(patch=PATCH, width=12, depth=1, heads=2, decoder_width=6)
    return MaskedViT(spec, SHAPE).eval()


# ------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("task", [FRONT, DEAD, TaskSpec(layers=4, dead=0.5, block=PATCH)])
def test_what_a_view_hides_changes_nothing_behind_it(task) -> None:
    whole = labelled()
    hidden = ~visible_cells(task, SHAPE, len(whole.showers), 3)
    other = np.where(hidden, whole.showers.dense().energy * 7 + 1, whole.showers.dense().energy)
    changed = replace(whole, showers=RaggedShowers.from_dense(replace(whole.showers.dense(), energy=other)))
    ours, theirs = pool(task, whole), pool(task, changed)
    assert hidden.any() and not np.array_equal(whole.showers.dense().energy, changed.showers.dense().energy)
    np.testing.assert_array_equal(ours.values, theirs.values)
    np.testing.assert_array_equal(log_visible_energy(ours), log_visible_energy(theirs))
    np.testing.assert_array_equal(frozen_features(network(), ours), frozen_features(network(), theirs))
    theirs = replace(theirs, expected=ours.expected)  # of the mean of whole training showers, which are not hidden
    heads = [baseline_heads(p) for p in (ours, theirs)]
    rows = ours.subset(20, 0, 1)
    assert all(heads[0][name](rows) == heads[1][name](rows) for name in heads[0])


def test_the_expected_share_is_that_of_the_mean_of_equal_showers() -> None:
    """The slow twin; and nothing hidden is a share of one."""
    own, whole = pool(DEAD), labelled()
    cut = Transform.from_recipe(RECIPE, MESH).on_mesh(whole.showers)
    energy = cut.dense().energy[: own.train].astype(np.float64)
    mean = np.mean([shower / shower.sum() for shower in energy], axis=0)
    np.testing.assert_allclose(own.expected, [mean[seen].sum() for seen in own.visible])
    np.testing.assert_allclose(pool(TaskSpec()).expected, 1)


def test_every_shower_has_its_own_dead_blocks_and_equally_many() -> None:
    visible = visible_cells(DEAD, SHAPE, 50, 1)
    tokens = visible_tokens(visible, PATCH)
    assert (tokens.sum(axis=1) == 3).all()  # 12 blocks, 9 dead
    assert len(np.unique(tokens, axis=0)) > 20
    assert (visible.sum(axis=(1, 2, 3)) == 3 * np.prod(PATCH)).all()
    np.testing.assert_array_equal(visible, visible_cells(DEAD, SHAPE, 50, 1))


def test_tokens_are_visible_where_one_of_their_cells_is() -> None:
    """The slow twin, for a patch that is no divisor of the dead block's pattern."""
    visible, patch = visible_cells(TaskSpec(layers=3), SHAPE, 2, 0), (2, 8, 2)
    tokens = visible_tokens(visible, patch)
    slow = [visible[0, 2 * i : 2 * i + 2, :, 2 * k : 2 * k + 2].any() for i in range(3) for k in range(3)]
    assert tokens[0].tolist() == slow == [True, True, False] * 3


def test_groups_hold_every_shower_that_shows_a_token_once() -> None:
    tokens = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    found = {tuple(rows): index.tolist() for rows, index in groups(tokens)}
    assert found == {(1,): [[1]], (0, 3): [[0, 2], [1, 2]]}


def test_turned_batches_hold_the_turned_showers() -> None:
    own, net = pool(DEAD), network()
    rows = np.arange(5)
    (still,), (turned,) = (list(token_batches(own, rows, net, turn)) for turn in (0, 1))
    np.testing.assert_array_equal(turned.values, np.roll(still.values, PATCH[1], axis=2))
    moved = [sorted(3 * ((t // 3) // 2 * 2 + (t // 3 + 1) % 2) + t % 3 for t in row) for row in still.tokens.tolist()]
    assert turned.tokens.tolist() == moved


# -------------------------------------------------------------------------------------- linear heads


def test_ridge_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=30)
    for strength, weights in zip((0.1, 10.0), ridge(x, y, np.array([0.1, 10.0])).T, strict=True):
        np.testing.assert_allclose(weights, np.linalg.solve(x.T @ x + strength * np.eye(5), x.T @ y), rtol=1e-10)


def test_a_head_on_features_that_contain_the_label_recovers_it() -> None:
    own, rng = pool(FRONT), np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(len(own), 4)), np.log(own.incident_energy)[:, None]], axis=1)
    rows = own.subset(20, 0, 1)
    energies = own.incident_energy
    inside = own.test_rows[
        (energies[own.test_rows] > energies[rows].min()) & (energies[own.test_rows] < energies[rows].max())
    ]
    assert linear_head(features, energies, rows, own.validation_rows, inside).error < 1e-3
    noise = linear_head(rng.normal(size=(len(own), 4)), energies, rows, own.validation_rows, inside)
    assert noise.error > 0.3


def test_a_head_does_not_see_validation_or_test_labels() -> None:
    own, rng = pool(FRONT), np.random.default_rng(1)
    features, rows, energies = rng.normal(size=(len(own), 4)), own.subset(20, 0, 1), own.incident_energy
    before = linear_head(features, energies, rows, own.validation_rows, own.test_rows)
    other = energies.copy()
    other[own.test_rows] *= 2
    after = linear_head(features, other, rows, own.validation_rows, own.test_rows)
    assert (after.strength, after.validation) == (before.strength, before.validation)
    assert after.error != before.error


def test_constant_features_say_nothing() -> None:
    features = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 7.0]])
    out = standardised(features, np.array([0, 1]))
    np.testing.assert_allclose(out, [[-1, 0], [1, 0], [3, 0]])


def test_subsets_are_training_showers_and_the_same_for_every_arm() -> None:
    own = pool(FRONT)
    first = own.subset(10, 0, 1)
    assert first.max() < own.train and len(set(first.tolist())) == 10
    np.testing.assert_array_equal(first, own.subset(10, 0, 1))
    assert set(first.tolist()) != set(own.subset(10, 1, 1).tolist())
    everything = np.concatenate([np.arange(own.train), own.validation_rows, own.test_rows])
    np.testing.assert_array_equal(everything, np.arange(len(own)))


def test_a_network_learns_the_energy_from_labels_alone() -> None:
    own = pool(FRONT, labelled(120))
    rows = own.subset(60, 0, 1)
    spec = LabelTrainingSpec(labels=(60,), rates=(1e-5, 1e-2), steps=60, batch_size=30, checks=6)
    found = train_from_labels(network(), own, rows, spec, seed=1)
    nothing = relative_error(
        np.full(len(own.test_rows), np.exp(np.log(own.incident_energy[rows]).mean())),
        own.incident_energy[own.test_rows],
    )
    assert found.rate == 1e-2 and found.error < 0.6 * nothing
    assert found == train_from_labels(network(), own, rows, spec, seed=1)


def test_a_zero_shot_head_from_the_same_showers_is_the_ordinary_one() -> None:
    """And from showers of other energies it is another: it is fitted on theirs."""
    own, net = pool(FRONT), network()
    content = {"labels": [20], "pool": 30, "zero_shot": {"data": "other", "labels": 20}, "points": {"p": {}}}
    asked, networks = study(**content, claims=[]), {"pretrained": net}
    ordinary = [r for r in _network_rows(asked, "p_seed1", networks, "front", own) if r["arm"] == "pretrained"]
    shot = list(_zero_shot_rows(asked, "p_seed1", networks, "front", own, networks, own))
    assert [row["error"] for row in shot] == [row["error"] for row in ordinary] and len(shot) == 2
    other = replace(own, incident_energy=own.incident_energy * 3)
    tripled = list(_zero_shot_rows(asked, "p_seed1", networks, "front", own, networks, other))
    assert all(row["error"] > 1 for row in tripled)
    assert not list(_zero_shot_rows(asked, "p_shuffled_seed1", {"shuffled": net}, "front", own, {}, own))


def test_the_whole_pool_is_one_subset_for_every_seed() -> None:
    """More of them would be the same showers again, and the spread over them too small."""
    own, net = pool(FRONT), network()
    spec = {"labels": [30], "rates": [1e-3], "steps": 2, "batch_size": 10, "checks": 1}
    zero_shot = {"data": "other", "labels": 30}
    asked = study(labels=[20, 30], pool=30, subsets=3, zero_shot=zero_shot, from_labels=spec, claims=[])
    networks = {"pretrained": net, "random": net}
    for seed in asked.seeds:
        subject = f"low_seed{seed}"
        found = [*_network_rows(asked, subject, networks, "front", own)]
        found += _zero_shot_rows(asked, subject, networks, "front", own, networks, own)
        subsets = {
            (arm, n): [r["subset"] for r in found if (r["arm"], r["labels"]) == (arm, n)]
            for arm in ("pretrained", "zero_shot", "scratch", "fine_tuned")
            for n in (20, 30)
        }
        assert subsets["pretrained", 20] == [0, 1, 2] and subsets["zero_shot", 20] == [0]
        assert [subsets[arm, 30] for arm in ("pretrained", "zero_shot", "scratch", "fine_tuned")] == [[0]] * 4
    baselines = [r for r in _baseline_rows(asked, "front", own) if r["arm"] == "cell_sum"]
    assert [(r["labels"], r["subset"]) for r in baselines] == [(20, 0), (20, 1), (20, 2), (30, 0)]


# ----------------------------------------------------------------------------------- unseen detectors

CONDITIONING = yaml.safe_load((REPOSITORY / "config" / "experiments" / "detector_conditioning.yaml").read_text())


def told_encoder(kind: str | None) -> TrainedModel:
    """As if trained on SiW, SiPb and SciW of the study's configuration, with weights that tell them apart."""
    config = load_config(CONDITIONING)
    embedding = {"detector_embedding": {"kind": kind}} if kind else {}
    spec = MaskedViTSpec.model_validate({"patch": PATCH, "width": 12, "depth": 1, "heads": 2, **embedding})
    names = ("front_siw", "study_sipb", "study_sciw")
    domains = tuple((name, config.datasets[name].detector) for name in names)
    mesh = config.preprocessing["log"].mesh_after(config.raw_mesh("front_siw"))
    numbers = tuple(descriptor(config.detector(d), mesh.model_copy(update=_sizes(config, n))) for n, d in domains)
    own = Architecture(spec, None, SHAPE, domains, tuple(d for _, d in domains), 0.01, descriptors=numbers)
    network = build_network(own, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return TrainedModel(network.eval(), own, {}, {"run": "encoder"})


def _sizes(config: Config, name: str) -> dict[str, Any]:
    mesh = config.preprocessing["log"].mesh_after(config.raw_mesh(name))
    return {"dr_mm": mesh.dr_mm, "dz_mm": mesh.dz_mm}


@pytest.mark.parametrize("kind", ["one_hot", "descriptor", "learned"])
def test_an_encoder_placed_on_a_detector_that_it_knows_is_the_trained_one(kind) -> None:
    trained, own = told_encoder(kind), pool(FRONT)
    there = placed(trained, load_config(CONDITIONING), "study_sciw", "log")
    (batch,) = token_batches(own, np.arange(5), there)
    told = trained.network.told(torch.full((5,), 2))
    expected = trained.network.encode(batch.values, batch.tokens, told)
    np.testing.assert_allclose(encoded(there, batch).detach(), expected.detach(), atol=1e-6)
    other = trained.network.encode(batch.values, batch.tokens, trained.network.told(torch.zeros(5, dtype=torch.int64)))
    assert (other - expected).abs().max() > 1e-3


def test_an_unseen_detector_is_a_free_slot_the_mean_row_or_its_numbers() -> None:
    config = load_config(CONDITIONING)
    told = {
        kind: placed(told_encoder(kind), config, "study_scipb", "log").told(torch.zeros(1, dtype=torch.int64))
        for kind in ("one_hot", "learned", "descriptor")
    }
    assert told["one_hot"].flatten().tolist() == [0, 0, 0, 1, 0, 0, 0, 0]  # the three before it are taken
    rows = told_encoder("learned").network.detector.rows.weight
    np.testing.assert_allclose(told["learned"][0].detach(), rows.mean(dim=0).detach(), atol=1e-6)
    known = told_encoder("descriptor").network.told(torch.arange(3))
    assert (told["descriptor"] - known).abs().max(dim=1).values.min() > 1e-3


def test_an_encoder_that_is_told_nothing_is_the_same_everywhere() -> None:
    trained = told_encoder(None)
    assert placed(trained, load_config(CONDITIONING), "study_scipb", "log") is trained.network


# ------------------------------------------------------------------------------------------ verdicts


def study(**changes: Any) -> StudySpec:
    content: dict[str, Any] = {
        "question": "Does it help?",
        "axis": "share",
        "data": "siw",
        "pretraining": {"model": {"name": "masked_vit", "patch": [3, 2, 3]}},
        "points": {"low": {"value": 0.1}, "high": {"label": "much", "value": 0.9}},
        "seeds": [1, 2],
        "tasks": {"front": {"layers": 3}},
        "labels": [50],
        "subsets": 2,
        "claims": [
            {"task": "front", "labels": [50], "better": "high/pretrained", "than": ["high/shuffled", "features"]}
        ],
    }
    return StudySpec.model_validate({**content, **changes})


def rows(errors: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """Errors of (point, arm): for seeds 1 and 2 and both subsets; of a baseline for both subsets."""
    found = []
    for (point, arm), values in errors.items():
        keys = [(s, i) for s in (1, 2) for i in (0, 1)] if point else [(None, 0), (None, 1)]
        for (seed, subset), error in zip(keys, values, strict=True):
            found.append(
                {
                    "task": "front",
                    "labels": 50,
                    "point": point,
                    "arm": arm,
                    "seed": seed,
                    "subset": subset,
                    "error": error,
                }
            )
    return found


CLEAR = rows(
    {
        ("low", "pretrained"): [0.30, 0.32, 0.31, 0.33],
        ("low", "shuffled"): [0.30, 0.33, 0.31, 0.32],
        ("high", "pretrained"): [0.20, 0.22, 0.21, 0.23],
        ("high", "shuffled"): [0.28, 0.30, 0.29, 0.31],
        ("", "features"): [0.22, 0.24],
    }
)


def test_a_claim_holds_where_the_difference_exceeds_the_margin() -> None:
    first, second = judged(study(), CLEAR)
    assert first["holds"] and not second["holds"]
    spread = deviation([0.20, 0.22, 0.21, 0.23])
    assert first["margin"] == pytest.approx(2 * spread) and first["difference"] == pytest.approx(0.08)
    assert second["difference"] == pytest.approx(0.015)
    assert second["paired"]["mean"] == pytest.approx(0.015) and second["paired"]["n"] == 4
    assert "**does not hold**: 21.5 ± 1.3 against 23.0 ± 1.4" in verdict(study(), second)
    assert verdict(study(), first).startswith("holds: 21.5 ± 1.3 against 29.5 ± 1.3, difference 8.0, margin 2.6")


def test_other_margins_are_the_larger_spread_times_a_factor() -> None:
    claim = {
        "task": "front",
        "labels": [50],
        "better": "high/pretrained",
        "than": ["features"],
        "margin": "larger_spread",
    }
    (found,) = judged(study(claims=[{**claim, "factor": 0.5}]), CLEAR)
    assert found["margin"] == pytest.approx(0.5 * deviation([0.22, 0.24])) and found["holds"]
    assert "0.5 x the larger spread" in verdict(study(), found)


def test_the_control_is_subtracted_pair_by_pair() -> None:
    low, high = gains(study(), CLEAR)
    assert (low["mean"], high["mean"]) == (pytest.approx(0), pytest.approx(0.08))
    assert high["spread"] == pytest.approx(0, abs=1e-12) and high["n"] == 4
    lone = paired(CLEAR, ("", "features"), ("low", "pretrained"), "front", 50)
    assert lone["mean"] == pytest.approx(0.23 - 0.315)


def test_one_subset_is_paired_with_each_of_the_others() -> None:
    """Of the whole pool of labels there is one."""
    zero_shot = [{**row, "arm": "zero_shot", "subset": 0, "error": 0.1} for row in CLEAR if row["arm"] == "shuffled"][
        ::2
    ]
    found = paired([*CLEAR, *zero_shot], ("high", "pretrained"), ("high", "zero_shot"), "front", 50)
    assert found["n"] == 4 and found["mean"] == pytest.approx(0.215 - 0.1)


def test_cells_tell_spread_over_everything_and_over_seeds() -> None:
    cell = next(c for c in cells(CLEAR) if (c["point"], c["arm"]) == ("high", "pretrained"))
    assert cell["n"] == 4 and cell["seeds"] == 2
    assert cell["spread"] == pytest.approx(np.std([0.20, 0.22, 0.21, 0.23], ddof=1))
    assert cell["seed_spread"] == pytest.approx(np.std([0.21, 0.22], ddof=1))


def test_points_are_ranked_only_where_they_can_be_told_apart() -> None:
    (found,) = ranking(study(), CLEAR)
    assert (found["best"]["point"], found["worst"]["point"], found["equal"]) == ("high", "low", [])
    noisy = rows({("low", "pretrained"): [0.1, 0.1, 0.3, 0.3], ("high", "pretrained"): [0.1, 0.1, 0.2, 0.2]})
    (equal,) = ranking(study(), noisy)
    assert equal["equal"] == ["low"]
    text = findings(study(), metrics_of(study(), noisy))
    assert any("no point can be told from the best one" in line for line in text)
    assert any("best at much" in line for line in findings(study(), metrics_of(study(), CLEAR)))


def test_a_power_law_is_recovered() -> None:
    points = {f"p{i}{j}": {"scale": {"parameters": 10.0**i, "showers": 10.0**j}} for i in (2, 3, 4) for j in (1, 2, 3)}
    own = study(points=points, claims=[])
    errors = {(f"p{i}{j}", "pretrained"): [10 ** (-0.1 * i - 0.2 * j)] * 4 for i in (2, 3, 4) for j in (1, 2, 3)}
    (law,) = power_laws(own, rows(errors))
    assert law["exponents"]["parameters"]["mean"] == pytest.approx(-0.1)
    assert law["exponents"]["showers"]["mean"] == pytest.approx(-0.2)
    told = next(line for line in findings(own, metrics_of(own, rows(errors))) if "error ~" in line)
    assert "showers^(-0.200 ± 0.000)" in told and "falls with parameters and showers" in told


def test_trainings_that_end_before_their_plateau_are_told() -> None:
    late = [{**r, "arm": "scratch", "plateau": r["subset"] == 0} for r in CLEAR if r["arm"] == "pretrained"]
    assert any("in 50% of 4 trainings the best step" in line for line in findings(study(), metrics_of(study(), late)))


def test_the_summary_is_written_from_the_numbers() -> None:
    config = load_config(EXPERIMENT)
    assert config.study is not None
    found = []
    for arm, error in (("pretrained", 0.2), ("shuffled", 0.3), ("random", 0.19)):
        for task in config.study.tasks:
            for n in config.study.labels:
                for seed in config.study.seeds:
                    what = {"task": task, "labels": n, "point": "encoder", "arm": arm, "seed": seed, "subset": 0}
                    found.append({**what, "error": error + 0.001 * seed})
    page = summary(config, metrics_of(config.study, found))
    assert config.study.question in page and "9 x 10 x 15" in page
    assert "| front | 50 | pre-trained, frozen | random, frozen | **does not hold**" in page
    assert "| front | 50 | pre-trained, frozen | pre-trained on permuted cells, frozen | holds" in page
    assert "smallest error 19.2 ± 0.1 by random, frozen." in page
    assert "4 of 8 comparisons" in page


def test_digits_follow_the_spread() -> None:
    assert percent(0.2134, 0.0123) == "21.3 ± 1.2" and percent(0.02134, 0.0005) == "2.13 ± 0.05"


# -------------------------------------------------------------------------------------- configuration


def test_a_study_writes_its_runs() -> None:
    config = load_config(EXPERIMENT)
    assert set(config.runs) == {f"encoder{kind}_seed{seed}" for kind in ("", "_shuffled") for seed in (1, 2, 3)}
    true, control = config.runs["encoder_seed2"], config.runs["encoder_shuffled_seed2"]
    assert isinstance(true.model, MaskedViTSpec) and isinstance(control.model, MaskedViTSpec)
    assert control.model == true.model.model_copy(update={"shuffle_cells": True}) and true.seed == 2
    again = Config.model_validate(config.model_dump(mode="json", exclude_unset=True))
    assert again == config


def test_points_change_single_keys() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "e": 6}) == {"a": {"b": 5, "c": 2}, "d": 3, "e": 6}
    own = study(points={"x": {"change": {"model": {"mask_ratio": 0.5}}}}, claims=[]).runs()
    assert own["x_seed1"]["model"] == {"name": "masked_vit", "patch": [3, 2, 3], "mask_ratio": 0.5}


def test_other_claims_move_no_table_of_errors(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = {**EXPERIMENT, "study": {**EXPERIMENT["study"], "question": "?", "claims": []}}
    fewer = {**EXPERIMENT, "study": {**EXPERIMENT["study"], "subsets": 3}}
    ours, theirs, less = (Plan.discover(load_config(c)) for c in (EXPERIMENT, other, fewer))
    assert ours.probe_key("encoder_seed1") == theirs.probe_key("encoder_seed1") != less.probe_key("encoder_seed1")
    assert ours.study_key() != theirs.study_key()


def change(**keys: Any) -> dict[str, Any]:
    return {**EXPERIMENT, "study": {**EXPERIMENT["study"], **keys}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(data="nothing"), r"study\.data: expected one of \['front_siw'\], got 'nothing'"),
        (change(labels=[50, 100, 300, 9000]), r"labels: expected at most the pool of 1000 showers, got 9000"),
        (
            change(tasks={"front": {"layers": 15}}, claims=[]),
            r"layers: expected less than the 15 behind the recipe, got 15",
        ),
        (change(tasks={"front": {"dead": 0.5}}, claims=[]), r"expected dead and block together, got 0\.5 and None"),
        (
            change(tasks={"front": {"dead": 0.5, "block": [2, 2, 3]}}, claims=[]),
            r"study\.tasks\.front\.block: expected divisors of the mesh \[9, 10, 15\], got \[2, 2, 3\]",
        ),
        (
            change(claims=[{"task": "front", "labels": [50], "than": ["magic"]}]),
            r"claims\.0: expected contestants among .*, got 'magic'",
        ),
        (change(claims=[{"task": "back", "labels": [50], "than": ["random"]}]), r"claims\.0\.task: expected one of"),
        (
            change(from_labels={"labels": [77]}),
            r"from_labels\.labels: expected some of \[50, 100, 300, 1000\], got \[77\]",
        ),
        (
            {**EXPERIMENT, "preprocessing": {"log": [{"rebin": {"factors": [2, 5, 3]}}, "divide_by_incident_energy"]}},
            r"the study predicts 'incident_energy', but recipe 'log' reads it",
        ),
    ],
)
def test_studies_that_cannot_be_are_refused(content, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(content)


@pytest.mark.slow
def test_a_study_runs_from_one_command_to_its_summary(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    content = {**change(seeds=[1, 2]), "smoke": True}
    workspace.configure(content)
    workspace.snakemake()
    results = tmp_path / "results" / "data_efficiency_smoke"
    found = json.loads((results / "study" / "metrics.json").read_text())
    arms = {c["arm"] for c in found["cells"]}
    assert {"pretrained", "shuffled", "random", "scratch", "fine_tuned", "features", "cell_sum"} <= arms
    assert all(0 < c["mean"] < 50 for c in found["cells"])
    page = (results / "study" / "summary.md").read_text()
    assert "## Claims" in page and "hold" in page
    assert (results / "figures" / "study.pdf").stat().st_size > 3000
    assert workspace.jobs() == {}


def test_baselines_are_probed_with_what_their_rule_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = REPOSITORY / "config" / "experiments" / "preprocessing.yaml"  # several recipes; a saved plan sorts its runs
    plan = Plan.discover(load_config(path))
    loaded = Plan.load(plan.save())
    for encoder in plan.probed():
        assert plan.probe_inputs(encoder) == loaded.probe_inputs(encoder)
