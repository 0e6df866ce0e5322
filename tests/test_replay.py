"""Replay: its share of every batch, whoever looks at it, and old showers that are those of their own loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_loading import TURNS, same
from test_streaming import SMALL_GB, showers_of, stored
from training_fixtures import CONTENT, TRAINING, ToyExperiment, make_toy_experiment

from pipeline.config import ConfigError
from pipeline.provenance import read_json
from pipeline.training.datasets import training_loader
from pipeline.training.loading import Loader
from pipeline.training.replay import Replay
from pipeline.training.request import TrainRequest, fitted_transforms
from pipeline.training.streaming import StreamLoader
from pipeline.training.trainer import train


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


def sides(toy: ToyExperiment) -> tuple[Loader, Loader]:
    """The new showers: those behind the prefix; the old ones: twelve raw showers."""
    raw, ready = stored(toy, from_prefix=False, limit=12), stored(toy)
    return Loader([ready.in_memory()], 1, TURNS), Loader([raw.in_memory()], 2, TURNS)


def replay(toy: ToyExperiment, share: float = 0.2) -> Replay:
    return Replay(*sides(toy), share, of_new=(1,), of_old=(0,))


@given(st.floats(0.001, 0.999), st.integers(0, 10**9), st.integers(1, 300))
def test_any_showers_in_a_row_hold_the_share(share, samples, n):
    old = Replay(None, None, share, (1,), (0,)).is_old(samples, n)
    assert len(old) == n and abs(old.sum() - n * share) < 1 + 1e-6
    assert np.array_equal(old[n // 2 :], Replay(None, None, share, (1,), (0,)).is_old(samples + n // 2, n - n // 2))


def test_both_sides_go_through_their_own_showers(toy):
    loader, (new, old) = replay(toy), sides(toy)
    batches = [loader.training_batch(samples, 10) for samples in range(0, 60, 10)]
    assert all(batch.conditions.domain.tolist() == [1, 1, 1, 1, 0] * 2 for batch in batches)
    for i, batch in enumerate(batches):
        for domain, side, size in ((1, new, 8), (0, old, 2)):
            own, expected = batch.conditions.domain == domain, side.training_batch(size * i, size)
            assert torch.equal(batch.values[own], expected.values) and torch.equal(batch.hit[own], expected.hit)
            assert torch.equal(batch.conditions.layer_energy[own], expected.conditions.layer_energy)
    energies = torch.cat([b.conditions.incident_energy[b.conditions.domain == 0] for b in batches])
    assert sorted(energies.tolist()) == sorted(old.sources[0].showers.incident_energy.tolist())  # one pass, each once


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_slices_of_all_ranks_are_the_batch(toy, world):
    loader = replay(toy, 0.35)
    whole = loader.training_batch(32, 16)
    slices = [loader.training_batch(32, 16, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([s.values for s in slices]), whole.values)
    for name, value in vars(whole.conditions).items():
        assert torch.equal(torch.cat([getattr(s.conditions, name) for s in slices]), value), name


def test_streamed_sides_keep_the_share_and_go_on_anywhere(toy):
    def streamed() -> Replay:
        loaders = (StreamLoader([stored(toy)], seed, memory_gb=SMALL_GB) for seed in (1, 2))
        return Replay(*loaders, 0.25, (0,), (1,))

    one, other = streamed(), streamed()
    batches = {samples: one.training_batch(samples, 8) for samples in range(0, 120, 8)}
    assert all(batch.conditions.domain.sum() == 2 for batch in batches.values())
    for samples in (64, 8):
        assert same(other.training_batch(samples, 8), batches[samples])
    one.close()
    other.close()


def test_showers_in_order_are_those_of_each_data_set(toy):
    loader, (new, old) = replay(toy), sides(toy)
    assert [b.conditions.domain.unique().tolist() for b in loader.in_order(8, 20)] == [[0], [0], [1]]
    for domain, side in ((0, old), (1, new)):
        found = [shower for batch in loader.in_order(8, domain=domain) for shower in showers_of(batch)]
        assert found == [shower for batch in side.in_order(8) for shower in showers_of(batch)]
    assert len(loader) == len(new) + len(old)


# ------------------------------------------------------------------------------------ whole trainings

RUNS = {
    "representation": {**CONTENT["runs"]["representation"], "training": {**TRAINING, "samples": 32}},
    "onwards": {
        "start_from": "representation",
        "data": ["new", "toy"],
        "recipe": "coarse",
        "showers": 30,
        "replay": {"share": 0.25, "showers": 20},
        "training": {**TRAINING, "samples": 64},
    },
}
DATA = {"toy": CONTENT["datasets"]["toy"], "new": {**CONTENT["datasets"]["toy"], "files": "new*.h5"}}


def request(toy: ToyExperiment, folder, part=(1, 1), **options) -> TrainRequest:
    config = toy.config(runs={**RUNS, "onwards": {**RUNS["onwards"], **options}}, datasets=DATA, samples={})
    plain = toy.request("onwards", folder, config, part)
    both = {name: {d: getattr(plain, name)["toy"] for d in DATA} for name in ("parts", "prefix", "transforms")}
    return replace(plain, **both)


def test_a_run_that_replays_resumes_to_the_same_bytes(toy, tmp_path):
    train(toy.request("representation", tmp_path, toy.config(runs=RUNS, datasets=DATA, samples={})))
    whole = request(toy, tmp_path)
    train(whole)
    for k in (1, 2):
        sliced = replace(request(toy, tmp_path, (k, 2)), folder=tmp_path / "sliced")
        train(replace(sliced, manifest=tmp_path / "sliced" / "model.json"))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("onwards", "sliced")]
    assert weights[0] == weights[1]
    record = read_json(whole.manifest)
    assert record["loading"] == {"mode": "replay", "new": {"mode": "memory"}, "old": {"mode": "memory"}}
    assert record["spec"]["replay"] == {"share": 0.25, "showers": 20}
    assert list(record["lineage"]["parts"]) == ["new", "toy"]


def test_each_side_has_its_own_number_of_showers(toy, tmp_path):
    loader = training_loader(request(toy, tmp_path), fitted_transforms(request(toy, tmp_path)))
    assert (len(loader.new), len(loader.old), loader.of_new, loader.of_old) == (30, 20, (0,), (1,))
    streamed = {**TRAINING, "loading": "stream"}
    asked = request(toy, tmp_path, training=streamed)
    loader = training_loader(asked, fitted_transforms(asked))
    assert isinstance(loader.old, StreamLoader) and loader.old.memory_gb == 4.0
    loader.close()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"data": ["toy"]}, r"\['toy'\], which the runs it starts from were trained on, got \['toy'\]"),
        ({"data": ["new"]}, r"\['toy'\], which the runs it starts from were trained on, got \['new'\]"),
        ({"start_from": None, "model": RUNS["representation"]["model"]}, r"\[\], which .* got \['new', 'toy'\]"),
    ],
)
def test_replay_needs_old_and_new_data(toy, tmp_path, change, got):
    with pytest.raises(
        ConfigError, match=r"runs\.onwards\.replay: expected in data both new data sets and some of " + got
    ):
        request(toy, tmp_path, **change)
