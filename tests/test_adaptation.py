"""Heads and adaptation: where they start, what each method may change, and how patches are carried over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from training_fixtures import CONTENT, MESH, TRAINING, ToyExperiment, make_toy_experiment

from pipeline.config import AdaptSpec, ConfigError, HeadSpec, MaskedViTSpec, TrainingSpec, load_config
from pipeline.data.merge import merge
from pipeline.evaluation.label_predictions import accuracy, angle_error, cross_entropy
from pipeline.evaluation.predictions import evaluate_predictions
from pipeline.evaluation.summary import summarise
from pipeline.generation.predict import predict
from pipeline.models import Architecture, build_network
from pipeline.models.low_rank import merged_low_rank
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.tokens import patchify
from pipeline.provenance import read_json, write_json
from pipeline.training.adaptation import AdaptationError, architecture_from, interpolated, start_from
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.fine_tuning import anchors, choose_trained, level, overlap, parameter_groups, pull_back, resized
from pipeline.training.trainer import train

SHAPE = (4, 6, 4)
VIT = MaskedViTSpec(patch=(2, 3, 1), width=24, depth=3, heads=2, decoder_width=12)
TWO = (("a", "SiW"), ("b", "SciPb"))


def architecture(head: HeadSpec | None = None, model=VIT, shape=SHAPE) -> Architecture:
    return Architecture(model, head, shape, TWO, ("SiW", "SciPb"), 0.015, {}, ("e-", "gamma"))


def energy_head(width: int = 8) -> HeadSpec:
    return HeadSpec(predict="incident_energy", width=width)


def parent(model=VIT, shape=SHAPE) -> TrainedModel:
    own = architecture(None, model, shape)
    return TrainedModel(build_network(own, 7), own, {}, {"run": "representation"})


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


# -------------------------------------------------------------------------------------------- heads


def test_a_class_head_starts_at_the_frequencies_of_the_training_showers():
    head = HeadSpec(predict="energy_class", edges_gev=(1, 2, 4, 8))
    network = build_network(architecture(head))
    energy = torch.tensor([1500.0] * 60 + [3000.0] * 30 + [5000.0] * 10)
    network.fit(energy / 30, energy, torch.zeros(100, dtype=torch.int64))
    probability = network(torch.randn(5, *SHAPE), torch.rand(5) + 30).softmax(dim=1)
    assert torch.allclose(probability, torch.tensor([0.6, 0.3, 0.1]).expand(5, -1), atol=0.01)


def test_an_angle_head_starts_at_the_mean_angle():
    network = build_network(architecture(HeadSpec(predict="theta")))
    theta = torch.linspace(0.9, 1.6, 50)
    network.fit(torch.rand(50) + 30, theta)
    mean, log_variance = network(torch.randn(5, *SHAPE), torch.rand(5) + 30)
    assert torch.allclose(mean, theta.mean().expand(5), atol=1e-6)
    assert torch.allclose(log_variance.exp().sqrt(), theta.std(correction=0).expand(5), rtol=1e-4)


@pytest.mark.parametrize(
    ("head", "expected", "names"),
    [
        (HeadSpec(predict="energy_class", edges_gev=(1, 2, 4, 8)), [0, 0, 1, 2, 2], ["1-2 GeV", "2-4 GeV", "4-8 GeV"]),
        (HeadSpec(predict="energy_class", classes_gev=(1, 2, 6)), [0, 1, 1, 2, 2], ["1 GeV", "2 GeV", "6 GeV"]),
        (HeadSpec(predict="detector"), [0, 1, 0, 1, 0], ["SiW", "SciPb"]),
        (HeadSpec(predict="particle"), [0, 1, 0, 1, 0], ["e-", "gamma"]),
    ],
)
def test_classes_of_showers(head, expected, names):
    network = build_network(architecture(head))
    energy = torch.tensor([1100.0, 1900.0, 2100.0, 5000.0, 9000.0])
    assert network.targets(energy, torch.arange(5) % 2).tolist() == expected
    assert network.classes == names


@pytest.mark.parametrize("predict", ["particle", "detector", "theta"])
def test_a_head_cannot_be_told_the_data_set(predict):
    """What it is called with holds cells and visible energy alone."""
    head = HeadSpec(predict=predict)
    network = build_network(architecture(head))
    torch.nn.init.normal_(network.readout.out.weight)
    assert network.forward.__code__.co_varnames[1:3] == ("cells", "visible_energy")
    assert Architecture.from_state(architecture(head).state()) == architecture(head)


def test_a_linear_probe_has_no_hidden_layer():
    for head in (energy_head(0), HeadSpec(predict="theta", width=0)):
        names = [n for n, _ in build_network(architecture(head)).named_parameters() if not n.startswith("backbone.")]
        assert not [name for name in names if "hidden" in name]


# --------------------------------------------------------------------------------- what is trained


def adapted(**options) -> tuple[torch.nn.Module, AdaptSpec]:
    network, adapt = build_network(architecture(energy_head()), 1), AdaptSpec(**options)
    start_from(network, parent())
    choose_trained(network, adapt, 1)
    return network, adapt


def step(network: torch.nn.Module, adapt: AdaptSpec, rate: float = 1e-2) -> dict[str, torch.Tensor]:
    """One step of gradient descent at the groups' rates; the weights before it."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.nn.init.normal_(network.out.weight)
    cells, domain = torch.randn(8, *SHAPE), torch.zeros(8, dtype=torch.int64)
    mean, log_variance = network(cells, torch.rand(8) + 30, domain)
    (mean.square().mean() + log_variance.mean()).backward()
    for group in parameter_groups(network, TrainingSpec(samples=1), adapt):
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.data -= rate * group["factor"] * parameter.grad
    return before


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"train": "head"}, r""),
        ({"train": "last_blocks", "blocks": 1}, r"backbone\.(encoder\.2\.|norm\.)"),
        ({"train": "last_blocks", "blocks": 2}, r"backbone\.(encoder\.[12]\.|norm\.)"),
        ({"train": "biases"}, r"backbone\..*bias$"),
        ({"train": "low_rank"}, r"backbone\..*\.(up|down)$"),
        ({"train": "all"}, r"backbone\.(embed|encoder|norm)"),
    ],
)
def test_only_the_chosen_weights_change(options, allowed):
    import re

    network, adapt = adapted(**options)
    before = step(network, adapt)
    moved = {n for n, v in network.state_dict().items() if n.startswith("backbone.") and not torch.equal(v, before[n])}
    assert all(allowed and re.search(allowed, name) for name in moved)
    assert bool(moved) == bool(allowed)
    assert not torch.equal(network.hidden.weight, before["hidden.weight"])


