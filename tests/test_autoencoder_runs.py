"""VAE, tokenizer and prior as runs: they learn, resume exactly, and make showers through the stage `generate`."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import yaml
from training_fixtures import CONTENT, TRAINING, make_toy_experiment
from workflow_fixtures import REPOSITORY, Workspace

import pipeline.training.trainer as trainer
from pipeline.config import ConfigError, SamplingSpec, load_config
from pipeline.data.store import Part, held_out
from pipeline.generation.generate import generate
from pipeline.generation.model import GenerationError, GenerativeModel
from pipeline.models import build_network
from pipeline.training.adaptation import start_from
from pipeline.training.checkpoint import load_model
from pipeline.training.trainer import train

SMALL = {"width": 24, "depth": 1, "heads": 2}
ENERGIES = {"width": 16, "depth": 1, "steps": 4}
RUN = {"data": ["toy"], "recipe": "coarse", "training": {**TRAINING, "augment": {"reflect_phi": True}}}
RUNS = {
    "vae": {**RUN, "model": {"name": "vae", "patch": [3, 5, 1], "latent": 4, "layer_energies": ENERGIES, **SMALL}},
    "codes": {
        **RUN,
        "model": {
            "name": "vqvae",
            "patch": [3, 5, 1],
            "sees": "layers_before",
            "codebook": {"kind": "learned", "codes": 12, "width": 3, "decay": 0.8, "renew_below": 0.2},
            **SMALL,
        },
    },
    "prior": {**RUN, "model": {"name": "autoregressive", "tokenizer": "codes", "layer_energies": ENERGIES, **SMALL}},
}
SAMPLES = {
    "by_vae": {"run": "vae"},
    "by_codes": {"run": "prior", "temperature": 0.9, "top_k": 10, "top_p": 0.95},
    "completed": {"run": "prior", "given_layers": 2},
}
OUTPUTS = ("model.json", "model.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The toy experiment, its configuration with the runs above, and where they are trained."""
    toy, where = make_toy_experiment(tmp_path_factory.mktemp("toy")), tmp_path_factory.mktemp("models")
    config = toy.config(runs=RUNS, samples=SAMPLES)
    for run in RUNS:
        train(toy.request(run, where, config))
    return toy, where, config


def truth_of(toy, config):
    return held_out([Part.open(p) for p in toy.parts], config.splits, "reference", 20)


@pytest.mark.parametrize("run", ["vae", "codes"])
def test_a_killed_training_goes_on_to_the_same_bytes(trained, tmp_path, monkeypatch, run):
    """Moving averages of codes, renewed codes and the KL's schedule are part of the state."""
    toy, where, config = trained
    request, real = toy.request(run, tmp_path, config), trainer.step

    def step(request, state, *rest):
        if state.samples == 64:
            raise KeyboardInterrupt
        return real(request, state, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "step", step)
        train(request)
    train(request)
    for name in OUTPUTS:
        assert (request.folder / name).read_bytes() == (where / run / name).read_bytes()


def test_metrics_tell_of_the_bottleneck(trained):
    _, where, _ = trained
    rows = {run: [json.loads(x) for x in (where / run / "metrics.jsonl").read_text().splitlines()] for run in RUNS}
    assert all(row["kl_nats"] > 0 and row["active_dimensions"] >= 1 for row in rows["vae"])
    assert all(1 <= row["code_perplexity"] <= row["codes_used"] <= 12 for row in rows["codes"])
    assert {row["collapsed"] for row in rows["codes"] if row["split"] == "validation"} <= {0.0, 1.0}
    assert all("collapsed" not in row for row in rows["prior"])
    for row in rows["vae"]:
        assert row["loss"] == pytest.approx(row["cells_nll"] + row["kl"] + row.get("layer_energies", 0), rel=1e-5)


def test_a_prior_carries_its_tokenizer(trained):
    _, where, _ = trained
    tokenizer, prior = (load_model(where / run / "model.json") for run in ("codes", "prior"))
    inside = prior.network.showers.tokenizer.state_dict()
    assert all(torch.equal(inside[name], value) for name, value in tokenizer.network.state_dict().items())
    assert prior.manifest["lineage"]["model_parents"]["tokenizer"]["run"] == "codes"


