"""Studies of generators: the runs that they write, the plateau by validation, and what showers are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_fixtures import make_part, same
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.config import BaselineSampleSpec, Config, ConfigError, GeneratorStudySpec, digest_of, load_config
from pipeline.data.store import training_set
from pipeline.figures.study import study as draw_study
from pipeline.generation.baselines import known_showers
from pipeline.plan import Plan
from pipeline.studies.generators import judged, plateaus, savings, summed
from pipeline.studies.generators_summary import findings, summary
from pipeline.studies.probe import StudyError

EXPERIMENT = yaml.safe_load((REPOSITORY / "config" / "experiments" / "transfer_generator.yaml").read_text())
EXPERIMENT["generator_study"]["showers"] = [30, 100, 300, 900]
SCORE = "features/sliced_wasserstein"


def change(**keys: Any) -> dict[str, Any]:
    return {**EXPERIMENT, "generator_study": {**EXPERIMENT["generator_study"], **keys}}


STUDY = GeneratorStudySpec.model_validate({**EXPERIMENT["generator_study"], "scores": [SCORE]})


def cells(arm: str, means: list[float], spread: float = 0.01) -> list[dict[str, Any]]:
    return [
        {"score": SCORE, "arm": arm, "showers": n, "mean": mean, "spread": spread}
        for n, mean in zip(STUDY.showers, means, strict=True)
    ]


# -------------------------------------------------------------------------------------- configuration


def test_a_generator_study_writes_runs_and_samples() -> None:
    config = load_config(EXPERIMENT)
    assert len(config.runs) == 2 + 4 * 2 * (2 + 3) and len(config.samples) == 4 * 2 * (2 + 3) + 4 + 1
    old, tuned, still = (config.runs[name] for name in ("old_seed2", "fine_tuned_n100_seed2", "zero_shot_n100_seed2"))
    once, thrice = (config.runs[f"scratch_x{k}_n100_seed2"] for k in (1, 3))
    assert tuned.start_from == still.start_from == "old_seed2" and tuned.model is None and once.model == old.model
    assert tuned.training == once.training and thrice.training.samples == 3 * once.training.samples
    assert {run.showers for run in (tuned, still, once, thrice)} == {100} and old.showers is None
    assert config.runs["frozen_n30_seed1"].freeze == "encoder"
    assert config.samples["resampled_n300"] == BaselineSampleSpec(baseline="nearest_energy", showers=300)
    assert Config.model_validate(config.model_dump(mode="json", exclude_unset=True)) == config


def test_zero_shot_moves_no_weight_by_more_than_its_spacing() -> None:
    """AdamW moves a weight by about the rate: less than half the spacing of float32 from 1e-4 on."""
    run = load_config(EXPERIMENT).runs["zero_shot_n30_seed1"]
    assert run.training.samples == run.training.batch_size and run.training.weight_decay == 0
    assert run.training.learning_rate * run.adapt.rate < 0.5 * 1e-4 * 2**-23


def test_what_was_added_later_moves_no_older_sample_or_configuration() -> None:
    plain = BaselineSampleSpec(baseline="nearest_energy")
    assert plain.digest() == "3728a30ded10543b" != plain.model_copy(update={"showers": 30}).digest()
    config = load_config(REPOSITORY / "config" / "test.yaml")
    content = config.model_dump(mode="json")
    assert content.pop("generator_study") is None
    assert config.digest() == digest_of(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(showers=[100, 30]), r"showers: expected rising numbers, got \[100, 30\]"),
        (change(plateau=[3]), r"plateau: expected 1, the equal steps, among the factors, got \[3\]"),
        (change(old="study_scipb"), r"new: expected another data set than old, got 'study_scipb' twice"),
        (change(scores=["hits/mean_ratio"]), r"scores: expected <observable>/ and auc_\.\.\. or one of .*mean_ratio"),
        (change(scores=["features/fpd"]), r"generator_study\.scores: expected metrics that .*, got 'fpd'"),
        (change(new="nothing"), r"generator_study\.new: expected one of .*, got 'nothing'"),
        (
            {**EXPERIMENT, "evaluation": {**EXPERIMENT["evaluation"], "reference": "front_siw"}},
            r"evaluation\.reference: expected 'study_scipb' as in generator_study\.new, got 'front_siw'",
        ),
        (
            {**EXPERIMENT, "samples": {"x": {"baseline": "nearest_energy", "data": "nothing"}}},
            r"samples\.x\.data: expected one of .*, got 'nothing'",
        ),
    ],
)
def test_studies_that_cannot_be_are_refused(content, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(content)


def test_showers_of_another_mesh_are_no_baseline() -> None:
    small = {"cells": [9, 50, 45], "dr_mm": 4.9, "dz_mm": 3.4}
    data = {**EXPERIMENT["datasets"], "front_siw": {**EXPERIMENT["datasets"]["front_siw"], "mesh": small}}
    with pytest.raises(ConfigError, match=r"samples\.old_showers\.data: expected as many cells .*\[9, 50, 45\]"):
        load_config({**EXPERIMENT, "datasets": data})


def test_the_study_waits_for_metrics_and_models(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.discover(load_config(EXPERIMENT))
    assert plan.paths.study in plan.targets() and plan.figures() == ["study"]
    inputs = plan.study_inputs()
    assert inputs[0] == plan.paths.metrics and plan.paths.model("scratch_x3_n900_seed2") in inputs
    others = plan.generate_inputs("old_showers")["others"]
    assert others == plan.part_manifests("front_siw") and "others" not in plan.generate_inputs("resampled_n30")


def test_few_showers_are_those_that_a_run_is_trained_on(tmp_path, make_showers) -> None:
    config = load_config(EXPERIMENT)
    assert config.evaluation is not None
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"rebin": (1, 1, 1)})})
    parts = [make_part(tmp_path, make_showers(120))]
    known = known_showers(config, BaselineSampleSpec(baseline="nearest_energy", showers=30), parts).read()
    assert same(known, training_set(parts, config.splits, limit=30).cut(config.evaluation.threshold_mev))


# ------------------------------------------------------------------------------------------ verdicts


def test_the_plateau_is_chosen_by_the_last_validation_loss_of_each_seed() -> None:
    study = STUDY.model_copy(update={"showers": (30,)})
    losses = {("1", 1): 0.5, ("1", 2): 0.4, ("3", 1): 0.3, ("3", 2): 0.6}
    curves = {
        f"scratch_x{k}_n30_seed{seed}": [
            {"split": "validation", "loss": 0.1},
            {"split": "validation", "loss": loss},
            {"split": "train", "loss": 0.0},
        ]
        for (k, seed), loss in losses.items()
    }
    found = plateaus(study, curves)
    assert [(p["seed"], p["factor"]) for p in found] == [(1, 3), (2, 1)] and found[0]["losses"] == {"1": 0.5, "3": 0.3}


def test_a_spread_holds_seeds_and_the_metrics_own_error() -> None:
    found = summed([{"value": 1.0, "error": 0.3}, {"value": 1.8, "error": 0.5}])
    assert found["mean"] == pytest.approx(1.4) and found["seed_spread"] == pytest.approx(0.8 / 2**0.5)
    assert found["spread"] == pytest.approx((0.32 + 0.16) ** 0.5)


def test_showers_saved_are_read_off_a_power_law() -> None:
    """Scratch 1 - 0.1 ln N and fine-tuned the same at 3 N: the factor is 3 wherever the curve goes that far."""
    import math

    scratch = [2 - 0.2 * math.log(n) for n in STUDY.showers]
    tuned = [2 - 0.2 * math.log(3 * n) for n in STUDY.showers]
    found = savings(STUDY, [*cells("plateau", scratch), *cells("fine_tuned", tuned)])
    assert [s["factor"] for s in found[:3]] == pytest.approx([3, 3, 3])
    assert found[0]["low"] == pytest.approx(3 * math.exp(-0.05)) and found[0]["high"] == pytest.approx(
        3 * math.exp(0.05)
    )
    assert found[3]["factor"] is None and found[3]["more_than"] == 1 and "no network" in found[3]["why"]


@pytest.mark.parametrize(
    ("scratch", "tuned", "why"),
    [
        ([0.4, 0.3, 0.25, 0.2], [0.39, 0.3, 0.25, 0.2], "not better than scratch"),
        ([0.4, 0.3, 0.35, 0.2], [0.25, 0.25, 0.25, 0.2], "does not fall"),
        ([0.4, 0.3, 0.25, 0.2], [0.19, 0.19, 0.19, 0.19], "within the spreads of its end"),
    ],
)
def test_no_factor_stands_where_the_curves_allow_none(scratch, tuned, why) -> None:
    first = savings(STUDY, [*cells("plateau", scratch), *cells("fine_tuned", tuned)])[0]
    assert first["factor"] is None and why in first["why"]


def rows() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Fine-tuning is clearly better than scratch at 30 showers, and not at 900; resampling beats all."""
    values = {"fine_tuned": 0.2, "frozen": 0.3, "zero_shot": 0.5, "resampled": 0.1}
    scratch = {30: 0.5, 100: 0.4, 300: 0.3, 900: 0.21}
    made = [("floor", 0.06), ("old_showers", 0.7)]
    for name, (arm, _, n, seed) in STUDY.trained().items():
        made.append((name, values.get(arm, scratch[n]) + 0.001 * seed))
    made += [(f"resampled_n{n}", 0.1) for n in STUDY.showers]
    metric = {"observable": "features", "metric": "sliced_wasserstein", "selection": "all", "error": 0.01}
    losses = {name: [{"split": "validation", "loss": 1.0 + ("x3" in name)}] for name in STUDY.trained()}
    return [{"sample": name, "value": value, **metric} for name, value in made], losses


