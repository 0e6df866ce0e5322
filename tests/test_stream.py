"""Streams: blocks put back by their places are what is read at once, for any block size and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from data_fixtures import make_part, same

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import ComputeSpec, SplitSpec
from pipeline.data.compute import Workers, client_for
from pipeline.data.store import StoreError, held_out, training_set
from pipeline.data.stream import ShowerStream, held_out_stream, training_stream
from pipeline.evaluation import observables
from pipeline.evaluation.observables import observe

SPLITS = SplitSpec(train=0.4, validation=0.1, test=0.5)


@pytest.fixture
def parts(tmp_path, make_showers):
    return [make_part(tmp_path, make_showers(n, seed=n), f"p{n}") for n in (40, 25)]


def test_streams_are_the_sets_of_the_store(parts) -> None:
    assert same(held_out_stream(parts, SPLITS, "floor", 7).read(), held_out(parts, SPLITS, "floor", 7))
    assert same(training_stream(parts, SPLITS).read(), training_set(parts, SPLITS))


@pytest.mark.parametrize("showers", [1, 3, 1000])
def test_blocks_hold_every_shower_at_its_place(parts, showers) -> None:
    stream = training_stream(parts, SPLITS)
    whole, found = stream.read(), []
    for places, block in stream.blocks(showers):
        assert len(block) == len(places) <= showers and same(block, whole.take(places))
        found += places.tolist()
    assert sorted(found) == list(range(len(stream)))
    np.testing.assert_array_equal(stream.incident_energy, whole.incident_energy)
    np.testing.assert_array_equal(stream.theta, whole.theta)


def test_blocks_are_rebinned_and_cut(parts) -> None:
    stream = ShowerStream.of(parts[0]).rebin((2, 1, 1)).rebin((1, 3, 1)).cut(0.3)
    assert stream.mesh == parts[0].mesh.rebinned((2, 3, 1))
    assert same(stream.read(), parts[0].read().rebin((2, 3, 1)).cut(0.3))
    with pytest.raises(ValueError, match="expected rebin before cut"):
        stream.rebin((1, 1, 1))


def test_chosen_showers_keep_their_order(parts) -> None:
    stream = ShowerStream.of(parts[0].read())
    rows = np.array([7, 2, 2, 30])
    assert same(stream.take(rows).read(), parts[0].read().take(rows))
    assert same(stream.first(3).read(), parts[0].read(slice(0, 3)))
    assert len(stream.first(0).read()) == 0


def test_parts_that_differ_are_refused(make_showers) -> None:
    other = CylinderMesh(2, 3, 5, dr_mm=2.0, dz_mm=3.0)
    sides = [ShowerStream.of(RaggedShowers.from_dense(s)) for s in (make_showers(2), make_showers(2, mesh=other))]
    with pytest.raises(StoreError, match="expected parts of one mesh, detector and particle"):
        ShowerStream((*sides[0].parts, *sides[1].parts), np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_a_table_is_the_same_for_any_number_of_threads(parts, monkeypatch) -> None:
    monkeypatch.setattr(observables, "BLOCK_SHOWERS", 4)
    stream = training_stream(parts, SPLITS)
    tables = [observe(stream, workers=Workers(n)) for n in (1, 3)]
    whole = observe(stream.read())
    for name, column in tables[0].items():
        assert column.tobytes() == tables[1][name].tobytes() == whole[name].tobytes(), name


def test_a_table_is_the_same_in_processes_of_their_own(parts) -> None:
    stream = training_stream(parts, SPLITS).rebin((2, 1, 1)).cut(0.1)
    with client_for(ComputeSpec(scheduler="distributed", workers=1)) as workers:
        table = observe(stream, workers=workers)
    for name, column in observe(stream).items():
        assert column.tobytes() == table[name].tobytes(), name
