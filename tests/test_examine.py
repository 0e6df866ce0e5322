"""Looking into trained networks: attention is what the network uses, and forgetting is measured like with like."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_fixtures import CONTENT, TRAINING, ToyExperiment, make_toy_experiment

from pipeline.config import DiffusionSpec, HeadSpec, MaskedViTSpec, load_config
from pipeline.data.store import Part, held_out
from pipeline.evaluation.summary import collect, gather, summarise
from pipeline.figures import draw
from pipeline.figures.page import binned_table, prediction_table
from pipeline.generation.examine import ExaminationError, block_losses, examine, forgotten
from pipeline.models import Architecture, Conditions, build_network
from pipeline.models.attention_maps import attention_table, looked_at, recorded
from pipeline.models.blocks import Attention
from pipeline.models.masked_vit import MaskedViT
from pipeline.plan import Plan
from pipeline.provenance import read_json
from pipeline.raw_files import RawFile
from pipeline.training.adaptation import in_the_place_of
from pipeline.training.checkpoint import TrainedModel, load_model
from pipeline.training.loading import Loader
from pipeline.training.sources import StoreSource
from pipeline.training.trainer import train

SHAPE = (4, 6, 4)


# --------------------------------------------------------------------------------------- attention


def known_attention() -> tuple[Attention, torch.Tensor]:
    """Four tokens that each look at themselves with 3/4 and at every other one with 1/12: products ln 9 and 0."""
    layer = Attention(4, 1)
    size = math.sqrt(math.log(9) * 2)  # products are divided by the root of the four values of a head
    layer.query_key_value.weight.data = torch.cat([size * torch.eye(4), size * torch.eye(4), torch.eye(4)])
    layer.query_key_value.bias.data.zero_()
    return layer, torch.eye(4)[None]


def test_a_hand_made_attention_gives_its_weights():
    layer, tokens = known_attention()
    expected = torch.full((4, 4), 1 / 12) + torch.eye(4) * (3 / 4 - 1 / 12)
    assert torch.allclose(layer.weights(tokens)[0, 0], expected, atol=1e-6)
    seen = torch.tril(torch.ones(4, 4, dtype=torch.bool))
    masked = layer.weights(tokens, seen)[0, 0]
    assert torch.allclose(masked[1, :2], torch.tensor([0.1, 0.9]), atol=1e-6) and (masked[~seen] == 0).all()


def test_a_hand_made_attention_gives_its_map():
    layer, tokens = known_attention()
    energy = torch.tensor([1.0, 0.0, 5.0, 0.0])
    table = attention_table([layer.weights(tokens)] * 2, energy, (2, 1, 2))
    assert table["asking"] == [1, 0, 0] and np.shape(table["from_asking"]) == (2, 1, 2, 2)
    np.testing.assert_allclose(table["from_asking"][1][0], [[1 / 12, 1 / 12], [3 / 4, 1 / 12]], atol=1e-6)
    np.testing.assert_allclose(table["received"][0][0], [[5 / 12, 1 / 12], [5 / 12, 1 / 12]], atol=1e-6)
    tokens_seen = math.exp(-0.75 * math.log(0.75) - 3 / 12 * math.log(1 / 12))
    np.testing.assert_allclose(table["from_asking_tokens"], tokens_seen, atol=1e-5)
    assert attention_table([layer.weights(tokens)], energy, (1, 2, 2))["from_asking"][0][0] == [
        pytest.approx([10 / 12, 2 / 12], abs=1e-6)
    ]  # tokens of one r and z are summed over phi


def test_rows_look_at_one_token_up_to_all():
    rows = torch.stack([torch.eye(5)[2], torch.full((5,), 0.2), torch.tensor([0.5, 0.5, 0, 0, 0])])
    assert torch.allclose(looked_at(rows), torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("rotary", [False, True])
def test_recorded_weights_are_those_the_network_uses(rotary):
    """The slow twin: the recorded weights times the values give what the block's attention gives."""
    spec = MaskedViTSpec(patch=(2, 3, 1), width=24, depth=2, heads=2, decoder_width=24, rotary=rotary)
    network, cells = MaskedViT(spec, SHAPE), torch.randn(3, *SHAPE)
    inputs: list[torch.Tensor] = []
    hook = network.encoder[1].attention.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    with recorded(network.encoder) as maps:
        encoded = network.encode(cells)
    hook.remove()
    assert [m.shape for m in maps] == [(3, 2, 16, 16)] * 2
    assert all(torch.allclose(m.sum(dim=3), torch.ones(3, 2, 16), atol=1e-5) for m in maps)
    layer = network.encoder[1].attention
    value = layer.query_key_value(inputs[0]).reshape(3, 16, 3, 2, 12).permute(2, 0, 3, 1, 4)[2]
    slow = layer.out((maps[1] @ value).transpose(1, 2).reshape(3, 16, 24))
    angles = network.angles if rotary else None
    assert torch.allclose(layer(inputs[0], angles=angles), slow, atol=1e-5)
    assert torch.equal(network.encode(cells), encoded) and len(maps) == 2  # nothing is changed, nothing stays


