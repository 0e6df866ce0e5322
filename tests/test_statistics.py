"""Statistics: merged states are NumPy in one go, whatever the pieces."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.data.spectrum import RELATIVE_ERROR, EnergySpectrum
from pipeline.data.statistics import CellStatistics, Statistics, StatisticsError, merged

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


def statistics_of(hits: RaggedShowers, fill: float = 0.0) -> Statistics:
    """The state of showers whose energies are exp(values) MeV."""
    energy = np.exp(hits.energy)
    showers = np.bincount(hits.shower_of_hit, weights=energy, minlength=len(hits))
    return Statistics(CellStatistics.of(hits, fill), EnergySpectrum.of(showers, energy, MESH.n_cells))


@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    order=st.randoms(use_true_random=False),
    fill=st.sampled_from([0.0, -6.907755]),
)
@settings(max_examples=40, deadline=None)
def test_any_split_merged_in_any_order_is_one_go(seed: int, cuts: list[int], order: Random, fill: float) -> None:
    hits = some_hits(seed, 50)
    edges = [0, *sorted(cuts), 50]
    pieces = [statistics_of(hits.take(np.arange(a, b)), fill) for a, b in itertools.pairwise(edges)]
    order.shuffle(pieces)
    whole, state = statistics_of(hits, fill), merged(pieces)
    assert (state.cells.count, state.spectrum.n_cells) == (50, whole.spectrum.n_cells)
    np.testing.assert_array_equal(state.cells.hits, whole.cells.hits)
    assert state.cells.largest == whole.cells.largest
    np.testing.assert_array_equal(state.spectrum.counts, whole.spectrum.counts)
    assert state.spectrum.largest_shower_mev == whole.spectrum.largest_shower_mev
    assert state.spectrum.largest_cell_mev == whole.spectrum.largest_cell_mev
    assert state.spectrum.quantile_mev(0.9) == whole.spectrum.quantile_mev(0.9)
    np.testing.assert_allclose(state.cells.mean, whole.cells.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.cells.m2, whole.cells.m2, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), fill=st.sampled_from([0.0, -6.907755]))
@settings(max_examples=20, deadline=None)
def test_one_go_is_numpys(seed: int, fill: float) -> None:
    hits = some_hits(seed, 50)
    state, values = CellStatistics.of(hits, fill), dense(hits, fill)
    tables = state.tables()
    np.testing.assert_allclose(tables["mean_all"], values.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tables["std_all"], values.std(axis=0), rtol=1e-10, atol=1e-10)
    for index in np.ndindex(MESH.shape):
        own = hits.energy[hits.cell == np.ravel_multi_index(index, MESH.shape)].astype(float)
        assert state.hits[index] == len(own)
        if len(own):
            np.testing.assert_allclose(tables["mean_hit"][index], own.mean(), rtol=1e-12)
            np.testing.assert_allclose(tables["std_hit"][index], own.std(), rtol=1e-10, atol=1e-10)
    assert state.largest == hits.energy.max()


@given(seed=st.integers(0, 2**32 - 1), q=st.floats(0.001, 1.0), n=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_within_the_stated_error_of_numpys(seed: int, q: float, n: int) -> None:
    drawn = np.random.default_rng(seed).lognormal(-3, 4, size=n)
    energy = np.maximum(drawn, 2.0**-24).astype(np.float32)  # the bins begin there: test_bins_hold_what_is_beyond_them
    spectrum = EnergySpectrum.of(np.array([energy.sum(dtype=float)]), energy, 2 * n)
    exact = np.quantile(energy.astype(float), q, method="inverted_cdf")
    assert abs(spectrum.quantile_mev(q) - exact) <= RELATIVE_ERROR * exact
    with_empty = np.quantile(np.append(energy.astype(float), np.zeros(n)), q, method="inverted_cdf")
    assert abs(spectrum.quantile_mev(q, "all") - with_empty) <= RELATIVE_ERROR * with_empty
    assert spectrum.quantile_mev(1.0) <= energy.max() == spectrum.largest_cell_mev


def test_bins_hold_what_is_beyond_them() -> None:
    spectrum = EnergySpectrum.of(np.ones(1), np.array([1e-30, 1e30], np.float32), 5)
    assert spectrum.counts[0] == spectrum.counts[-1] == 1 and spectrum.n_hits == 2


def test_no_shower_has_no_quantile() -> None:
    nothing = EnergySpectrum.of(np.zeros(0), np.zeros(0, np.float32), 5)
    assert nothing.quantile_mev(0.5) == nothing.largest_shower_mev == 0
    empty_shower = EnergySpectrum.of(np.zeros(1), np.zeros(0, np.float32), 5)
    assert empty_shower.n_cells == 5 and empty_shower.quantile_mev(0.99, "all") == 0


def test_dense_values_are_hits_everywhere() -> None:
    values = np.random.default_rng(4).normal(size=(30, *MESH.shape))
    state = CellStatistics.of_dense(values)
    np.testing.assert_allclose(state.tables()["std_all"], values.std(axis=0), rtol=1e-12)
    assert (state.hits == 30).all() and state.largest == values.max()


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
    for name in ("count", "largest", "hits", "mean", "m2"):
        np.testing.assert_array_equal(getattr(both, name), getattr(state, name))


def test_a_saved_state_reads_back_and_has_the_same_bytes(tmp_path: Path) -> None:
    state = statistics_of(some_hits(3, 20), -1.0)
    state.save(tmp_path / "a.npz")
    again = Statistics.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    np.testing.assert_array_equal(again.cells.m2, state.cells.m2)
    assert again.spectrum.quantile_mev(0.5) == state.spectrum.quantile_mev(0.5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_meshes_and_fills_do_not_merge() -> None:
    with pytest.raises(StatisticsError, match=r"expected a mesh \(2, 3, 4\) and fill 0.0, got \(2, 3, 4\) and -1.0"):
        CellStatistics.empty(MESH.shape).merge(CellStatistics.empty(MESH.shape, -1.0))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(StatisticsError, match=r"a\.npz: expected saved statistics"):
        Statistics.load(tmp_path / "a.npz")
