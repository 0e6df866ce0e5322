"""Loading: sources that agree, exact symmetries, order, shares of ranks, and batches built ahead."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_fixtures import MESH, SYMMETRIES, ToyExperiment, make_toy_experiment, toy_showers

from pipeline.calorimeter import RaggedShowers
from pipeline.config import AugmentSpec, RecipeSpec
from pipeline.data.hitwise import commutes_with_phi, is_cellwise
from pipeline.data.statistics import CellStatistics
from pipeline.data.store import Part, training_set
from pipeline.data.transforms import Transform
from pipeline.provenance import read_json
from pipeline.training.batches import Batch, Buffers, Turns
from pipeline.training.loading import Loader, share
from pipeline.training.prefetch import Prefetcher
from pipeline.training.sources import PrefixSource, ReadySource, StoreSource, prefix_source

TURNS = AugmentSpec(**SYMMETRIES)


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


def sources(toy: ToyExperiment):
    config = toy.config()
    transform = Transform.from_state(read_json(toy.transform))
    parts, prefix = ([Part.open(p) for p in paths] for paths in (toy.parts, toy.prefix))
    return (
        StoreSource(training_set(parts, config.splits), transform),
        prefix_source(training_set(prefix, config.splits), prefix[0].fill, transform),
    )


def fitted(*steps, n: int = 30):
    """Showers, the recipe fitted to them, and their prefix."""
    showers = RaggedShowers.from_dense(toy_showers(n, 5))
    transform = Transform.from_recipe(RecipeSpec.model_validate(list(steps)), MESH)
    prefix = transform.prefix_ragged(showers)
    return showers, transform.fit(CellStatistics.of(prefix, transform.fill)), prefix


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.values, other.values), (one.hit, other.hit)]
    pairs += zip(vars(one.conditions).values(), vars(other.conditions).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def kept(batch: Batch) -> Batch:
    """A copy that outlives the buffers."""
    return Batch(batch.values.clone(), batch.hit.clone(), batch.conditions.repeat(1))


# ------------------------------------------------------------------------------------- sources


def test_raw_parts_and_prefix_give_the_same_batch(toy):
    store, prefix = (Loader([source], seed=1).training_batch(0, 24) for source in sources(toy))
    assert torch.equal(store.hit, prefix.hit)
    assert torch.allclose(store.values, prefix.values, atol=1e-5)
    for name, value in vars(store.conditions).items():
        assert torch.allclose(value, getattr(prefix.conditions, name), rtol=1e-5), name


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"crop": {"cells": [4, 10, 5]}}, {"rebin": {"factors": [2, 1, 1]}}, {"log": {"epsilon_mev": 1e-3}}],
        [{"cut": {"threshold_mev": 0.5}}, {"rebin": {"factors": [2, 5, 3]}}, "log1p", {"standardise": {"per": ["z"]}}],
        ["divide_by_incident_energy", {"logit": {}}, {"standardise": {"per": ["r", "phi", "z"]}}],
        [{"power": {"exponent": 0.3}}, "standardise"],
    ],
)
def test_hits_over_an_empty_shower_are_the_dense_transform(steps):
    showers, transform, prefix = fitted(*steps)
    assert is_cellwise(transform)
    dense = showers.dense()
    expected = transform.forward(dense.energy, dense.incident_energy)
    rows = np.array([3, 0, 29, 3])
    for source in (StoreSource(showers, transform), prefix_source(prefix, transform.fill, transform)):
        batch = Loader([source], 0).batch(rows)
        assert np.allclose(batch.values, expected[rows], atol=1e-5)
        energy = np.where(batch.hit, transform.inverse(expected, dense.incident_energy)[rows], 0).sum(axis=(1, 2))
        assert np.allclose(batch.conditions.layer_energy, energy, rtol=1e-4, atol=1e-3)


def test_a_suffix_that_needs_whole_showers_is_applied_to_whole_showers(monkeypatch):
    _, transform, prefix = fitted("log1p", {"standardise": {"per": ["z"]}})
    fast = Loader([prefix_source(prefix, transform.fill, transform)], 0).training_batch(0, 12)
    monkeypatch.setattr("pipeline.training.sources.is_cellwise", lambda _: False)
    source = prefix_source(prefix, transform.fill, transform)
    assert isinstance(source, PrefixSource)
    slow = Loader([source], 0).training_batch(0, 12)
    assert torch.equal(slow.values, fast.values) and torch.equal(slow.hit, fast.hit)
    assert torch.allclose(slow.conditions.layer_energy, fast.conditions.layer_energy, rtol=1e-6)


def test_a_hit_with_the_value_of_an_empty_cell_is_still_a_hit():
    showers, transform, _ = fitted({"log": {"epsilon_mev": 1e-3}})
    tiny = replace(showers, energy=np.full_like(showers.energy, 1e-12))
    source = ReadySource.of_prefix(transform.prefix_ragged(tiny), transform.fill, transform)
    batch = Loader([source], 0).batch(np.arange(5))
    assert not source.distinct and len(batch.values.unique()) == 1
    assert np.array_equal(batch.hit, tiny.dense().energy[:5] > 0)


def test_buffers_that_held_another_batch_do_not_show(toy):
    for source in sources(toy):
        loader, into = Loader([source], 1), Buffers.empty(8, source.shape)
        loader.training_batch(0, 8, into=into)
        assert same(loader.training_batch(8, 8, into=into), loader.training_batch(8, 8))


# ---------------------------------------------------------------------------------- symmetries


def test_turns_move_raw_cells_and_keep_everything_else():
    showers, transform, _ = fitted()
    turns = Turns(np.array([False, True, True]), np.array([3, 0, 4]))
    rows = np.array([7, 7, 2])
    dense = showers.dense().energy
    expected = [np.roll(dense[7], 3, axis=1), dense[7][:, ::-1], np.roll(dense[2][:, ::-1], 4, axis=1)]
    assert np.array_equal(StoreSource(showers, transform).energies(rows, turns), np.stack(expected))


def test_turning_the_prefix_is_turning_the_raw_cells():
    showers, transform, prefix = fitted(
        {"rebin": {"factors": [2, 1, 3]}},
        {"cut": {"threshold_mev": 0.5}},
        "log1p",
        {"standardise": {"per": ["r", "z"]}},
    )
    assert commutes_with_phi(transform)
    pair = (StoreSource(showers, transform), ReadySource.of_prefix(prefix, transform.fill, transform))
    raw, ready = (Loader([source], 3, TURNS).training_batch(0, 16) for source in pair)
    assert torch.equal(raw.hit, ready.hit)
    assert torch.allclose(raw.values, ready.values, atol=1e-5)
    plain = Loader([pair[1]], 3).training_batch(0, 16)
    assert not torch.equal(plain.hit, ready.hit)
    assert torch.equal(plain.conditions.layer_energy, ready.conditions.layer_energy)


@pytest.mark.parametrize(
    "steps", [[{"rebin": {"factors": [1, 2, 1]}}, "log"], ["log", {"standardise": {"per": ["phi"]}}]]
)
def test_a_recipe_that_sums_or_fits_along_phi_does_not_commute(steps):
    assert not commutes_with_phi(fitted(*steps)[1])


def test_all_turns_are_drawn():
    turns = Turns.draw(TURNS, np.zeros(2000, int), [10], [1])
    assert len(set(zip(turns.mirror.tolist(), turns.shift.tolist(), strict=True))) == 20
    assert not Turns.draw(AugmentSpec(reflect_phi=True), np.zeros(50, int), [10], [1]).shift.any()


# ----------------------------------------------------------------------------- order and ranks


def test_every_shower_is_seen_once_in_a_pass(toy):
    loader = Loader([sources(toy)[1]], seed=3)
    rows = np.concatenate([loader.rows(i, 8) for i in range(0, 2 * len(loader) // 8 * 8, 8)])
    assert sorted(rows[: len(loader)]) == list(range(len(loader)))
    assert not np.array_equal(rows[: len(loader) // 2], rows[len(loader) : len(loader) + len(loader) // 2])


def test_a_batch_larger_than_a_pass_goes_on_with_the_next(toy):
    loader = Loader([sources(toy)[1]], seed=3)
    n = len(loader)
    assert np.array_equal(loader.rows(0, 2 * n + 3)[n - 2 : n + 5], loader.rows(n - 2, 7))


def test_batches_of_two_data_sets_keep_the_order(toy):
    store, prefix = sources(toy)
    loader = Loader([store, prefix], seed=0)
    n = len(store)
    batch = loader.batch(np.array([n + 2, 1, n, 2]))
    assert batch.conditions.domain.tolist() == [1, 0, 1, 0]
    assert torch.allclose(batch.values[0], batch.values[3], atol=1e-5)
    second = [batch.conditions.domain.tolist() for batch in loader.in_order(20, 30, domain=1)]
    assert second == [[1] * 20, [1] * 10]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_slices_of_all_ranks_are_the_batch(toy, world):
    loader = Loader(sources(toy), 2, TURNS)
    whole = loader.training_batch(32, 16)
    slices = [loader.training_batch(32, 16, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([s.values for s in slices]), whole.values)
    assert torch.equal(torch.cat([s.hit for s in slices]), whole.hit)
    for name, value in vars(whole.conditions).items():
        assert torch.equal(torch.cat([getattr(s.conditions, name) for s in slices]), value), name


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"rank 1 of 4: expected a batch that all ranks.*got 10 showers; change train"):
        share(10, 1, 4)


# ------------------------------------------------------------------------------------ prefetch


def test_batches_built_ahead_are_the_same(toy):
    loader = Loader([sources(toy)[1]], 1, TURNS)
    with Prefetcher(loader, 16, 96, 8) as ahead:
        for samples in range(16, 96, 8):
            assert same(ahead.training_batch(samples, 8), loader.training_batch(samples, 8))
        with pytest.raises(ValueError, match=r"prefetch: expected to be asked for 8 showers after 96, before 96, got"):
            ahead.training_batch(96, 8)


def test_an_error_while_building_is_raised_where_the_batch_is_asked_for(toy):
    loader = Loader([sources(toy)[1]], 1)

    def training_batch(samples, *rest):
        if samples == 24:
            raise OSError("the disk is gone")
        return loader.training_batch(samples, *rest)

    broken = SimpleNamespace(training_batch=training_batch, shape=loader.shape)
    with Prefetcher(broken, 0, 96, 8) as ahead:
        for samples in (0, 8, 16):
            ahead.training_batch(samples, 8)
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                ahead.training_batch(24, 8)


def test_leaving_early_ends_the_thread_and_bounds_what_is_built(toy):
    loader, built = Loader([sources(toy)[1]], 1), []

    def training_batch(samples, *rest):
        built.append(samples)
        return loader.training_batch(samples, *rest)

    with pytest.raises(KeyboardInterrupt), Prefetcher(replace_batch(loader, training_batch), 0, 8000, 8) as ahead:
        ahead.training_batch(0, 8)
        ahead.training_batch(8, 8)
        raise KeyboardInterrupt
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
    assert len(built) <= 4


def replace_batch(loader: Loader, training_batch) -> SimpleNamespace:
    return SimpleNamespace(training_batch=training_batch, shape=loader.shape)


def test_nothing_is_built_where_the_slice_has_ended(toy):
    with Prefetcher(Loader([sources(toy)[1]], 1), 96, 96, 8):
        pass


def test_seeds_and_orders_do_not_depend_on_when_they_are_asked(toy):
    one, other = (Loader([sources(toy)[1]], 1, TURNS) for _ in range(2))
    batches = {samples: kept(one.training_batch(samples, 8)) for samples in (0, 400, 8)}
    assert all(same(other.training_batch(samples, 8), batches[samples]) for samples in (8, 400, 0))
    assert not same(replace(one, seed=2, _orders={}).training_batch(0, 8), batches[0])