def test_low_rank_starts_unchanged_and_merges_into_the_plain_network():
    torch.manual_seed(3)
    plain, _ = adapted()
    network, adapt = adapted(train="low_rank", rank=2, alpha=6)
    call = (torch.randn(4, *SHAPE), torch.rand(4) + 30, torch.zeros(4, dtype=torch.int64))
    assert torch.equal(network.backbone.encode(call[0]), plain.backbone.encode(call[0]))
    for _ in range(3):  # the first step moves `up` alone
        network.zero_grad()
        step(network, adapt, 0.01)
    merged = merged_low_rank(network.state_dict())
    assert set(merged) == set(plain.state_dict())
    own = build_network(architecture(energy_head()))
    own.load_state_dict(merged)
    assert torch.allclose(own(*call)[0], network(*call)[0], atol=1e-4)
    change = (
        merged["backbone.encoder.0.attention.out.weight"]
        - plain.state_dict()["backbone.encoder.0.attention.out.weight"]
    )
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    assert merged_low_rank(plain.state_dict()).keys() == plain.state_dict().keys()


def test_rates_fall_from_block_to_block():
    network, adapt = adapted(rate=0.5, layer_decay=0.5)
    groups = parameter_groups(network, TrainingSpec(samples=1), adapt)
    rate = {id(p): group["factor"] for group in groups for p in group["params"]}
    named = {name: rate[id(p)] for name, p in network.named_parameters()}
    assert named["out.weight"] == 1.0
    assert named["backbone.norm.weight"] == 0.5
    assert named["backbone.encoder.2.perceptron.0.weight"] == 0.25
    assert named["backbone.encoder.0.attention.out.bias"] == 0.5 * 0.5**3
    assert named["backbone.embed.weight"] == 0.5 * 0.5**4
    assert len(rate) == len(list(network.parameters()))
    assert level("showers.blocks.1.attention.out.weight", 3) == 2


