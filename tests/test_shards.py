"""Shards written and read directly are zarr's own, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import shards
from pipeline.data.shards import ColumnWriter, ShardError, create_column, read_column
from pipeline.provenance import tree_digest


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK", 16)
    monkeypatch.setattr(shards, "SHARD", 64)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def some_values(n: int, dtype: str = "f4") -> np.ndarray:
    values = np.random.default_rng(n).integers(1, 1000, n).astype(dtype)
    values[100:140] = 0  # a chunk of nothing but the fill value
    return values


def written(folder: Path, values: np.ndarray, pieces: list[int], pool: ThreadPoolExecutor) -> zarr.Array:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    column = ColumnWriter(group, folder, "energy", values.dtype, {"units": "MeV"}, pool)
    for piece in np.split(values, np.cumsum(pieces)):
        column.append(piece)
    column.close()
    return group["energy"]


@pytest.mark.parametrize("dtype", ["f4", "u2", "u4"])
@pytest.mark.parametrize("n", [0, 1, 16, 17, 64, 65, 200, 256])
def test_the_bytes_are_zarrs(n: int, dtype: str, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    values = some_values(n, dtype)
    written(tmp_path / "ours", values, [n // 3, n // 4], pool)
    group = zarr.open_group(tmp_path / "zarrs", mode="w", zarr_format=3)
    array = create_column(group, "energy", dtype, n, ("hit",), {"units": "MeV"})
    if n:
        array[:] = values
    assert tree_digest(tmp_path / "ours") == tree_digest(tmp_path / "zarrs")


@given(n=st.integers(0, 300), data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_range_reads_as_with_zarr(n: int, data: st.DataObject, tmp_path_factory, pool: ThreadPoolExecutor) -> None:
    folder = tmp_path_factory.mktemp("column")
    array = written(folder, some_values(n), data.draw(st.lists(st.integers(0, 90), max_size=5)), pool)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    np.testing.assert_array_equal(read_column(array, folder / "energy", start, stop), array[start:stop])
    np.testing.assert_array_equal(array[:], some_values(n))


def test_a_shard_of_zeros_alone_is_there(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """So that one that is not there was lost."""
    array = written(tmp_path, some_values(129), [], pool)  # the last shard is one zero
    np.testing.assert_array_equal(read_column(array, tmp_path / "energy", 120, 129), np.zeros(9))
    np.testing.assert_array_equal(array[:], some_values(129))
    (tmp_path / "energy" / "c" / "2").unlink()
    with pytest.raises(ShardError, match=r"energy/c/2: expected a shard, found no file"):
        read_column(array, tmp_path / "energy", 120, 129)


def test_a_damaged_index_is_named(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    array = written(tmp_path, some_values(100), [], pool)
    shard = tmp_path / "energy" / "c" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"energy/c/0: expected a shard with an index at its end"):
        read_column(array, tmp_path / "energy", 0, 5)
