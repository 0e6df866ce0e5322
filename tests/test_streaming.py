"""Streaming: the same showers as in memory, in an order of its own that any rank and any restart finds again."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_loading import TURNS, same
from training_fixtures import CONTENT, TRAINING, ToyExperiment, make_toy_experiment

from pipeline.config import AugmentSpec
from pipeline.data.store import Part, training_rows, training_set
from pipeline.data.transforms import Transform
from pipeline.provenance import read_json
from pipeline.training.batches import Batch
from pipeline.training.datasets import training_loader
from pipeline.training.dense_source import DenseSource
from pipeline.training.loading import Loader
from pipeline.training.prefetch import Prefetcher
from pipeline.training.request import fitted_transforms
from pipeline.training.sources import ReadySource, StoreSource
from pipeline.training.stored import StoredShowers, total_bytes
from pipeline.training.streaming import StreamLoader
from pipeline.training.trainer import train

SMALL_GB = 10e-6  # windows of 4 kB: seven or so in the toy's 82 showers


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyExperiment:
    return make_toy_experiment(tmp_path_factory.mktemp("toy"))


def stored(toy: ToyExperiment, from_prefix: bool = True, limit: int | None = None) -> StoredShowers:
    parts = tuple(Part.open(path) for path in (toy.prefix if from_prefix else toy.parts))
    choice = training_rows(parts, toy.config().splits, "train", limit)
    return StoredShowers(parts, choice, Transform.from_state(read_json(toy.transform)), from_prefix)


def showers_of(batch: Batch) -> list[bytes]:
    """Each shower as bytes, to compare sets of them."""
    return [
        values.numpy().tobytes() + energy.numpy().tobytes()
        for values, energy in zip(batch.values, batch.conditions.incident_energy, strict=True)
    ]


def one_pass(loader, batch: int = 8) -> list[bytes]:
    batches = [loader.training_batch(i, min(batch, len(loader) - i)) for i in range(0, len(loader), batch)]
    return [shower for b in batches for shower in showers_of(b)]


# ------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("from_prefix", [True, False])
def test_showers_read_in_pieces_are_those_read_at_once(toy, from_prefix, monkeypatch):
    monkeypatch.setattr("pipeline.training.stored.StoredShowers.pieces", lambda own: own.stream.pieces(7))
    own = stored(toy, from_prefix)
    read, whole = own.in_memory(), own.source(training_set(own.parts, toy.config().splits))
    assert isinstance(read, ReadySource if from_prefix else StoreSource)
    assert same(*(Loader([source], 4).training_batch(0, 64) for source in (read, whole)))
    assert np.array_equal(read.showers.theta, whole.showers.theta)


@pytest.mark.parametrize("augment", [AugmentSpec(), TURNS])
def test_dense_in_memory_gives_the_same_batches(toy, augment, monkeypatch):
    monkeypatch.setattr("pipeline.training.stored.StoredShowers.pieces", lambda own: own.stream.pieces(7))
    own = stored(toy)
    loaders = [Loader([own.in_memory(dense)], 4, augment) for dense in (False, True)]
    assert isinstance(loaders[1].sources[0], DenseSource)
    for samples in (0, 64):
        assert same(*(loader.training_batch(samples, 64) for loader in loaders))


@pytest.mark.parametrize("batch", [2, 64])
def test_dense_showers_are_copied_in_any_number_of_threads(toy, batch, monkeypatch):
    monkeypatch.setattr("pipeline.training.dense_source._BYTES_PER_THREAD", 1)
    monkeypatch.setattr("pipeline.training.dense_source.default_threads", lambda: 3)
    own = stored(toy)
    assert same(*(Loader([own.in_memory(dense)], 4).training_batch(0, batch) for dense in (False, True)))


def test_dense_showers_among_those_of_other_data_sets_are_the_same(toy):
    own = stored(toy)
    hits, dense = own.in_memory(), own.in_memory(dense=True)
    assert same(*(Loader([hits, source, hits], 4).training_batch(0, 96) for source in (hits, dense)))


def test_dense_needs_no_more_than_it_says(toy):
    own = stored(toy)
    held = sum(tensor.nbytes for tensor in vars(own.in_memory(dense=True).held).values())
    assert held <= own.dense_bytes <= 1.1 * held


def test_the_budget_counts_what_a_source_holds(toy):
    own = stored(toy)
    source = own.in_memory()
    columns = [value for value in vars(source.showers).values() if isinstance(value, np.ndarray)]
    held = sum(column.nbytes for column in [*columns, source.layer_energy])
    assert held <= total_bytes([own]) <= 1.5 * held


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({}, Loader),
        ({"memory_gb": SMALL_GB}, StreamLoader),
        ({"loading": "stream"}, StreamLoader),
        ({"loading": "memory", "memory_gb": SMALL_GB}, Loader),
    ],
)
def test_configuration_and_data_decide_where_showers_are(toy, tmp_path, spec, kind):
    runs = {"pixels": {**CONTENT["runs"]["pixels"], "training": {**TRAINING, **spec}}}
    request = toy.request("pixels", tmp_path, toy.config(runs=runs, samples={}))
    assert type(training_loader(request, fitted_transforms(request))) is kind


# -------------------------------------------------------------------------------------- order


def test_a_pass_streams_every_shower_once(toy):
    loader, memory = StreamLoader([stored(toy)], 1, memory_gb=SMALL_GB), Loader([stored(toy).in_memory()], 1)
    assert len(loader._pass(0).first) > 4  # several windows
    assert sorted(one_pass(loader)) == sorted(one_pass(memory))
    second = showers_of(loader.training_batch(len(loader), len(loader)))
    assert sorted(second) == sorted(one_pass(memory)) and second != one_pass(loader)
    loader.close()


def test_a_batch_does_not_depend_on_those_before(toy):
    one, other = (StreamLoader([stored(toy), stored(toy)], 5, memory_gb=SMALL_GB) for _ in range(2))
    batches = {samples: one.training_batch(samples, 12) for samples in range(0, 360, 12)}
    for samples in (348, 0, 120, 132, 96):
        assert same(other.training_batch(samples, 12), batches[samples])
    one.close(), other.close()


def test_another_seed_gives_another_order(toy):
    one, other = (StreamLoader([stored(toy)], seed, memory_gb=SMALL_GB) for seed in (1, 2))
    assert one_pass(one) != one_pass(other)
    one.close(), other.close()


def test_going_on_reads_no_more_than_two_windows(toy, monkeypatch):
    loader, read = StreamLoader([stored(toy)], 1, memory_gb=SMALL_GB), []
    source = StoredShowers.source
    monkeypatch.setattr(StoredShowers, "source", lambda own, showers: read.append(showers) or source(own, showers))
    samples = len(loader) // 2
    loader.training_batch(samples, 1)
    windows = [key for key, _ in loader._spans(samples, 1)]
    loader._readers.shutdown()
    plan = loader._pass(0)
    assert len(read) == int(np.isin(plan.window, [windows[0][1], windows[0][1] + 1]).sum()) < len(plan.order) / 2


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("from_prefix", [True, False])
def test_the_slices_of_all_ranks_are_the_batch(toy, world, from_prefix):
    own = [stored(toy, from_prefix), stored(toy, from_prefix, limit=30)]
    loader = StreamLoader(own, 2, TURNS, memory_gb=SMALL_GB)
    ranks = [StreamLoader(own, 2, TURNS, memory_gb=SMALL_GB) for _ in range(world)]
    for samples in (0, 16, 96):  # the last one spans two passes
        whole = loader.training_batch(samples, 16)
        slices = [ranks[rank].training_batch(samples, 16, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat([s.values for s in slices]), whole.values)
        assert torch.equal(torch.cat([s.hit for s in slices]), whole.hit)
        for name, value in vars(whole.conditions).items():
            assert torch.equal(torch.cat([getattr(s.conditions, name) for s in slices]), value), name
    for streaming in (loader, *ranks):
        streaming.close()


def test_showers_to_fit_buffers_on_are_always_the_same_and_never_turned(toy):
    one, other = (StreamLoader([stored(toy), stored(toy)], seed, TURNS, memory_gb=SMALL_GB) for seed in (1, 2))
    for batch, again in zip(one.in_order(8, 20, domain=1), other.in_order(8, 20, domain=1), strict=True):
        assert same(batch, again) and set(batch.conditions.domain.tolist()) == {1}
    everything = sorted(shower for batch in one.in_order(16, domain=0) for shower in showers_of(batch))
    assert everything == sorted(one_pass(Loader([stored(toy).in_memory()], 1)))


# ------------------------------------------------------------------------- memory, background


def test_memory_follows_the_budget_and_not_the_data(toy, monkeypatch):
    own = [replace(stored(toy)) for _ in range(10)]
    peaks = []
    for n in (2, 10):
        loader = StreamLoader(own[:n], 1, memory_gb=1e-4)
        tracemalloc.start()
        for samples in range(0, len(loader), 8):
            loader.training_batch(samples, 8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        loader.close()
    assert peaks[1] < 1.5 * peaks[0] + 2e5


def test_streamed_batches_built_ahead_are_the_same(toy):
    loader, plain = (StreamLoader([stored(toy)], 1, TURNS, memory_gb=SMALL_GB) for _ in range(2))
    with Prefetcher(loader, 16, 160, 8) as ahead:
        for samples in range(16, 160, 8):
            assert same(ahead.training_batch(samples, 8), plain.training_batch(samples, 8))
    loader.close(), plain.close()
    assert not any(thread.name.startswith("window") for thread in threading.enumerate())


def test_an_error_while_reading_is_raised_where_the_batch_is_asked_for(toy, monkeypatch):
    loader = StreamLoader([stored(toy)], 1, memory_gb=SMALL_GB)
    monkeypatch.setattr(StoredShowers, "read", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="the disk is gone"), Prefetcher(loader, 0, 96, 8) as ahead:
        ahead.training_batch(0, 8)
    loader.close()


# ------------------------------------------------------------------------------------- trainer


@pytest.fixture(scope="module")
def streamed(toy):
    runs = {**CONTENT["runs"], "generator": {**CONTENT["runs"]["generator"]}}
    runs["generator"]["training"] = {**runs["generator"]["training"], "loading": "stream", "memory_gb": SMALL_GB}
    return toy.config(runs=runs)


def test_a_streamed_training_in_slices_gives_the_same_bytes(toy, streamed, tmp_path, monkeypatch):
    whole = toy.request("generator", tmp_path / "whole", streamed)
    train(whole)
    for k in (1, 2):
        train(toy.request("generator", tmp_path / "slices", streamed, part=(k, 2)))
    weights = [(tmp_path / name / "generator" / "model.safetensors").read_bytes() for name in ("whole", "slices")]
    assert weights[0] == weights[1]
    assert read_json(whole.manifest)["loading"] == {"mode": "stream", "memory_gb": SMALL_GB}


def test_the_other_mode_does_not_go_on_from_its_checkpoints(toy, streamed, tmp_path):
    train(toy.request("generator", tmp_path, streamed, part=(1, 3)))
    train(toy.request("generator", tmp_path, part=(1, 3)))
    folders = {path.parent.name for path in (tmp_path / "generator").rglob("*.pt")}
    assert len(folders) == 2