def test_the_default_groups_are_those_of_a_training_from_scratch():
    network, adapt = adapted()
    matrices, vectors = parameter_groups(network, TrainingSpec(samples=1, weight_decay=0.1), adapt)
    assert [p is q for p, q in zip(matrices["params"], (p for p in network.parameters() if p.ndim >= 2), strict=True)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert matrices["factor"] == vectors["factor"] == 1.0


def test_l2_sp_adds_the_gradient_of_its_penalty():
    """arXiv:1802.01483, eq. 2, against automatic differentiation; fresh weights are left alone."""
    network, adapt = adapted(l2_sp=0.3)
    start = anchors(network, adapt, ["hidden.weight"])
    assert "hidden.weight" not in start and "backbone.embed.weight" in start
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    named = dict(network.named_parameters())
    loss = sum(p.square().sum() for p in named.values())
    expected = 0.15 * sum((named[name] - w0).square().sum() for name, w0 in start.items())
    gradient = torch.autograd.grad(loss + expected, list(named.values()))
    loss = sum(p.square().sum() for p in named.values())
    loss.backward()
    penalty = pull_back(network, start, 0.3)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-4)
    for parameter, wanted in zip(named.values(), gradient, strict=True):
        assert torch.allclose(parameter.grad, wanted, atol=1e-5)


# ------------------------------------------------------------------------------- patches and meshes


def test_overlaps_share_every_interval():
    assert torch.equal(overlap(3, 3), torch.eye(3, dtype=torch.float64))
    assert torch.allclose(overlap(3, 5).sum(dim=0), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(overlap(2, 3), torch.tensor([[2, 0], [1, 1], [0, 2]], dtype=torch.float64) / 3)
    x = torch.randn(7, 12)
    assert torch.allclose(resized(x, (2, 3, 2), (3, 4, 1), mean=False).sum(dim=1), x.sum(dim=1), atol=1e-5)


def test_a_finer_mesh_of_equal_cells_has_the_same_tokens():
    fine = VIT.model_copy(update={"patch": (4, 3, 2)})
    own = build_network(architecture(None, fine, (8, 6, 8)), 3)
    old = parent()
    assert start_from(own, old, "interpolate") == []
    cells = torch.randn(2, *SHAPE)
    finer = cells.repeat_interleave(2, 1).repeat_interleave(2, 3)
    assert torch.allclose(own.encode(finer), old.network.encode(cells), atol=1e-4)
    order = torch.arange(own.tokens).expand(2, -1)
    predicted, before = own(finer, order, 4), old.network(cells, order, 4)
    coarse = patchify(cells, VIT.patch).shape
    assert torch.allclose(predicted.reshape(2, -1, 2, 2, 3, 1, 2).mean(dim=(3, 6)).reshape(coarse), before, atol=1e-4)


def test_learned_positions_follow_the_mesh():
    learned = VIT.model_copy(update={"positions": "learned"})
    old, own = MaskedViT(learned, SHAPE), MaskedViT(learned, (4, 12, 4))
    table = interpolated(old, own)["positions"].reshape(2, 4, 4, 24)
    before = old.positions.detach().reshape(2, 2, 4, 24)
    assert torch.allclose(table, before.repeat_interleave(2, 1), atol=1e-6)


def test_a_fresh_patch_embedder_keeps_the_blocks():
    fine = VIT.model_copy(update={"patch": (4, 6, 1)})
    own = build_network(architecture(None, fine), 3)
    fresh = start_from(own, parent(), "fresh")
    assert set(fresh) == {"embed.weight", "embed.bias", "to_cells.weight", "to_cells.bias"}


def test_another_patch_needs_to_be_asked_for():
    own, old = architecture(None, VIT.model_copy(update={"patch": (4, 3, 1)})), architecture()
    with pytest.raises(AdaptationError, match=r"or set adapt\.patch_embedder for another patch or mesh"):
        architecture_from(old, own)
    assert architecture_from(old, own, "interpolate").model.patch == (4, 3, 1)
    with pytest.raises(AdaptationError, match="expected the parent's network"):
        architecture_from(old, replace(own, model=VIT.model_copy(update={"width": 48})), "interpolate")


# ------------------------------------------------------------------------------------ whole trainings


@pytest.mark.parametrize(
    ("head", "adapt", "term"),
    [
        ({"predict": "energy_class", "edges_gev": [1, 1.6, 2.5, 4], "width": 0}, {"train": "head"}, "cross_entropy"),
        ({"predict": "theta", "width": 8}, {"rate": 0.1, "layer_decay": 0.7, "l2_sp": 0.01}, "l2_sp"),
        ({"predict": "incident_energy", "width": 8}, {"train": "low_rank"}, "energy_nll"),
    ],
)
def test_heads_train_and_resume_to_the_same_bytes(toy, tmp_path, head, adapt, term):
    small = {**TRAINING, "samples": 64}
    run = {**CONTENT["runs"]["energy"], "head": head, "adapt": adapt, "training": small}
    first = {**CONTENT["runs"]["representation"], "training": {**TRAINING, "samples": 32}}
    config = toy.config(runs={"representation": first, "energy": run}, samples={})
    train(toy.request("representation", tmp_path, config))
    request = toy.request("energy", tmp_path, config)
    train(request)
    whole = (request.folder / "model.safetensors").read_bytes()
    assert term in (request.folder / "metrics.jsonl").read_text()
    for k in (1, 2):
        sliced = replace(toy.request("energy", tmp_path, config, (k, 2)), folder=tmp_path / "sliced")
        train(replace(sliced, manifest=tmp_path / "sliced" / "model.json"))
    assert (tmp_path / "sliced" / "model.safetensors").read_bytes() == whole
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("representation", "energy"))
    same = torch.equal(old["embed.weight"], new["backbone.embed.weight"])
    assert same == (adapt.get("train") in ("head", "low_rank"))
    changed = not torch.equal(old["encoder.0.attention.out.weight"], new["backbone.encoder.0.attention.out.weight"])
    assert changed == (adapt.get("train") != "head")