def test_attention_of_a_diffusion_is_recorded_too():
    spec = DiffusionSpec(patch=(2, 3, 1), width=24, depth=2, heads=3, layer_energies=None, conditions=())
    own = Architecture(spec, None, SHAPE, (("a", "SiW"),), ("SiW",), 0.015)
    showers, n = build_network(own, 1).showers, torch.zeros(2, dtype=torch.int64)
    conditions = Conditions(torch.full((2,), 2e3), torch.full((2,), 1.5), n, torch.rand(2, 4))
    with recorded(showers.blocks) as maps:
        showers.denoised(torch.randn(2, *SHAPE), torch.ones(2), conditions)
    assert [m.shape for m in maps] == [(2, 3, 16, 16)] * 2
    assert all(torch.allclose(m.sum(dim=3), torch.ones(2, 3, 16), atol=1e-5) for m in maps)


# -------------------------------------------------------------------------------------- forgetting

SMALL = {**TRAINING, "samples": 32}
RUNS = {name: {**CONTENT["runs"][name], "training": SMALL} for name in ("representation", "energy", "pixels")}
RUNS["onwards"] = {"start_from": "representation", "data": ["new"], "recipe": "coarse", "training": SMALL}
RUNS["again"] = RUNS["onwards"] | {"start_from": "energy", "head": CONTENT["runs"]["energy"]["head"]}
DATA = {"toy": CONTENT["datasets"]["toy"], "new": {**CONTENT["datasets"]["toy"], "files": "new*.h5"}}
EVALUATION = {**CONTENT["evaluation"], "forgetting": True}
LOOK = {"draw": ["attention", "forgetting"], "attention_quantile": 1.0}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def config(toy):
    return toy.config(runs=RUNS, datasets=DATA, samples={}, evaluation=EVALUATION, figures=LOOK)