def test_the_page_is_written_from_the_numbers() -> None:
    found = judged(STUDY, *rows())
    by = {(c["showers"], c["than"]): c["holds"] for c in found["claims"]}
    assert by[30, "plateau"] and not by[900, "plateau"] and not by[30, "resampled"] and by[30, "zero_shot"]
    text = " ".join(findings(found))
    assert "N = 30: fine-tuning reaches what scratch reaches with " not in text  # below the end of the curve, within it
    assert "N = 900: no factor of showers saved, since fine-tuning is not better than scratch" in text
    assert "the best network is fine-tuned with 0.202 ± 0.010, above the 30 showers resampled (0.100 ± 0.010)" in text
    assert "(3 x) has the smallest validation loss in 0 of 8 cases: all reached their plateau" in text
    page = summary(load_config(change(scores=[SCORE])), found)
    assert "| Geant4 against Geant4 | 0.060 ± 0.010 |" in page and "## Claims" in page
    figure, numbers = draw_study({"study": found})
    assert len(figure.axes) == 1 and len(numbers["cells"]) == 6 * 4


def test_a_score_that_was_not_measured_is_left_out_and_named() -> None:
    measured, losses = rows()
    study = STUDY.model_copy(update={"scores": (SCORE, "classifier/auc_small_features")})
    few = [{**row, "observable": "classifier", "metric": "auc_small_features", "value": None} for row in measured]
    found = judged(study, [*measured, *few], losses)
    assert found["scores"] == [SCORE] and found["unmeasured"] == ["classifier/auc_small_features"]
    assert any("auc_small_features: not measured" in line for line in findings(found))
    with pytest.raises(StudyError, match="expected enough showers to measure one of features/sliced_wasserstein, got"):
        judged(STUDY, [{**row, "value": None} for row in measured], losses)


@pytest.mark.slow
def test_a_generator_study_runs_from_one_command_to_its_summary(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.configure({**change(showers=[30], plateau=[1]), "smoke": True})
    workspace.snakemake()
    results = tmp_path / "results" / "transfer_generator_smoke"
    found = json.loads((results / "study" / "metrics.json").read_text())
    assert {c["arm"] for c in found["cells"]} == {
        "fine_tuned",
        "frozen",
        "zero_shot",
        "plateau",
        "scratch",
        "resampled",
    }
    assert found["unmeasured"] == ["features/sliced_wasserstein", "classifier/auc_small_features"]
    assert "## Claims" in (results / "study" / "summary.md").read_text()
    assert (results / "figures" / "study.pdf").stat().st_size > 3000
    assert workspace.jobs() == {}
