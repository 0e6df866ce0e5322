"""Statistics: merged states are NumPy in one go, whatever the pieces."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.data.statistics import CellStatistics, StatisticsError, merged

MESH = CylinderMesh(2, 3, 4, 1.0, 1.0)


def some_hits(seed: int, n: int) -> RaggedShowers:
    """Sparse values of any sign, as a prefix makes them."""
    rng = np.random.default_rng(seed)
    hit = rng.uniform(size=(n, MESH.n_cells)) < 0.4
    cell = np.nonzero(hit)[1].astype(np.uint16)
    return RaggedShowers(
        hit.sum(axis=1),
        cell,
        rng.normal(-3, 2, size=len(cell)).astype(np.float32),
        np.full(n, 1000.0),
        np.full(n, 1.57),
        np.zeros(n),
        MESH,
        "SiW",
    )


def dense(hits: RaggedShowers, fill: float) -> np.ndarray:
    block = np.full((len(hits), MESH.n_cells), fill)
    block[hits.shower_of_hit, hits.cell] = hits.energy
    return block.reshape(-1, *MESH.shape)


@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 50), max_size=4),
    fill=st.sampled_from([0.0, -6.907755]),
)
@settings(max_examples=30, deadline=None)
def test_merged_pieces_are_numpy_in_one_go(seed: int, cuts: list[int], fill: float) -> None:
    hits = some_hits(seed, 50)
    edges = [0, *sorted(cuts), 50]
    pieces = [hits.take(np.arange(a, b)) for a, b in itertools.pairwise(edges)]
    state = merged(CellStatistics.of(piece, fill) for piece in pieces)
    values = dense(hits, fill)
    tables = state.tables()
    np.testing.assert_allclose(tables["mean_all"], values.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(tables["std_all"], values.std(axis=0), rtol=1e-9, atol=1e-9)
    for index in np.ndindex(MESH.shape):
        own = hits.energy[hits.cell == np.ravel_multi_index(index, MESH.shape)].astype(float)
        assert state.hits[index] == len(own)
        if len(own):
            np.testing.assert_allclose(tables["mean_hit"][index], own.mean(), rtol=1e-10)
            np.testing.assert_allclose(tables["std_hit"][index], own.std(), rtol=1e-9, atol=1e-9)
            assert (state.minimum[index], state.maximum[index]) == (own.min(), own.max())


@pytest.mark.parametrize("over", ["all", "hits"])
@pytest.mark.parametrize("per", [(), ("z",), ("r", "z"), ("r", "phi", "z")])
def test_moments_over_several_cells_are_numpys(per: tuple[str, ...], over: str) -> None:
    hits = some_hits(1, 200)
    mean, deviation = CellStatistics.of(hits, -6.9).over(over).moments_per(per)
    values = dense(hits, -6.9 if over == "all" else np.nan)
    axes = (0, *(i for i, name in enumerate(("r", "phi", "z"), start=1) if name not in per))
    np.testing.assert_allclose(mean[None], np.nanmean(values, axis=axes, keepdims=True), rtol=1e-10)
    np.testing.assert_allclose(deviation[None], np.nanstd(values, axis=axes, keepdims=True), rtol=1e-10)


def test_the_empty_state_is_neutral() -> None:
    state = CellStatistics.of(some_hits(2, 20), -1.0)
    both = CellStatistics.empty(MESH.shape, -1.0).merge(state)
    for name in ("count", "hits", "mean", "m2", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(both, name), getattr(state, name))


def test_a_saved_state_reads_back_and_has_the_same_bytes(tmp_path: Path) -> None:
    state = CellStatistics.of(some_hits(3, 20), -1.0)
    state.save(tmp_path / "a.npz")
    again = CellStatistics.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    np.testing.assert_array_equal(again.m2, state.m2)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_meshes_and_fills_do_not_merge() -> None:
    with pytest.raises(StatisticsError, match=r"expected a mesh \(2, 3, 4\) and fill 0.0, got \(2, 3, 4\) and -1.0"):
        CellStatistics.empty(MESH.shape).merge(CellStatistics.empty(MESH.shape, -1.0))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(StatisticsError, match=r"a\.npz: expected saved statistics"):
        CellStatistics.load(tmp_path / "a.npz")