@pytest.fixture(scope="module")
def models(toy, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for run in RUNS:
        request = toy.request(run, folder, config)
        both = {n: {d: getattr(request, n)["toy"] for d in DATA} for n in ("parts", "prefix", "transforms")}
        train(replace(request, **both))
    return {run: folder / run / "model.json" for run in RUNS}


@pytest.fixture(scope="module")
def looks(toy, config, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    for run in config.examined():
        examine(config, run, models, dict.fromkeys(DATA, toy.parts), folder / f"{run}.json")
    return {run: folder / f"{run}.json" for run in config.examined()}


def test_which_runs_are_looked_into(config):
    assert config.examined() == ["representation", "pixels", "onwards", "again"]
    assert config.attended() == ["representation", "pixels", "onwards"]
    assert config.old_data("onwards") == {"toy": "representation"} and config.old_data("energy") == {}
    plan = Plan(config, {d: {"a": RawFile("a.h5", "1")} for d in DATA})
    assert plan.examine_models("onwards") == ["onwards", "representation"]
    assert plan.examine_data("onwards") == ["new", "toy"] and plan.examine_data("again") == ["toy"]
    assert plan.figures() == ["attention", "forgetting"]
    names = [path.as_posix() for path in plan.evaluations()]
    assert names[-1] == "results/toy/examine/again.json" and set(plan.evaluations()) < set(plan.tables())
    plain = Plan(config.model_copy(update={"figures": config.figures.model_copy(update={"draw": ("hits",)})}), {})
    assert plain.config.attended() == [] and plain.config.examined() == ["onwards", "again"]


def test_replayed_data_count_as_old_and_another_head_ends_the_chain(toy):
    runs = dict(RUNS)
    runs["onwards"] = {**RUNS["onwards"], "data": ["new", "toy"], "replay": {"share": 0.5}}
    runs["beyond"] = {"start_from": "onwards", "data": ["new"], "recipe": "coarse", "training": SMALL}
    config = toy.config(runs=runs, datasets=DATA, samples={})
    assert config.old_data("onwards") == {"toy": "representation"}
    assert config.old_data("beyond") == {"toy": "onwards"}
    runs["onwards"] = {**RUNS["onwards"], "data": ["new", "toy"]}
    assert toy.config(runs=runs, datasets=DATA, samples={}).old_data("onwards") == {}
    patches = {**RUNS["onwards"], "adapt": {"patch_embedder": "interpolate"}}
    assert toy.config(runs={**RUNS, "onwards": patches}, datasets=DATA, samples={}).old_data("onwards") == {}


def test_nothing_is_forgotten_by_the_parent_itself(toy, config, models):
    for run in ("representation", "energy"):
        parent = load_model(models[run])
        rows = forgotten(config, parent, parent, "toy", toy.parts, torch.device("cpu"))
        values = {row["metric"]: row["value"] for row in rows}
        assert values["forgetting"] == 0 and values["loss"] == values["loss_of_parent"]
        assert values.get("resolution") == values.get("resolution_of_parent")
        assert ("resolution" in values) == (run == "energy")


def test_old_data_are_seen_with_the_parents_buffers_and_the_childs_weights(models):
    parent, child = load_model(models["energy"]), load_model(models["again"])
    child.network.offset.fill_(99.0)
    network = in_the_place_of(parent, child)
    assert torch.equal(network.offset, parent.network.offset)
    assert torch.equal(network.out.weight, child.network.out.weight)
    own = replace(child, architecture=replace(child.architecture, detectors=("Toy", "New")))
    assert in_the_place_of(parent, own).backbone.tokens == parent.network.backbone.tokens


def test_codes_keep_the_childs_meaning():
    from pipeline.config import VQVAESpec

    spec = VQVAESpec(patch=(2, 3, 1), width=24, depth=1, heads=2, given_layers=False, codebook={"kind": "learned"})
    own = Architecture(spec, None, SHAPE, (("a", "SiW"),), ("SiW",), 0.015)
    parent, child = (TrainedModel(build_network(own, seed), own, {}, {}) for seed in (1, 2))
    for value in child.network.codebook.state_dict().values():
        value.fill_(0.5)
    found = in_the_place_of(parent, child).codebook.state_dict()
    assert all(torch.equal(found[name], value) for name, value in child.network.codebook.state_dict().items())


def test_losses_are_those_of_the_blocks_with_equal_random_numbers(toy, config, models):
    parent = load_model(models["representation"])
    truth = held_out([Part.open(part) for part in toy.parts], config.splits, "reference", 20)
    loader = Loader([StoreSource(truth, parent.transforms["toy"])], 0)
    losses = [block_losses(parent.network, loader, 0, torch.device("cpu")) for _ in range(2)]
    assert losses[0].shape == (2,) and np.array_equal(*losses)  # 20 showers: two whole blocks of 8


def test_looks_become_rows_tables_and_figures(toy, config, looks, tmp_path):
    rows = collect(config, looks.values())
    assert {(row["sample"], row["selection"], row["reference"]) for row in rows} == {
        ("onwards", "toy", "toy"),
        ("again", "toy", "toy"),
    }
    found = {(row["sample"], row["metric"]): row for row in rows}
    before, after, forgot = (found["again", name] for name in ("loss_of_parent", "loss", "forgetting"))
    assert forgot["value"] == pytest.approx(after["value"] - before["value"], abs=1e-6) and forgot["value"] != 0
    assert found["again", "resolution"]["error"] > 0 and forgot["n"] == 20
    assert summarise(rows)["samples"] == [] and binned_table(rows)["lines"] == []
    assert prediction_table(rows)["samples"] == ["again", "onwards"]
    tables = gather(config, list(looks.values()))
    shower = read_json(looks["pixels"])["tables"]["attention"]
    assert shower["noise"] == 1.0 and np.shape(shower["from_asking"]) == (1, 2, 1, 3)
    np.testing.assert_allclose(np.sum(shower["from_asking"], axis=(2, 3)), 1, atol=1e-5)
    truth = held_out([Part.open(part) for part in toy.parts], config.splits, "reference", 20)
    assert shower["incident_energy_mev"] == pytest.approx(float(truth.incident_energy.max()))
    for name in ("attention", "forgetting"):
        draw(name, tables, tmp_path / f"{name}.pdf", {})
        assert (tmp_path / f"{name}.png").stat().st_size > 3000
        assert read_json(tmp_path / f"{name}.json")["numbers"]


def test_a_run_without_anything_to_see_is_refused(toy, config, models, tmp_path):
    with pytest.raises(ExaminationError, match=r"runs\.energy: expected a run with attention to draw or data of its"):
        examine(config, "energy", models, {}, tmp_path / "x.json")


def test_a_class_head_of_detectors_is_not_asked(test_config):
    head = HeadSpec(predict="theta").model_dump(exclude_none=True)
    test_config["runs"]["angle"] = {**test_config["runs"]["energy"], "head": head}
    test_config["runs"]["more"] = {**test_config["runs"]["angle"], "start_from": "angle"}
    assert load_config(test_config).old_data("more") == {}  # the same data