# ------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"predict": "energy_class"}, "expected one of classes_gev and edges_gev with predict: energy_class, got none"),
        ({"predict": "theta", "edges_gev": [1, 2, 4]}, "expected neither with predict: theta, got"),
        ({"predict": "energy_class", "edges_gev": [1, 2]}, "edges_gev: expected at least 3 rising energies"),
        ({"predict": "energy_class", "classes_gev": [4, 2]}, "classes_gev: expected at least 2 rising energies"),
    ],
)
def test_classes_must_be_given_once_and_rising(head, message):
    with pytest.raises(ValidationError, match=message):
        HeadSpec.model_validate(head)


def test_an_energy_class_may_not_see_the_energy(test_config):
    test_config["preprocessing"]["log"].insert(2, "divide_by_incident_energy")
    test_config["runs"]["energy"]["head"] = {"predict": "energy_class", "classes_gev": [64, 128, 256]}
    with pytest.raises(ConfigError, match="predicts 'incident_energy', but recipe 'log' of run 'representation'"):
        load_config(test_config)


def test_a_head_that_tells_data_sets_apart_may_not_see_their_fits(test_config):
    test_config["runs"]["energy"]["head"] = {"predict": "particle"}
    with pytest.raises(ConfigError) as caught:
        load_config(test_config)
    assert "runs.energy.data: expected data sets of several kinds of particle, got ['e-']" in str(caught.value)
    assert "recipe 'log' is fitted for each data set (standardise) and so tells it" in str(caught.value)


# ------------------------------------------------------------------------------ predictions, lineage


def test_lineage_tells_parents_data_and_what_is_gone(toy, tmp_path):
    from pipeline.commands.lineage import lineage

    small = {**TRAINING, "samples": 16}
    runs = {name: {**CONTENT["runs"][name], "training": small} for name in ("representation", "energy")}
    config = toy.config(runs=runs, samples={})
    for name in runs:
        train(toy.request(name, tmp_path, config))
    chain = lineage(tmp_path / "energy")
    assert [(entry["run"], entry["state"], entry["from"]) for entry in chain] == [
        ("energy", "here", "representation"),
        ("representation", "here", ""),
    ]
    assert len(chain[0]["parts"]["toy"]) == 2 and chain[0]["samples"] == 16
    train(toy.request("representation", tmp_path, toy.config(runs=runs, samples={}, seed=2)))
    assert [entry["state"] for entry in lineage(tmp_path / "energy")] == ["here", "trained again since"]
    (tmp_path / "representation" / "model.json").unlink()
    assert [entry["state"] for entry in lineage(tmp_path / "energy" / "model.json")] == ["here", "gone"]
    with pytest.raises(
        ConfigError, match=r"expected the manifest of a trained model, got none; name <run>/model\.json"
    ):
        lineage(tmp_path / "nobody")


