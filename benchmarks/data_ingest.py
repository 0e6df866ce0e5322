"""Ingest against what one would write without it, and against its floor; part of `make bench-data`.

Like for like: the same file, read from a warm page cache, to the same disk, each in a fresh process.
- `loop`: the best plain h5py -> Zarr loop: slabs aligned to the HDF5 chunks, whole shards of dense Zarr
  (zstd 1, no shuffle, chunks of 16 showers, shards of 320), h5py's one lock, Zarr's own threads;
- `xarray`: `open_dataset(engine="h5netcdf")`, Dask threads over slabs aligned to the chunks, `to_zarr`, same codec;
- `dense`: our reading of chunks into the loop's store; `ingest`: the whole stage, with digests, manifest and fsync;
- `floor`: on as many threads, inflate the file's chunks, compress the part's bytes, write them.
The ratio of ingest to the loop therefore is that of two layouts too; `dense` says what reading alone brings.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import deflate
import h5py
import numpy as np
import zarr
from measure import Case, Cost, Row, cost, cpu_seconds, gain, interleaved, median, row
from numcodecs import Blosc
from workloads import FOLDER, MESHES, raw_file
from zarr.codecs import ZstdCodec

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, DetectorSpec
from pipeline.data.dense import DenseWriter
from pipeline.data.formats import READERS
from pipeline.data.formats.chunks import ChunkIndex
from pipeline.data.formats.ragged import RaggedReader
from pipeline.data.ingest import ingest
from pipeline.data.store import Part

OUTPUT = FOLDER / "ingest"
SHARD, CHUNK = 320, 16
COLUMN_CHUNK = 1 << 18
LARGE_REPETITIONS = 2
TARGETS = {"ingest_vs_h5py_zarr": "loop", "ingest_vs_xarray": "xarray"}


def specs(mesh: str) -> tuple[DatasetSpec, DetectorSpec]:
    """Data set and detector of a benchmark's raw file."""
    siw = BUILT_IN_DETECTORS["SiW"]
    cells = siw.mesh.model_copy(update={"cells": MESHES[mesh]})
    spec = DatasetSpec(format="par04_events", detector="SiW", sampling_corrected=False, angle_deg=90)
    return spec, siw.model_copy(update={"mesh": cells})


def fresh(name: str) -> Path:
    """The place of a case's output, empty; an old one is moved aside, for removing it is no part of the work."""
    path = OUTPUT / name
    if path.exists():
        path.rename(tempfile.mkdtemp(prefix=name, dir=_aside()))
    path.mkdir(parents=True)
    return path


def _aside() -> Path:
    path = OUTPUT / "old"
    path.mkdir(parents=True, exist_ok=True)
    return path


# ----------------------------------------------------------------------------------------- cases


def run_ingest(raw: Path, mesh: str) -> dict[str, Any]:
    """The stage; returns the manifest."""
    return ingest(raw, fresh("ingest") / "part.json", *specs(mesh), "benchmark")


def run_dense(raw: Path, mesh: str) -> None:
    """Our reading of chunks, written as the loop writes."""
    spec, detector = specs(mesh)
    reader = READERS[spec.format]
    known = reader.describe(raw, spec, detector)
    threads = os.cpu_count() or 1
    with (
        RaggedReader(reader, known, reader.labels(raw, known, slice(None)), threads, _same) as ragged,
        DenseWriter(fresh("dense") / "part.zarr", CylinderMesh.from_spec(detector.mesh), known.n_showers) as writer,
    ):
        for showers in ragged.blocks(list(reader.row_blocks(raw, known))):
            writer.append(showers)


def _same(showers: RaggedShowers) -> RaggedShowers:
    return showers


def run_loop(raw: Path) -> None:
    """Slabs aligned to the HDF5 chunks, held back to whole shards."""
    group = zarr.open_group(fresh("loop") / "part.zarr", mode="w", zarr_format=3)
    with h5py.File(raw) as handle:
        showers = handle["showers"]
        n, *shape = showers.shape
        array = group.create_array(
            "showers",
            shape=showers.shape,
            dtype="f4",
            chunks=(CHUNK, *shape),
            shards=(SHARD, *shape),
            compressors=ZstdCodec(level=1),
        )
        shard, filled, done = np.empty((SHARD, *shape), np.float32), 0, 0
        for start in range(0, n, showers.chunks[0]):
            slab = showers[start : start + showers.chunks[0]]
            while len(slab):
                taken = slab[: SHARD - filled]
                shard[filled : filled + len(taken)] = taken
                slab, filled = slab[len(taken) :], filled + len(taken)
                if filled == SHARD or (not len(slab) and start + showers.chunks[0] >= n):
                    array[done : done + filled] = shard[:filled]
                    done, filled = done + filled, 0
        group.create_array("incident_energy", data=handle["incident_energy"][:])


