"""The configuration: what is refused, with which words, and what smoke and digests mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import reference
from pipeline.config import Config, ConfigError, MeshSpec, RecipeSpec, load_config

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = sorted([*(REPOSITORY / "config").glob("*.yaml"), *(REPOSITORY / "config/experiments").glob("*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_configurations_are_valid_also_as_smoke(path) -> None:
    config = load_config(path)
    smoked = Config.model_validate({**config.model_dump(mode="json", exclude_unset=True), "smoke": True}).smoked()
    assert smoked.experiment == f"{config.experiment}_smoke"
    assert set(smoked.runs) == set(config.runs)
    assert all(run.training.samples == 20 * run.training.batch_size for run in smoked.runs.values())


def test_reference_page_is_up_to_date() -> None:
    """Made by: caloforge config reference > config/README.md"""
    assert (REPOSITORY / "config" / "README.md").read_text() == reference.as_markdown()


def test_all_errors_at_once(test_config) -> None:
    test_config["evaluation"]["showerz"] = 3
    test_config["splits"]["train"] = 0.9
    with pytest.raises(ConfigError) as caught:
        load_config(test_config)
    assert "2 errors" in str(caught.value)
    assert "evaluation.showerz: unknown key" in str(caught.value)
    assert "sum to 1, got 1.4" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["runs"]["energy"].update(start_from="nobody"), "runs.energy.start_from: expected one of"),
        (lambda c: c["runs"]["energy"].update(recipe="nothing"), "runs.energy.recipe: expected one of"),
        (lambda c: c.update(figures={"samples": ["nobody"]}), "figures.samples: expected one of .*, got 'nobody'"),
        (lambda c: c["runs"]["representation"].update(start_from="energy"), "expected a chain that ends, got a circle"),
        (lambda c: c["datasets"]["test_siw"].update(detector="LHC"), "expected one of .*'SiW'.*, got 'LHC'"),
        (lambda c: c["runs"]["generator"]["model"].update(patch=[4, 10, 1]), "expected a divisor of the mesh"),
        (
            lambda c: c["runs"]["representation"]["model"].update(width=4, heads=2),
            "runs.representation.model.width: expected at least 6, a sine and a cosine for each direction .*, got 4",
        ),
        (
            lambda c: c["runs"]["representation"]["model"].update(decoder_width=2, heads=2),
            "runs.representation.model.decoder_width: expected at least 6, .*, got 2; take",
        ),
        (
            lambda c: c["runs"]["generator"]["model"].update(width=5, heads=1),
            "runs.generator.model.width: expected at least 6, .*, got 5; take a wider network",
        ),
        (
            lambda c: c["runs"]["generator"]["model"].update(heads=7),
            r"runs.generator.model.heads: expected a divisor of the width \d+, got 7; take fewer heads",
        ),
        (
            lambda c: c["runs"]["representation"]["model"].update(width=24, decoder_width=12, heads=6, rotary=True),
            "runs.representation.model.rotary: expected an even number of at least 6 of the width for each head, got 4",
        ),
        (lambda c: c["evaluation"].update(rebin=[4, 5, 3]), "evaluation.rebin: expected divisors"),
        (lambda c: c["samples"]["generator"].update(run="energy"), "expected a run of a generative model"),
        (
            lambda c: (
                c["datasets"].update(other=c["datasets"]["test_siw"]) or c["evaluation"].update(reference="other")
            ),
            "expected a run trained on evaluation.reference 'other'",
        ),
        (
            lambda c: (
                c["datasets"]["test_siw"]["simulate"].update(angle_deg=70)
                or c["datasets"]["test_siw"].update(angle_deg=70)
            ),
            "rotation is exact at 90 degrees only",
        ),
        (
            lambda c: c["datasets"]["test_siw"].pop("simulate") and c["datasets"]["test_siw"].pop("files"),
            "expected 'files' or 'simulate', got neither",
        ),
        (
            lambda c: c["preprocessing"].update(log=[{"log": {}}, {"rebin": {"factors": [2, 5, 3]}}]),
            "rebin acts on MeV and must stand before log",
        ),
        (lambda c: c["preprocessing"].update(log=["standardise", "standardise"]), "expected standardise at most once"),
        (
            lambda c: c["preprocessing"].update(log=["log", "divide_by_largest_shower"]),
            "divide_by_largest_shower acts on MeV and must stand before log",
        ),
        (
            lambda c: c["preprocessing"].update(log=["divide_by_quantile", "layer_fractions"]),
            "layer_fractions acts on MeV and must stand before divide_by_quantile",
        ),
        (
            lambda c: c["preprocessing"].update(log=["layer_fractions", "logit", "noise"]),
            "noise acts on energies or their fractions and must stand before logit",
        ),
    ],
)
def test_what_cannot_work_is_refused(test_config, change, message) -> None:
    change(test_config)
    with pytest.raises(ConfigError, match=message):
        load_config(test_config)


def test_a_generator_needs_a_recipe_with_an_inverse(test_config) -> None:
    test_config["preprocessing"]["log"].insert(2, "layer_fractions")
    load_config(test_config)
    test_config["runs"]["generator"]["model"]["layer_energies"] = None
    with pytest.raises(ConfigError, match=r"samples.generator.run: expected a recipe with an inverse, got 'log'"):
        load_config(test_config)


def test_a_head_may_not_see_its_label_in_its_recipe(test_config) -> None:
    test_config["preprocessing"]["log"].insert(2, "divide_by_incident_energy")
    with pytest.raises(ConfigError, match="predicts 'incident_energy', but recipe 'log' of run 'representation'"):
        load_config(test_config)


def test_a_head_may_not_see_its_label_through_its_parents_conditions(test_config) -> None:
    test_config["runs"]["energy"]["start_from"] = "generator"
    with pytest.raises(ConfigError, match="run 'generator' is conditioned on it"):
        load_config(test_config)


def test_a_sample_may_not_have_the_name_of_a_head(test_config) -> None:
    test_config["samples"]["energy"] = test_config["samples"].pop("generator")
    with pytest.raises(ConfigError, match=r"samples\.energy: the name is taken"):
        load_config(test_config)


def test_a_step_without_options_in_a_mapping_is_explained(test_config) -> None:
    test_config["preprocessing"]["log"][0] = {"rebin": 2}
    with pytest.raises(ConfigError, match="rebin: expected the step's options"):
        load_config(test_config)


def test_yaml_errors_name_the_file(tmp_path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("experiment: [")
    with pytest.raises(ConfigError, match=r"broken.yaml: expected YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"nowhere.yaml: expected a configuration file, found none"):
        load_config(tmp_path / "nowhere.yaml")


def test_yaml_tags_are_not_executed(tmp_path) -> None:
    path = tmp_path / "tag.yaml"
    path.write_text("experiment: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="expected YAML"):
        load_config(path)


def test_recipe_short_form_and_mesh() -> None:
    recipe = RecipeSpec.model_validate([{"rebin": {"factors": [2, 5, 3]}}, "standardise"])
    assert [step.name for step in recipe.steps] == ["rebin", "standardise"]
    assert recipe.mesh_after(MeshSpec(cells=(18, 50, 45), dr_mm=1, dz_mm=1)).cells == (9, 10, 15)
    assert RecipeSpec.model_validate(recipe.model_dump(mode="json")) == recipe


def test_digest_depends_on_content_only() -> None:
    first = RecipeSpec.model_validate([{"log": {"epsilon_mev": 0.001}}])
    assert first.digest() == RecipeSpec.model_validate([{"log": {}}]).digest()
    assert first.digest() != RecipeSpec.model_validate([{"log": {"epsilon_mev": 0.002}}]).digest()


def test_explain_names_keys() -> None:
    assert "showers seen in total" in reference.explain("runs.training.samples")
    assert reference.explain("runs.mine.training.samples") == reference.explain("runs.training.samples")


def test_explain_names_steps_and_models() -> None:
    text = reference.explain("preprocessing.divide_by_quantile")
    assert text == reference.explain("preprocessing.mine.divide_by_quantile")
    assert "q-quantile of the non-zero cells" in text and ".q: number" in text and "log1p" not in text
    assert "<diffusion>" in reference.explain("runs.model.diffusion")
    assert "<noise>" in reference.explain("preprocessing")


def test_explain_refuses_what_is_no_key() -> None:
    with pytest.raises(ConfigError, match="expected a key"):
        reference.explain("runs.nothing")