@pytest.mark.parametrize(
    ("head", "metrics"),
    [
        ({"predict": "energy_class", "edges_gev": [1, 2, 4, 8]}, {"accuracy", "cross_entropy"}),
        ({"predict": "theta"}, {"angle_error", "angle_bias", "angle_pull_width"}),
    ],
)
def test_predicted_labels_reach_the_metrics(toy, tmp_path, head, metrics):
    small = {**TRAINING, "samples": 16}
    first = {**CONTENT["runs"]["representation"], "training": small}
    run = {**CONTENT["runs"]["energy"], "head": {**head, "width": 4}, "training": small}
    config = toy.config(runs={"representation": first, "energy": run}, samples={})
    for name in config.runs:
        train(toy.request(name, tmp_path, config))
    table, output = tmp_path / "table.json", tmp_path / "evaluation.json"
    predict(config, "energy", tmp_path / "energy" / "model.json", toy.parts, table)
    evaluate_predictions(config, "energy", table, toy.parts, output)
    rows = read_json(output)["rows"]
    assert {row["metric"] for row in rows if row["sample"] == "energy"} == metrics
    assert {row["sample"] for row in rows} - {"energy"} == {
        "mean_angle" if head["predict"] == "theta" else "class_frequencies"
    }
    assert all(row["n"] == 20 and row["value"] is not None for row in rows)
    assert summarise(rows)["samples"] == []
    if head["predict"] == "energy_class":
        assert sum(map(sum, read_json(output)["tables"]["confusion"])) == 20


def test_heads_that_tell_data_sets_apart_predict_all_of_them(toy, tmp_path):
    small, first = {**TRAINING, "samples": 16}, CONTENT["datasets"]["toy"]
    data = {"toy": {**first, "particle": "e-"}, "photons": {**first, "particle": "gamma"}}
    plain = {"coarse": CONTENT["preprocessing"]["coarse"][:3]}
    runs = {
        "representation": {**CONTENT["runs"]["representation"], "training": small},
        "particle": {**CONTENT["runs"]["energy"], "head": {"predict": "particle", "width": 4}, "data": [*data]},
    }
    runs["particle"]["training"] = small
    config = toy.config(runs=runs, datasets=data, preprocessing=plain, samples={})
    assert config.predicted_data("particle") == ["toy", "photons"]
    transform = tmp_path / "transform.json"
    write_json(transform, merge(toy.prefix, config.preprocessing["coarse"], MESH))
    for name in runs:
        asked = replace(toy.request(name, tmp_path, config), transforms=dict.fromkeys(data, transform))
        both = {key: dict.fromkeys(data, getattr(asked, key)["toy"]) for key in ("parts", "prefix")}
        train(replace(asked, **both))
    table, output = tmp_path / "table.json", tmp_path / "evaluation.json"
    predict(config, "particle", tmp_path / "particle" / "model.json", dict.fromkeys(data, toy.parts), table)
    evaluate_predictions(config, "particle", table, toy.parts, output)
    found = read_json(output)
    assert np.sum(found["tables"]["confusion"], axis=1).tolist() == [20, 20]
    accuracies = {row["sample"]: row["value"] for row in found["rows"] if row["metric"] == "accuracy"}
    assert accuracies == {"particle": 0.5, "class_frequencies": 0.5}  # the same showers under two names
    assert {row["reference"] for row in found["rows"]} == {"toy, photons"}


def test_metrics_of_classes():
    probability = np.array([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    assert accuracy(np.array([0, 0, 0]), probability) == pytest.approx(2 / 3)
    assert cross_entropy(np.array([0, 1, 1]), probability) == pytest.approx(-np.log([0.7, 0.6, 0.5]).mean())
    assert angle_error(np.array([1.0, 1.2]), np.array([1.1, 1.1])) == pytest.approx(0.1)
