"""Training: exact resume, slices, loaders that agree, losses that fall, and clear errors."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import CONTENT, ToyExperiment, make_toy_experiment

import pipeline.training.trainer as trainer
from pipeline.data.store import Part
from pipeline.models import build_network
from pipeline.provenance import read_json
from pipeline.training.adaptation import AdaptationError, architecture_from, start_from
from pipeline.training.checkpoint import CheckpointError, load_model
from pipeline.training.datasets import training_loader
from pipeline.training.fitting import fit_buffers
from pipeline.training.interruption import TrainingInterrupted
from pipeline.training.objectives import LOSSES, gaussian_nll, hit_nll, total
from pipeline.training.reconstruction import masked_error
from pipeline.training.request import TrainingError, TrainRequest, architecture_of, fitted_transforms
from pipeline.training.trainer import learning_rate, train

OUTPUTS = ("model.json", "model.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def generator(toy, tmp_path_factory) -> TrainRequest:
    """The generator, trained without interruption."""
    request = toy.request("generator", tmp_path_factory.mktemp("whole"))
    train(request)
    return request


def outputs(request: TrainRequest) -> dict[str, bytes]:
    return {name: (request.folder / name).read_bytes() for name in OUTPUTS}


# ---------------------------------------------------------------------------------- objectives


def test_likelihoods_match_torch():
    mean, log_variance, target = torch.randn(3, 50).unbind()
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = -normal.log_prob(target) - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(gaussian_nll(mean, log_variance, target), expected, atol=1e-5)
    hit = torch.rand(50) < 0.5
    bernoulli = -torch.distributions.Bernoulli(logits=mean).log_prob(hit.float())
    both = hit_nll(mean, mean, 0.5 * log_variance, hit, target)
    assert torch.allclose(both, bernoulli + torch.where(hit, expected, 0), atol=1e-5)


def test_reconstruction_counts_hidden_tokens_only():
    prediction, target = torch.randn(2, 2, 4, 3).unbind()
    hidden = torch.tensor([[True, False, False, True], [False, False, True, False]])
    assert torch.allclose(masked_error(prediction, target, hidden), (prediction - target)[hidden].square().mean())


def test_the_learning_rate_warms_up_and_ends_at_zero(toy):
    spec = toy.config().runs["generator"].training
    rates = [learning_rate(spec, samples, 96) for samples in range(0, 97, 16)]
    assert rates[0] == pytest.approx(0.5e-3) and max(rates) == rates[1] and rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("run", "factor"), [("generator", 0.8), ("pixels", 0.8), ("representation", 0.7)])
def test_overfitting_a_batch_lowers_the_loss(toy, tmp_path, run, factor):
    request = toy.request(run, tmp_path)
    transforms = fitted_transforms(request)
    loader = training_loader(request, transforms)
    network = build_network(architecture_of(request, transforms), 1)
    fit_buffers(network, loader, transforms, 1)
    batch = loader.training_batch(0, 8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for i in range(150):
        loss = total(LOSSES[type(network)](network, batch, torch.Generator().manual_seed(i % 5)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < factor * np.mean(losses[:5])


# ------------------------------------------------------------------------------------- trainer


def test_the_same_training_gives_the_same_bytes(toy, generator, tmp_path):
    again = toy.request("generator", tmp_path)
    train(again)
    assert outputs(again) == outputs(generator)


@pytest.mark.parametrize("killed_at", [16, 32, 64, 80])
def test_a_killed_training_goes_on_to_the_same_bytes(toy, generator, tmp_path, monkeypatch, killed_at):
    request, real = toy.request("generator", tmp_path), trainer.step

    def step(request, state, batches, end):
        if state.samples == killed_at:
            raise KeyboardInterrupt
        return real(request, state, batches, end)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "step", step)
        train(request)
    train(request)
    assert outputs(request) == outputs(generator)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_training_asked_to_stop_leaves_a_checkpoint(toy, generator, tmp_path, monkeypatch, number):
    request, real, steps = toy.request("generator", tmp_path), trainer.step, []

    def step(request, state, loader, end):
        steps.append(state.samples)
        if len(steps) == 5:
            os.kill(os.getpid(), number)
        return real(request, state, loader, end)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "step", step)
        with pytest.raises(TrainingInterrupted, match=rf"stopped by {number.name} after \d+ showers, with"):
            train(request)
    assert len(steps) == 5
    assert int(max(request.folder.rglob("*.pt")).stem) == 5 * request.spec.training.batch_size
    assert signal.getsignal(number) is not None
    train(request)
    assert outputs(request) == outputs(generator)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(toy, generator, tmp_path, caplog):
    request = toy.request("generator", tmp_path)
    shutil.copytree(generator.folder / "checkpoints", request.folder / "checkpoints")
    newest = max(request.folder.rglob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    train(request)
    assert "expected a checkpoint, found a damaged file" in caplog.text
    assert outputs(request) == outputs(generator)


def test_two_checkpoints_are_kept(generator):
    assert [path.name for path in sorted(generator.folder.rglob("*.pt"))] == ["000000000064.pt", "000000000096.pt"]


def test_four_slices_give_the_bytes_of_one(toy, generator, tmp_path):
    for k in range(1, 5):
        request = toy.request("generator", tmp_path, part=(k, 4))
        train(request)
        assert (request.folder / "slice-1.json").exists()
        assert request.manifest.exists() == (k == 4)
    assert read_json(request.folder / "slice-2.json")["samples"] == 48
    assert outputs(request) == outputs(generator)


def test_an_earlier_slice_can_run_again(toy, tmp_path):
    first = toy.request("generator", tmp_path, part=(1, 4))
    train(first)
    manifest = (first.folder / "slice-1.json").read_bytes()
    train(toy.request("generator", tmp_path, part=(2, 4)))
    (first.folder / "slice-1.json").unlink()
    train(first)
    assert (first.folder / "slice-1.json").read_bytes() == manifest


def test_metrics_hold_the_whole_run(generator):
    rows = [json.loads(line) for line in (generator.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows if row["split"] == "train"] == [16, 32, 48, 64, 80, 96]
    assert [row["samples"] for row in rows if row["split"] == "validation"] == [48, 96]
    validated = next(row for row in rows if row["split"] == "validation")
    assert {"cells_nll", "layer_energies"} <= validated.keys()
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_a_loss_that_is_not_finite_stops_before_the_step(toy, tmp_path, monkeypatch):
    request = toy.request("generator", tmp_path)
    monkeypatch.setattr(trainer, "losses", lambda *_: {"cells_nll": torch.tensor(float("nan"), requires_grad=True)})
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("the optimiser took a step"))
    with pytest.raises(TrainingError, match=r"runs\.generator: expected a finite loss after 0 showers.*learning_rate"):
        train(request)
    assert not request.manifest.exists()
    record = read_json(request.folder / "checkpoints" / "nonfinite-0.json")
    assert record["samples"] == 0 and len(record["showers"]) == request.spec.training.batch_size


def test_a_diffusion_needs_a_standardised_recipe(toy, tmp_path):
    bare = {"bare": [*CONTENT["preprocessing"]["coarse"][:3]], **CONTENT["preprocessing"]}
    runs = {**CONTENT["runs"], "generator": {**CONTENT["runs"]["generator"], "recipe": "bare"}}
    request = toy.request("generator", tmp_path, toy.config(preprocessing=bare, runs=runs))
    state = read_json(toy.transform)
    (tmp_path / "bare.json").write_text(
        json.dumps({**state, "fitted": None, "recipe": {**state["recipe"], "steps": state["recipe"]["steps"][:3]}})
    )
    with pytest.raises(TrainingError, match=r"runs\.generator\.recipe: expected a recipe that ends in standardise"):
        train(replace(request, transforms={"toy": tmp_path / "bare.json"}))


def test_rotation_of_slanted_showers_is_refused(toy, tmp_path, monkeypatch):
    request = toy.request("generator", tmp_path)
    monkeypatch.setattr(Part, "theta", property(lambda part: np.radians(np.linspace(90, 70, part.n_showers))))
    with pytest.raises(
        TrainingError,
        match=r"runs\.generator\.training\.augment\.rotate_phi.*90.*at 7[0-2].* degrees in data set 'toy'; set",
    ):
        training_loader(request, fitted_transforms(request))


# ---------------------------------------------------------------------- checkpoints, adaptation


def test_a_model_loads_with_its_transform_and_lineage(toy, generator):
    model = load_model(generator.manifest)
    assert model.domain("toy") == 0
    assert model.transforms["toy"].state() == fitted_transforms(generator)[0].state()
    assert model.manifest["lineage"]["parts"]["toy"] == [Part.open(p).digest for p in toy.parts]
    assert not any(p.requires_grad and p.grad is not None for p in model.network.parameters())


def test_changed_weights_are_refused(generator, tmp_path):
    for name in OUTPUTS[:2]:
        shutil.copy(generator.folder / name, tmp_path / name)
    with open(tmp_path / "model.safetensors", "ab") as handle:
        handle.write(b"x")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected weights of digest .* train again"):
        load_model(tmp_path / "model.json")


def test_a_missing_model_and_an_unknown_data_set_are_named(generator, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.json: expected a trained model"):
        load_model(Path(tmp_path / "none.json"))
    with pytest.raises(CheckpointError, match=r"expected one trained on 'other', got one of \['toy'\]"):
        load_model(generator.manifest).domain("other")


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_a_head_starts_from_the_representation(toy, tmp_path, freeze):
    runs = {**CONTENT["runs"], "energy": {**CONTENT["runs"]["energy"], "freeze": freeze}}
    config = toy.config(runs=runs)
    for run in ("representation", "energy"):
        train(toy.request(run, tmp_path, config))
    parent, child = (load_file(tmp_path / run / "model.safetensors") for run in ("representation", "energy"))
    same = torch.equal(parent["embed.weight"], child["backbone.embed.weight"])
    assert same == (freeze == "encoder")
    assert torch.allclose(parent["embed.weight"], child["backbone.embed.weight"], atol=0.02)
    lineage = read_json(tmp_path / "energy" / "model.json")["lineage"]["parent"]
    assert lineage["run"] == "representation"


def test_a_new_detector_starts_at_the_mean_of_the_known_ones(generator):
    parent = load_model(generator.manifest)
    own = replace(parent.architecture, domains=(("other", "New"),), detectors=("New",))
    grown = architecture_from(parent.architecture, own)
    network = build_network(grown, 5)
    assert start_from(network, parent) == []
    known, new = network.showers.conditions.detector.weight
    assert grown.detectors == ("Toy", "New") and grown.detector_of == [1]
    assert torch.equal(new, known) and torch.equal(known, parent.network.showers.conditions.detector.weight[0])


def test_a_parent_of_another_shape_is_refused(generator):
    parent = load_model(generator.manifest).architecture
    expected = r"start_from: expected the parent's network \(diffusion on \(3, 5, 6\)\)"
    with pytest.raises(AdaptationError, match=expected):
        architecture_from(parent, replace(parent, shape=(3, 5, 3)))


@pytest.mark.parametrize("run", ["generator", "representation"])
def test_bf16_trains(toy, tmp_path, run):
    spec = CONTENT["runs"][run]
    runs = {run: {**spec, "training": {**spec["training"], "precision": "bf16"}}}
    request = toy.request(run, tmp_path, toy.config(runs=runs, samples={}))
    train(request)
    weights = load_file(request.folder / "model.safetensors").values()
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights)
