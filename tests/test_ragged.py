"""Chunks read beside the HDF5 library: to the bit what the library reads, whatever the file's filters and chunks."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import dataset, detector_with, same, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.data.formats import READERS, FormatError
from pipeline.data.formats.chunks import ChunkIndex, OddChunk
from pipeline.data.formats.ragged import RaggedReader
from pipeline.data.ingest import ingest
from pipeline.data.store import Part

Make = Callable[..., Showers]
MESH = CylinderMesh(4, 6, 5, dr_mm=2.0, dz_mm=3.0)
PAR04 = {"format": "par04", "sampling_corrected": False, "angle_deg": 90}


def sparse(n: int, dtype: Any = "<f4", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (n, *MESH.shape)
    return (rng.exponential(size=shape) * (rng.uniform(size=shape) < 0.3)).astype(dtype)


def par04_file(path: Path, values: np.ndarray, **options: Any) -> Path:
    with h5py.File(path, "w") as handle:
        handle.create_dataset("16", data=values, **options)
    return path


def both_ways(path: Path, threads: int = 2, **spec: Any) -> tuple[RaggedShowers, RaggedShowers, int]:
    """The file by its chunks and by the library, and how many of its data sets were read by chunks."""
    spec = {**PAR04, **spec}
    reader = READERS[spec["format"]]
    description = reader.describe(path, dataset(**spec), detector_with(MESH))
    rows = list(reader.row_blocks(path, description))
    labels = reader.labels(path, description, slice(None))
    with RaggedReader(reader, description, labels, threads, lambda showers: showers) as ragged:
        fast, direct = RaggedShowers.concatenate(list(ragged.blocks(rows))), len(ragged._direct)
    slow = [RaggedShowers.from_dense(reader.read(path, description, block)) for block in rows]
    return fast, RaggedShowers.concatenate(slow), direct


GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}


@pytest.mark.parametrize(
    ("options", "direct"),
    [
        (GZIP, 1),
        ({**GZIP, "shuffle": True}, 1),
        ({"shuffle": True}, 1),
        ({"chunks": (3, 2, 4, 5)}, 1),
        ({**GZIP, "chunks": (7, 4, 6, 5)}, 1),
        ({**GZIP, "chunks": (50, 4, 6, 5)}, 1),
        ({**GZIP, "maxshape": (None, 4, 6, 5), "chunks": (64, 4, 6, 5)}, 1),
        ({"compression": "lzf"}, 0),
        ({**GZIP, "fletcher32": True}, 0),
        ({"scaleoffset": 3, "chunks": (5, 4, 6, 5)}, 0),
        ({}, 0),
    ],
    ids=lambda value: "-".join(map(str, value)) or "contiguous" if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_every_filter_and_type_reads_as_the_library_reads_it(
    tmp_path: Path, options: dict[str, Any], direct: int, dtype: str
) -> None:
    fast, slow, found = both_ways(par04_file(tmp_path / "a.h5", sparse(50, dtype), **options))
    assert same(fast, slow) and found == direct
    assert (fast.cell.dtype, fast.energy.dtype) == (slow.cell.dtype, slow.energy.dtype)


@given(
    n=st.integers(1, 40),
    chunk=st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 6), st.integers(1, 5)),
    shuffle=st.booleans(),
    dtype=st.sampled_from(["<f4", ">f8"]),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_chunks(
    tmp_path_factory: pytest.TempPathFactory, n: int, chunk: tuple[int, ...], shuffle: bool, dtype: str
) -> None:
    chunk = (min(chunk[0], n), *chunk[1:])
    path = par04_file(
        tmp_path_factory.mktemp("a") / "a.h5", sparse(n, dtype, seed=n), chunks=chunk, shuffle=shuffle, **GZIP
    )
    fast, slow, direct = both_ways(path)
    assert same(fast, slow) and direct == 1


@pytest.mark.parametrize("chunk", [(64, 120), (7, 50), (1, 120), (200, 1)])
@pytest.mark.parametrize("corrected", [False, True])
def test_voxels_in_another_order_become_the_meshs(
    tmp_path: Path, make_showers: Make, chunk: tuple[int, int], corrected: bool
) -> None:
    path = write_raw(tmp_path / "a.h5", make_showers(200), sampling_corrected=corrected)
    with h5py.File(path, "a") as handle:
        values = handle["showers"][:]
        del handle["showers"]
        handle.create_dataset("showers", data=values, chunks=chunk, **GZIP)
    fast, slow, direct = both_ways(path, format="calochallenge", sampling_corrected=corrected)
    assert same(fast, slow) and direct == 1


def test_energies_in_many_data_sets_follow_each_other(tmp_path: Path, make_showers: Make) -> None:
    incident = np.repeat([1000.0, 2000, 64000], [3, 70, 5])
    path = write_raw(tmp_path / "a.h5", make_showers(78, incident_energy=incident), "par04")
    fast, slow, direct = both_ways(path)
    assert same(fast, slow) and direct == 3 and fast.incident_energy.tolist() == incident.tolist()


def test_many_blocks_and_bands_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.formats.hdf5._BLOCK_BYTES", 4000)
    monkeypatch.setattr("pipeline.data.formats.ragged._BAND_BYTES", 1000)
    monkeypatch.setattr("pipeline.data.formats.ragged._PIECE", 128)
    path = par04_file(tmp_path / "a.h5", sparse(100), chunks=(9, 3, 4, 5), **GZIP)
    results = [both_ways(path, threads) for threads in (1, 2, 7)]
    assert all(same(fast, slow) for fast, slow, _ in results)


# ------------------------------------------------------------------------------- what may be odd


@pytest.mark.parametrize(("fill", "hits"), [(0.0, 600), (2.5, 5 * 120)])
def test_chunks_never_written_hold_the_fill_value(tmp_path: Path, fill: float, hits: int) -> None:
    values = np.ones((5, *MESH.shape), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        made = handle.create_dataset("16", (15, *MESH.shape), "f4", chunks=(5, 4, 6, 5), fillvalue=fill, **GZIP)
        made[5:10] = values
    fast, slow, direct = both_ways(tmp_path / "a.h5")
    assert same(fast, slow) and direct == 1 and len(fast.energy) == hits * (3 if fill else 1)


def test_chunks_whose_filters_were_skipped(tmp_path: Path) -> None:
    values = sparse(10)
    path = par04_file(tmp_path / "a.h5", values, chunks=(5, 4, 6, 5), shuffle=True, **GZIP)
    with h5py.File(path, "a") as handle:
        handle["16"].id.write_direct_chunk((5, 0, 0, 0), values[5:].tobytes(), filter_mask=0b11)
    fast, slow, _ = both_ways(path)
    assert same(fast, slow) and same(fast, RaggedShowers.from_dense(fast.dense()))


def test_negative_zeros_and_products_that_vanish_are_no_hits(tmp_path: Path) -> None:
    values = sparse(9)
    values[1] = -0.0
    values[2, 0, 0, 0] = np.float32(1e-45)
    values[8] = -0.0
    path = par04_file(tmp_path / "a.h5", values, chunks=(4, 2, 6, 5), **GZIP)
    fast, slow, _ = both_ways(path, sampling_corrected=True, sampling_fraction=0.03)
    assert same(fast, slow) and fast.row_size[1] == fast.row_size[8] == 0


def test_a_file_with_a_user_block_is_left_to_the_library(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as handle:
        handle.create_dataset("16", data=sparse(9), **GZIP)
    fast, slow, direct = both_ways(tmp_path / "a.h5")
    assert same(fast, slow) and direct == 0


def test_a_mesh_beyond_16_bits_is_read_dense(tmp_path: Path, make_showers: Make) -> None:
    mesh = CylinderMesh(41, 40, 41, 1.0, 1.0)
    showers = make_showers(3, mesh=mesh, incident_energy=np.full(3, 1e6))
    path = write_raw(tmp_path / "a.h5", showers)
    ingest(path, tmp_path / "a.json", dataset(), detector_with(mesh), "siw")
    part = Part.open(tmp_path / "a.json")
    np.testing.assert_array_equal(part.read().dense().energy, showers.energy)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_impossible_values_are_refused_in_the_readers_words(tmp_path: Path, value: float, threads: int) -> None:
    values = sparse(60)
    values[41, 1, 2, 3] = value
    path = par04_file(tmp_path / "a.h5", values, chunks=(8, 2, 6, 5), **GZIP)
    spec, detector = dataset(**PAR04), detector_with(MESH)
    reader = READERS["par04"]
    with pytest.raises(FormatError) as expected:
        reader.read(path, reader.describe(path, spec, detector), slice(None))
    with pytest.raises(FormatError) as found:
        ingest(path, tmp_path / "out" / "a.json", spec, detector, "x", threads=threads)
    assert str(found.value) == str(expected.value) and "shower 41: expected" in str(found.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_chunk_is_refused_by_the_library(tmp_path: Path) -> None:
    path = par04_file(tmp_path / "a.h5", sparse(60), chunks=(8, 2, 6, 5), **GZIP)
    with h5py.File(path) as handle:
        chunk = handle["16"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 40] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.h5: expected readable HDF5, found: "):
        ingest(path, tmp_path / "out" / "a.json", dataset(**PAR04), detector_with(MESH), "x")


def test_a_chunk_that_inflates_beyond_its_size_stops_there(tmp_path: Path) -> None:
    path = par04_file(tmp_path / "a.h5", sparse(10), chunks=(5, 4, 6, 5), **GZIP)
    with h5py.File(path, "a") as handle:
        handle["16"].id.write_direct_chunk((5, 0, 0, 0), zlib.compress(bytes(1 << 24)))
        index = ChunkIndex.of(handle["16"])
    with path.open("rb") as file, pytest.raises(OddChunk):
        list(index.read(file.fileno(), range(2)))


def test_a_chunk_behind_the_end_of_the_file_is_odd(tmp_path: Path) -> None:
    path = par04_file(tmp_path / "a.h5", sparse(10), chunks=(5, 4, 6, 5), **GZIP)
    with h5py.File(path) as handle:
        index = ChunkIndex.of(handle["16"])
    index.address[1] += path.stat().st_size
    with path.open("rb") as file, pytest.raises(OddChunk, match="behind the end"):
        list(index.read(file.fileno(), range(2)))


# --------------------------------------------------------------------------------------- ingest


@pytest.mark.parametrize("layout", ["calochallenge", "par04"])
def test_threads_and_the_librarys_way_give_the_same_bytes(
    tmp_path: Path, make_showers: Make, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    incident = np.repeat([1000.0, 4000.0], 150)
    path = write_raw(tmp_path / "a.h5", make_showers(300, incident_energy=incident), layout)
    monkeypatch.setattr("pipeline.data.formats.hdf5._BLOCK_BYTES", 32000)
    texts = set()
    for threads in (1, 2, 5):
        ingest(path, tmp_path / "a.json", dataset(format=layout), detector_with(MESH), "x", threads=threads)
        texts.add((tmp_path / "a.json").read_text())
    monkeypatch.setattr(ChunkIndex, "of", lambda dataset: None)
    ingest(path, tmp_path / "a.json", dataset(format=layout), detector_with(MESH), "x")
    assert texts == {(tmp_path / "a.json").read_text()}


def test_a_log_says_how_far_it_is(
    tmp_path: Path, make_showers: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.formats.hdf5._BLOCK_BYTES", 32000)
    path = write_raw(tmp_path / "a.h5", make_showers(300))
    with caplog.at_level("INFO"):
        ingest(path, tmp_path / "a.json", dataset(), detector_with(MESH), "x")
    assert "a.h5: 100 %, " in caplog.text and "showers/s" in caplog.text and "MB/s" in caplog.text