def run_xarray(raw: Path) -> None:
    """xarray over Dask threads, a slab aligned to the HDF5 chunks at a time, a Zarr chunk per slab."""
    import dask
    import xarray

    with h5py.File(raw) as handle:
        rows = handle["showers"].chunks[0]
    with xarray.open_dataset(raw, engine="h5netcdf", phony_dims="sort") as content:
        n = content.sizes[content["showers"].dims[0]]
        events = content["showers"].dims[0]
        sliced = content.chunk({dim: rows if dim == events else -1 for dim in content.dims})
        encoding = {
            name: {"chunks": (min(rows, n), *array.shape[1:]), "compressors": [ZstdCodec(level=1)]}
            for name, array in sliced.items()
        }
        for array in sliced.variables.values():
            array.encoding.clear()
        with dask.config.set(scheduler="threads"):
            sliced.to_zarr(fresh("xarray") / "part.zarr", zarr_format=3, encoding=encoding, consolidated=False)


def run_floor(raw: Path, manifest: Path) -> tuple[float, float]:
    """Wall and CPU seconds to inflate the chunks, and to compress and write the part's bytes; on all CPUs."""
    group = Part.open(manifest).group
    columns = {name: np.asarray(group[name][:]) for name in ("cell", "energy")}
    with h5py.File(raw) as handle:
        index = ChunkIndex.of(handle["showers"])
    assert index is not None
    folder = fresh("floor")
    codecs = {"cell": Blosc("lz4", 5, Blosc.SHUFFLE), "energy": Blosc("lz4", 5, Blosc.BITSHUFFLE)}
    wall, cpu = time.monotonic(), cpu_seconds()

    def inflated(i: int) -> int:
        return len(deflate.zlib_decompress(os.pread(file.fileno(), int(index.size[i]), int(index.address[i])), nbytes))

    def compressed(name: str, piece: np.ndarray) -> bytes:
        return bytes(codecs[name].encode(piece))

    nbytes = index.nbytes
    with open(raw, "rb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        sum(pool.map(inflated, range(len(index.size)), chunksize=64))
        for name, values in columns.items():
            with open(folder / name, "wb") as out:
                pieces = [values[i : i + COLUMN_CHUNK] for i in range(0, len(values), COLUMN_CHUNK)]
                for piece in pool.map(partial(compressed, name), pieces):
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
    return time.monotonic() - wall, cpu_seconds() - cpu


# ------------------------------------------------------------------------------------------ rows


def rows(sizes_gb: Sequence[float], repetitions: int) -> list[Row]:
    """Ratios at the first size with all cases; at larger ones ingest and the loop, fewer times."""
    table: list[Row] = []
    for mesh in MESHES:
        costs = {
            size: _costs(mesh, size, repetitions if size == sizes_gb[0] else LARGE_REPETITIONS, size == sizes_gb[0])
            for size in sizes_gb
        }
        for size, own in costs.items():
            table += _ratios(own, f"{mesh}, {size:g} GB raw")
        first, last = sizes_gb[0], sizes_gb[-1]
        peaks = [median(costs[size]["ingest"], "peak_mb") for size in (first, last)]
        workload, n = f"{mesh}, {first:g} to {last:g} GB raw", len(costs[last]["ingest"])
        table.append(row("ingest_peak_memory", peaks[1], "MB", None, f"{mesh}, {last:g} GB raw", n))
        table.append(row("ingest_memory_growth", peaks[1] / peaks[0], "x", f"{first:g} GB", workload, n))
        files = sum(path.is_file() for path in (OUTPUT / "ingest").rglob("*"))
        table.append(row("files_per_100_GB", files * 100 / last, "files", None, f"{mesh}, parts of {last:g} GB raw", 1))
    shutil.rmtree(OUTPUT, ignore_errors=True)
    return table


def _costs(mesh: str, size: float, repetitions: int, all_cases: bool) -> dict[str, list[Cost]]:
    raw = raw_file(mesh, size).resolve()
    cases = {"ingest": Case(run_ingest, (raw, mesh)), "loop": Case(run_loop, (raw,))}
    if not all_cases:
        costs: dict[str, list[Cost]] = {name: [] for name in cases}
        for _ in range(repetitions):
            for name, case in cases.items():
                costs[name].append(cost(case))
        return costs
    cases["dense"], cases["xarray"] = Case(run_dense, (raw, mesh)), Case(run_xarray, (raw,))
    cases["floor"] = Case(run_floor, (raw, OUTPUT / "ingest" / "part.json"))
    costs = interleaved(cases, repetitions)
    costs["floor"] = [Cost(*c.result, c.peak_mb) for c in costs["floor"]]
    return costs


def _ratios(costs: dict[str, list[Cost]], workload: str) -> list[Row]:
    n = len(costs["ingest"])
    table = [row("ingest_wall", median(costs["ingest"], "wall_s"), "s", None, workload, n)]
    pairs = [
        ("ingest_vs_h5py_zarr", "loop", "ingest", "aligned h5py -> dense Zarr loop"),
        ("ingest_dense_like_for_like", "loop", "dense", "aligned h5py -> dense Zarr loop, same store"),
        ("ingest_vs_xarray", "xarray", "ingest", "xarray, h5netcdf, Dask threads -> to_zarr"),
        ("ingest_vs_floor", "ingest", "floor", "inflate + compress + write, same bytes and threads"),
    ]
    for name, slow, fast, against in pairs:
        if slow in costs and fast in costs:
            for suffix, what in (("", "wall_s"), ("_cpu", "cpu_s")):
                table.append(row(name + suffix, gain(costs[slow], costs[fast], what), "x", against, workload, n))
    return table
