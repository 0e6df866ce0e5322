"""Generation: samplers on solvable problems, the exact rescale, and files at the held-out conditions."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import CONTENT, ToyExperiment, make_toy_experiment

from pipeline.config import DatasetSpec
from pipeline.data.formats import READERS
from pipeline.data.store import Part, held_out
from pipeline.generation.energies import sample_layer_energies
from pipeline.generation.generate import generate
from pipeline.generation.model import GenerationError, GenerativeModel
from pipeline.generation.noise import ShowerNoise
from pipeline.generation.predict import PredictionError, predict
from pipeline.generation.rescale import rescale_layers
from pipeline.models import Conditions
from pipeline.provenance import read_json
from pipeline.training.trainer import train

CUT = 0.05


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def models(toy, tmp_path_factory):
    where = tmp_path_factory.mktemp("models")
    for run in CONTENT["runs"]:
        train(toy.request(run, where))
    return where


def showers_of(path) -> np.ndarray:
    with h5py.File(path) as handle:
        return handle["showers"][:]


# ------------------------------------------------------------------------------------- rescale


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_rescaling_gives_the_layer_energies_and_respects_the_cut(seed):
    random = np.random.default_rng(seed)
    energy = random.exponential(0.3, (4, 3, 5, 6)) * (random.random((4, 3, 5, 6)) < 0.3)
    target = random.exponential(0.5, (4, 6)) * (random.random((4, 6)) < 0.8)
    made = rescale_layers(energy, target, random.random(energy.shape), CUT)
    assert np.allclose(made.sum(axis=(1, 2)), np.where(target < CUT, 0, target), rtol=1e-12)
    assert made[made > 0].min(initial=1.0) >= CUT * (1 - 1e-12)
    assert ((made > 0) <= ((energy > 0) | (made.sum(axis=(1, 2), keepdims=True) == made))).all()  # no other new hit


def test_a_layer_without_hit_gets_its_most_likely_cell():
    likelihood = np.zeros((1, 2, 3, 1))
    likelihood[0, 1, 2, 0] = 0.1
    made = rescale_layers(np.zeros((1, 2, 3, 1)), np.array([[2.0]]), likelihood, CUT)
    assert made[0, 1, 2, 0] == 2.0 and made.sum() == 2.0


def test_rescaling_keeps_ratios_above_the_cut():
    energy = np.array([1.0, 2.0, 0.01]).reshape(1, 3, 1, 1)
    made = rescale_layers(energy, np.array([[6.0]]), energy, CUT)
    assert np.allclose(made.ravel(), [2.0, 4.0, 0.0])


# ------------------------------------------------------------------------------------ energies


@pytest.mark.parametrize(("sampler", "steps"), [("heun", 24), ("dpm_solver", 8)])
def test_an_energy_network_that_knows_nothing_leaves_normal_features_as_they_are(models, sampler, steps):
    """Before training D is the exact denoiser of a standard normal, so any sampler must give back its noise."""
    energies = GenerativeModel.load(models / "generator" / "model.json", "toy").network.energies
    assert energies is not None
    for weights in energies.out.parameters():
        torch.nn.init.zeros_(weights)
    n, layers = 200, energies.n_features - 1
    incident, zeros = torch.full((n,), 1000.0), torch.zeros(n, dtype=torch.long)
    conditions = Conditions(incident, torch.full((n,), np.pi / 2), zeros, torch.zeros(n, layers))
    noise = ShowerNoise(3, np.arange(n)).normal(1 + layers)
    made = sample_layer_energies(energies, conditions, noise, steps, sampler).sum(dim=1)
    wanted = energies.layer_energies(noise, conditions).sum(dim=1)
    assert torch.allclose(made, wanted, rtol=0.1)
    assert float(made.std()) == pytest.approx(float(wanted.std()), rel=0.05)


# ------------------------------------------------------------------------------------ generate


@pytest.mark.parametrize(
    ("sample", "run"), [("generated", "generator"), ("independent", "generator"), ("by_pixels", "pixels")]
)
def test_a_sample_is_a_raw_file_at_the_held_out_conditions(toy, models, tmp_path, sample, run):
    config, output = toy.config(), tmp_path / f"{sample}.h5"
    generate(config, sample, models / run / "model.json", toy.parts, output)
    truth = held_out([Part.open(p) for p in toy.parts], config.splits, "reference", 20)
    spec = DatasetSpec(format="calochallenge", files=("*",), detector="Toy")
    description = READERS["calochallenge"].describe(output, spec, config.detector("Toy"))
    made = READERS["calochallenge"].read(output, description, slice(0, 20))
    assert made.mesh == truth.mesh.rebinned((2, 2, 1))
    assert np.allclose(made.incident_energy, truth.incident_energy) and np.allclose(made.theta, truth.theta)
    assert made.energy[made.energy > 0].min() >= np.float32(CUT) * (1 - 1e-6)
    assert (made.visible_energy > 0).all()
    assert read_json(output.with_suffix(".measured.json"))["showers"] == 20


def test_showers_do_not_depend_on_the_batch_size(toy, models, tmp_path):
    made = []
    for size in (64, 16, 7, 1):
        samples = {"generated": {**CONTENT["samples"]["generated"], "batch_size": size}}
        generate(
            toy.config(samples=samples),
            "generated",
            models / "generator" / "model.json",
            toy.parts,
            tmp_path / f"{size}.h5",
        )
        made.append(showers_of(tmp_path / f"{size}.h5"))
    assert all(np.array_equal(made[0], other) for other in made[1:])


def test_a_model_samples_as_many_showers_as_it_is_asked_for(toy, models, tmp_path):
    """`sample` gives the showers of the stage, and a shower does not depend on those beside it."""
    config = toy.config()
    truth = held_out([Part.open(p) for p in toy.parts], config.splits, "reference", 20)
    model = GenerativeModel.load(models / "generator" / "model.json", "toy")
    made = model.sample(truth, rng=1, steps=2)
    assert len(made) == 20 and np.array_equal(made.incident_energy, truth.incident_energy)
    assert np.array_equal(model.sample(truth.take(np.arange(7)), rng=1, steps=2).energy, made.energy[:7])
    generate(config, "generated", models / "generator" / "model.json", toy.parts, tmp_path / "a.h5")
    raw = showers_of(tmp_path / "a.h5").reshape(20, *reversed(made.mesh.shape)).transpose(0, 3, 2, 1)
    assert np.array_equal(raw, made.energy)


def test_generating_twice_gives_the_same_bytes_and_another_seed_does_not(toy, models, tmp_path):
    model = models / "generator" / "model.json"
    for name in ("a", "b"):
        generate(toy.config(), "generated", model, toy.parts, tmp_path / f"{name}.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    samples = {"generated": {**CONTENT["samples"]["generated"], "seed": 2}}
    generate(toy.config(samples=samples), "generated", model, toy.parts, tmp_path / "c.h5")
    assert not np.array_equal(showers_of(tmp_path / "a.h5"), showers_of(tmp_path / "c.h5"))


def test_noise_belongs_to_the_shower():
    many, one = ShowerNoise(1, np.array([4, 5, 6])), ShowerNoise(1, np.array([5]))
    assert torch.equal(many.normal(2, 3)[1], one.normal(2, 3)[0])
    assert torch.equal(many.uniform(4)[1], one.uniform(4)[0])
    assert not torch.equal(many.normal(4)[0], many.normal(4)[1])


def test_a_representation_generates_nothing(toy, models, tmp_path):
    with pytest.raises(GenerationError, match=r"run 'representation': expected a generative model, got masked_vit"):
        generate(toy.config(), "generated", models / "representation" / "model.json", toy.parts, tmp_path / "x.h5")


# ------------------------------------------------------------------------------------- predict


def test_predictions_stand_beside_the_truth(toy, models, tmp_path):
    config = toy.config()
    predict(config, "energy", models / "energy" / "model.json", toy.parts, tmp_path / "table.json")
    table = {name: np.array(column) for name, column in read_json(tmp_path / "table.json").items()}
    truth = held_out([Part.open(p) for p in toy.parts], config.splits, "reference", 20)
    assert set(table) == {"incident_energy", "predicted", "sigma", "visible_energy"}
    assert np.allclose(table["incident_energy"], truth.incident_energy)
    assert np.allclose(table["visible_energy"], truth.rebin((2, 2, 1)).cut(CUT).visible_energy, rtol=1e-5)
    relative = table["predicted"] / table["incident_energy"] - 1
    assert relative.std() < 0.2 and (table["sigma"] > 0).all()


def test_a_run_without_head_predicts_nothing(toy, models, tmp_path):
    with pytest.raises(PredictionError, match=r"a run with a head, got run 'generator' of ShowerGenerator"):
        predict(toy.config(), "generator", models / "generator" / "model.json", toy.parts, tmp_path / "x.json")
