"""Consistency models: the boundary condition, what they take from the teacher, and showers in few steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_fixtures import CONTENT, TRAINING, make_toy_experiment

from pipeline.config import ConfigError, ConsistencySpec, DiffusionSpec, LayerEnergiesSpec, load_config
from pipeline.data.store import Part, held_out
from pipeline.generation.model import GenerativeModel
from pipeline.models import Architecture, Conditions, build_network
from pipeline.training.objectives import pseudo_huber
from pipeline.training.trainer import train

SHAPE = (4, 6, 5)
TEACHER = DiffusionSpec(patch=(4, 6, 1), width=24, depth=1, heads=2, layer_energies=LayerEnergiesSpec(width=16))
STUDENT = {"name": "consistency", "sub_intervals": 4}


def student(output: str = "probabilistic", sigma_stop: float = 1.0):
    """A student and its teacher, both with random weights."""
    spec = TEACHER.model_copy(update={"output": output, "sigma_min": 0.02})
    teacher = Architecture(spec, None, SHAPE, (("a", "SiW"),), ("SiW",), 0.015)
    own = ConsistencySpec(teacher="t", sigma_stop=sigma_stop)
    network = build_network(Architecture(own, None, SHAPE, teacher.domains, ("SiW",), 0.015, {"teacher": teacher}), 1)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(weight.numel()))
    return network, build_network(teacher, 2)


def conditions(n: int) -> Conditions:
    layers = torch.rand(n, SHAPE[2], generator=torch.Generator().manual_seed(3)) + 0.1
    return Conditions(torch.full((n,), 2000.0), torch.full((n,), 1.57), torch.zeros(n, dtype=torch.int64), layers)


@torch.no_grad()
@pytest.mark.parametrize(("output", "stop"), [("pixels", 0.02), ("probabilistic", 1.0)])
def test_at_the_boundary_a_step_changes_nothing(output, stop):
    """f(x, epsilon) = x for any weights (arXiv:2303.01469, section 3.1)."""
    network = student(output, stop)[0].showers
    x = torch.randn(3, *SHAPE)
    assert torch.equal(network.step(x, torch.full((3,), stop), conditions(3)), x)
    assert not torch.allclose(network.step(x, torch.full((3,), 2 * stop), conditions(3)), x, atol=1e-3)


@torch.no_grad()
def test_a_student_starts_as_its_teacher_and_keeps_it():
    network, teacher = student()
    network.take_over({"teacher": teacher})
    x, sigma = torch.randn(3, *SHAPE), torch.tensor([1.0, 3.0, 20.0])
    expected = teacher.showers.denoised(x, sigma, conditions(3))
    assert torch.equal(network.showers.denoised(x, sigma, conditions(3)), expected)
    assert torch.equal(network.showers.teacher.denoised(x, sigma, conditions(3)), expected)
    assert not any(p.requires_grad for p in network.showers.teacher.parameters())
    assert not network.trains_energies and all(p.requires_grad for p in network.showers.blocks.parameters())


@torch.no_grad()
def test_the_teachers_step_is_heuns():
    from pipeline.generation.samplers import heun

    network, teacher = student()
    network.take_over({"teacher": teacher})
    x = torch.randn(2, *SHAPE)
    made = network.showers.teachers_step(x, torch.full((2,), 5.0), torch.full((2,), 3.0), conditions(2))
    wanted = heun(lambda x, sigma: teacher.showers.denoised(x, sigma, conditions(2)), x, [5.0, 3.0])
    assert torch.allclose(made, wanted, atol=1e-5)


def test_the_distance_is_square_near_zero_and_linear_far_away():
    zero, one = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    assert pseudo_huber(0.001 * one, zero, 0.1).item() == pytest.approx(0.001**2 / 0.2, rel=1e-3)
    assert pseudo_huber(10 * one, zero, 0.1).item() == pytest.approx(10 - 0.1, rel=1e-3)
    assert pseudo_huber(3 * one, zero, 0.0).item() == pytest.approx(9)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    where = tmp_path_factory.mktemp("models")
    toy = make_toy_experiment(tmp_path_factory.mktemp("toy"))
    training = {**TRAINING, "ema": 0.5}
    run = {"data": ["toy"], "recipe": "coarse", "training": training}
    runs = {
        "generator": CONTENT["runs"]["generator"],
        "pixels": CONTENT["runs"]["pixels"],
        "few_steps": {**run, "model": {**STUDENT, "teacher": "generator", "sigma_stop": 1.0}},
        "one_step": {**run, "model": {**STUDENT, "teacher": "pixels", "sigma_stop": 0.02}},
    }
    config = toy.config(runs=runs, samples={})
    for name in runs:
        train(toy.request(name, where, config))
    return toy, where, config


def test_a_student_makes_showers_of_the_teachers_layer_energies(distilled):
    """The same energy network and the same noise: every layer of every shower has the teacher's energy."""
    toy, where, config = distilled
    truth = held_out([Part.open(p) for p in toy.parts], config.splits, "reference", 20)
    teacher = GenerativeModel.load(where / "generator" / "model.json", "toy").sample(truth, rng=1, steps=2)
    model = GenerativeModel.load(where / "few_steps" / "model.json", "toy")
    for steps in (1, 2, 4):
        made = model.sample(truth, rng=1, steps=steps)
        assert np.allclose(made.energy.sum(axis=(1, 2)), teacher.energy.sum(axis=(1, 2)), rtol=1e-5, atol=1e-5)
    alone = GenerativeModel.load(where / "one_step" / "model.json", "toy").sample(truth, rng=1, steps=1)
    assert np.isfinite(alone.energy).all() and alone.energy.min() >= 0


def test_a_student_learns_and_its_teacher_does_not(distilled):
    from pipeline.training.checkpoint import load_model

    _, where, _ = distilled
    teacher = load_model(where / "generator" / "model.json").network.showers.state_dict()
    made = load_model(where / "few_steps" / "model.json").network.showers
    assert all(torch.equal(value, teacher[name]) for name, value in made.teacher.state_dict().items())
    assert not torch.equal(made.embed.weight, teacher["embed.weight"])
    record = load_model(where / "few_steps" / "model.json").manifest
    assert record["lineage"]["model_parents"]["teacher"]["run"] == "generator"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"teacher": "nobody"}, "runs.student.model.teacher: expected one of"),
        ({"teacher": "student"}, "runs.student.model: expected parents that do not need the run itself, got a circle"),
        ({"teacher": "representation"}, "expected a run of a diffusion, got 'representation' of a masked_vit"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(model, message):
    run = {"model": {**STUDENT, **model}, "data": ["toy"], "recipe": "coarse", "training": TRAINING}
    with pytest.raises(ConfigError, match=message):
        load_config({**CONTENT, "runs": {**CONTENT["runs"], "student": run}})