def test_a_tokenizer_that_goes_on_keeps_its_codes(trained):
    _, where, _ = trained
    parent = load_model(where / "codes" / "model.json")
    network = build_network(parent.architecture, seed=9)
    start_from(network, parent)
    assert torch.equal(network.codebook.vectors, parent.network.codebook.vectors)


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_stage_makes_the_showers_of_the_model(trained, tmp_path, sample):
    toy, where, config = trained
    spec = config.samples[sample]
    for name in "ab":
        generate(config, sample, where / spec.run / "model.json", toy.parts, tmp_path / f"{name}.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    made = GenerativeModel.load(where / spec.run / "model.json", "toy").sample(truth_of(toy, config), 1, spec=spec)
    with h5py.File(tmp_path / "a.h5") as handle:
        raw = handle["showers"][:].reshape(20, *reversed(made.mesh.shape)).transpose(0, 3, 2, 1)
    assert np.array_equal(raw, made.energy)
    assert made.energy[made.energy > 0].min() >= 0.05 * (1 - 1e-6) and (made.visible_energy > 0).all()


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_shower_does_not_depend_on_those_beside_it(trained, sample):
    toy, where, config = trained
    spec, truth = config.samples[sample], truth_of(toy, config)
    model = GenerativeModel.load(where / spec.run / "model.json", "toy")
    whole = model.sample(truth, 1, spec=spec, block=20)
    assert np.array_equal(model.sample(truth.take(np.arange(6)), 1, spec=spec, block=20).energy, whole.energy[:6])
    assert not np.array_equal(model.sample(truth, 2, spec=spec, block=20).energy, whole.energy)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_completion_keeps_the_given_layers_exactly(trained, layers):
    toy, where, config = trained
    truth = truth_of(toy, config)
    model = GenerativeModel.load(where / "prior" / "model.json", "toy")
    made = model.sample(truth, 1, spec=SamplingSpec(given_layers=layers))
    exact = truth.rebin((2, 2, 1)).cut(0.05).dense().energy
    assert np.array_equal(made.energy[..., :layers], exact[..., :layers])
    assert not np.array_equal(made.energy[..., layers:], exact[..., layers:])
    behind = made.energy[..., layers:].sum(axis=(1, 2, 3))
    assert np.median(behind / exact[..., layers:].sum(axis=(1, 2, 3))) == pytest.approx(1, abs=0.5)


def test_a_completion_draws_its_layer_energies_as_it_is_told(trained):
    toy, where, config = trained
    model, truth = GenerativeModel.load(where / "prior" / "model.json", "toy"), truth_of(toy, config)
    calls = []
    assert model.network.energies is not None
    hook = model.network.energies.register_forward_hook(lambda *_: calls.append(1))
    spec = SamplingSpec(given_layers=2, energy_steps=8, energy_sampler="dpm_solver")
    model.sample(truth.take(np.array([0])), 1, spec=spec, block=1)
    hook.remove()
    assert len(calls) == 2 * 8  # once for whole showers, once for the candidates


def test_only_a_prior_completes_showers(trained):
    toy, where, config = trained
    truth, spec = truth_of(toy, config), SamplingSpec(given_layers=2)
    vae = GenerativeModel.load(where / "vae" / "model.json", "toy")
    with pytest.raises(GenerationError, match="expected an autoregressive model to complete showers with, got vae"):
        vae.sample(truth, 1, spec=spec)
    prior = GenerativeModel.load(where / "prior" / "model.json", "toy")
    with pytest.raises(GenerationError, match="expected RaggedShowers that begin what is to be completed, got Showers"):
        prior.sample(truth.dense(), 1, spec=spec)
    with pytest.raises(GenerationError, match="expected fewer than the network's 6 layers, got 6"):
        prior.sample(truth, 1, spec=replace_given(spec, 6))


def replace_given(spec: SamplingSpec, layers: int) -> SamplingSpec:
    return spec.model_copy(update={"given_layers": layers})


@pytest.mark.parametrize(
    ("runs", "samples", "message"),
    [
        (
            {"prior": {**RUNS["prior"], "model": {**RUNS["prior"]["model"], "tokenizer": "vae"}}},
            {},
            r"runs\.prior\.model\.tokenizer: expected a run of a vqvae, got 'vae' of a vae",
        ),
        (
            {"prior": {**RUNS["prior"], "recipe": "other"}},
            {},
            r"runs\.prior\.model\.tokenizer: expected data \['toy'\] and recipe 'other' as the run has, got .*'coarse'",
        ),
        (
            {"prior": {**RUNS["prior"], "model": {**RUNS["prior"]["model"], "layer_energies": None}}},
            {},
            r"runs\.prior\.model\.layer_energies: expected an energy network, since 'codes' reads layer energies",
        ),
        (
            {"codes": {**RUNS["codes"], "model": {**RUNS["codes"]["model"], "patch": [3, 5, 3], "grid": [1, 1, 4]}}},
            {},
            r"runs\.codes\.model\.grid: expected at most 2 codes along z, one for each patch, got 4; take shorter",
        ),
        (
            {},
            {"x": {"run": "vae", "given_layers": 2}},
            r"samples\.x\.given_layers: expected a run of an autoregressive model, got 'vae'",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_together_is_refused(runs, samples, message):
    recipes = {**CONTENT["preprocessing"], "other": CONTENT["preprocessing"]["coarse"]}
    content = {**CONTENT, "preprocessing": recipes, "runs": {**RUNS, **runs}, "samples": samples}
    with pytest.raises(ConfigError, match=message):
        load_config(content)


@pytest.mark.slow
def test_the_workflow_on_codes_runs_and_finds_nothing_to_do_again(tmp_path):
    """config/test_tokens.yaml: a tokenizer in two slices, the prior behind it, and a completion, to the report."""
    workspace = Workspace(tmp_path)
    workspace.configure(yaml.safe_load((REPOSITORY / "config" / "test_tokens.yaml").read_text()))
    workspace.snakemake()
    assert workspace.jobs() == {}
    rows = json.loads((tmp_path / "results" / "test_tokens" / "metrics.json").read_text())
    assert {"by_vae", "by_codes", "completed"} <= {row["sample"] for row in rows}
