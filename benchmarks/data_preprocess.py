"""Preprocess against what one would write without it; part of `make bench-data`.

One recipe: ln(E / E_inc + 1e-6), then (x - mean) / deviation. All start from a store of the same showers that was made
before the clock starts, each from the layout that suits it, and end with statistics and showers on disk:
- `ours`: from the ingested part (ragged, blosc lz4 5) by `preprocess` and `merge`: the logarithms of the hits, fsynced
  and hashed, and the fitted transform; the subtraction and division wait for the loader, where they ride on a copy;
- `numpy`: the dense Zarr store (zstd 1, chunks of 16 showers, shards of 320) as one array, the recipe as one writes it
  down, the normalised showers in a store of the same layout;
- `in_place`: the same with every operation in place, statistics in float64;
- `dask`: dask.array over the same store, one block per shard, in threads: one pass for the sums of values and squares,
  one that normalises and writes, so that no array is ever whole.
Peak memory is that of `ours` at the first and at the last size. The ratios are those of two layouts: a shower is
stored as its hits, about a tenth of the cells.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import zarr
from measure import Case, Cost, Row, cost, gain, interleaved, median, row
from workloads import FOLDER, MESHES, raw_file
from zarr.codecs import ZstdCodec

from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, RecipeSpec, SplitSpec
from pipeline.data.ingest import ingest
from pipeline.data.merge import merge
from pipeline.data.preprocess import preprocess_part
from pipeline.data.store import Part

OUTPUT = FOLDER / "preprocess"
EPSILON = 1e-6
SHARD, CHUNK = 320, 16
SPLITS = SplitSpec(train=0.998, validation=0.001, test=0.001)  # the others have no splits: all but all showers
MOST_REPETITIONS, MEMORY_REPETITIONS = 3, 2
TARGETS = {
    "preprocess_vs_numpy": "numpy",
    "preprocess_vs_numpy_in_place": "in_place",
    "preprocess_vs_dask_dense": "dask",
}
AGAINST = {
    "numpy": "NumPy in memory, dense Zarr",
    "in_place": "NumPy in memory and in place, dense Zarr",
    "dask": "dask.array in threads, dense Zarr",
}


def recipe() -> RecipeSpec:
    """What all alternatives compute."""
    return RecipeSpec.model_validate(["divide_by_incident_energy", {"log": {"epsilon_mev": EPSILON}}, "standardise"])


# -------------------------------------------------------------------------------------- the start


def part_of(mesh: str, gigabytes: float) -> Path:
    """The ingested part of a raw file, made when it is not there."""
    manifest = OUTPUT / "start" / f"{mesh}_{gigabytes:g}GB.json"
    if not manifest.exists():
        siw = BUILT_IN_DETECTORS["SiW"]
        detector = siw.model_copy(update={"mesh": siw.mesh.model_copy(update={"cells": MESHES[mesh]})})
        spec = DatasetSpec(format="par04_events", detector="SiW", sampling_corrected=False, angle_deg=90)
        ingest(raw_file(mesh, gigabytes).resolve(), manifest, spec, detector, "benchmark")
    return manifest


def dense_of(mesh: str, gigabytes: float) -> Path:
    """The same showers as dense Zarr, made when it is not there."""
    path = OUTPUT / "start" / f"{mesh}_{gigabytes:g}GB_dense.zarr"
    if not path.exists():
        with h5py.File(raw_file(mesh, gigabytes)) as handle:
            array = _dense(path, handle["showers"].shape)
            for start in range(0, array.shape[0], SHARD):
                array[start : start + SHARD] = handle["showers"][start : start + SHARD]
            zarr.open_group(path, mode="a").create_array("incident_energy", data=handle["incident_energy"][:])
    return path


def _dense(path: Path, shape: tuple[int, ...]) -> zarr.Array[Any]:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    chunks, shards = (CHUNK, *shape[1:]), (SHARD, *shape[1:])
    return group.create_array(
        "showers", shape=shape, dtype="f4", chunks=chunks, shards=shards, compressors=ZstdCodec(level=1)
    )


# ------------------------------------------------------------------------------------------ cases


def run_ours(manifest: Path) -> None:
    """Both stages."""
    output = _fresh("ours") / "part.json"
    preprocess_part(manifest, output, recipe(), SPLITS)
    merge([output], recipe(), Part.open(manifest).mesh, SPLITS)


def run_numpy(store: Path) -> tuple[float, float]:
    """All in memory, as one writes it down; returns mean and deviation."""
    group = zarr.open_group(store, mode="r")
    showers, incident = group["showers"][:], group["incident_energy"][:]
    x = np.log(showers / incident[:, None, None, None] + EPSILON)
    mean, deviation = x.mean(), x.std()
    x = (x - mean) / deviation
    _dense(_fresh("numpy") / "part.zarr", x.shape)[:] = x
    return float(mean), float(deviation)


def run_in_place(store: Path) -> tuple[float, float]:
    """All in one array; returns mean and deviation."""
    group = zarr.open_group(store, mode="r")
    x = group["showers"][:]
    x /= group["incident_energy"][:][:, None, None, None]
    x += np.float32(EPSILON)
    np.log(x, out=x)
    mean, deviation = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    x -= np.float32(mean)
    x /= np.float32(deviation)
    _dense(_fresh("in_place") / "part.zarr", x.shape)[:] = x
    return float(mean), float(deviation)


def run_dask(store: Path) -> tuple[float, float]:
    """Block by block, twice; returns mean and deviation."""
    group = zarr.open_group(store, mode="r")
    showers = da.from_array(group["showers"], chunks=(SHARD, -1, -1, -1))
    incident = da.from_array(group["incident_energy"][:][:, None, None, None], chunks=(SHARD, 1, 1, 1))
    x = da.map_blocks(_logarithm, showers, incident, dtype=np.float32)
    sums = x.map_blocks(_sums, dtype=np.float64, chunks=(1, 2), drop_axis=(2, 3)).sum(axis=0)
    with dask.config.set(scheduler="threads"):
        total, squares = sums.compute()
        mean = total / x.size
        deviation = np.sqrt(squares / x.size - mean**2)
        normalised = x.map_blocks(_normalised, np.float32(mean), np.float32(deviation), dtype=np.float32)
        da.store(normalised, _dense(_fresh("dask") / "part.zarr", x.shape), lock=False)
    return float(mean), float(deviation)


def _logarithm(x: np.ndarray, incident: np.ndarray) -> np.ndarray:
    x = x / incident
    x += np.float32(EPSILON)
    return np.log(x, out=x)


def _sums(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(-1).astype(np.float64)
    return np.array([[flat.sum(), np.dot(flat, flat)]])


def _normalised(x: np.ndarray, mean: np.float32, deviation: np.float32) -> np.ndarray:
    x -= mean
    x /= deviation
    return x


def _fresh(name: str) -> Path:
    """A new folder: removing an old one is no part of the work."""
    return Path(tempfile.mkdtemp(prefix=name, dir=OUTPUT))


# ------------------------------------------------------------------------------------------- rows


def rows(sizes_gb: Sequence[float], repetitions: int) -> list[Row]:
    """Ratios at the first size, and the peak memory from the first to the last."""
    table: list[Row] = []
    for mesh in MESHES:
        table += _ratios(mesh, sizes_gb[0], min(repetitions, MOST_REPETITIONS))
        table += _memory(mesh, sizes_gb)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    return table


def _ratios(mesh: str, size: float, repetitions: int) -> list[Row]:
    dense = dense_of(mesh, size)
    cases = {
        "ours": Case(run_ours, (part_of(mesh, size),)),
        "numpy": Case(run_numpy, (dense,)),
        "in_place": Case(run_in_place, (dense,)),
        "dask": Case(run_dask, (dense,)),
    }
    costs, workload = interleaved(cases, repetitions), f"{mesh}, {size:g} GB raw"
    table = [row("preprocess_wall", median(costs["ours"], "wall_s"), "s", None, workload, repetitions)]
    for name, slow in TARGETS.items():
        for suffix, what in (("", "wall_s"), ("_cpu", "cpu_s")):
            ratio = gain(costs[slow], costs["ours"], what)
            table.append(row(name + suffix, ratio, "x", AGAINST[slow], workload, repetitions))
        table.append(row(f"{name}_peak", gain(costs[slow], costs["ours"], "peak_mb"), "x", AGAINST[slow], workload, 1))
    return table


def _memory(mesh: str, sizes_gb: Sequence[float]) -> list[Row]:
    ends: list[tuple[float, list[Cost]]] = [(sizes_gb[0], []), (sizes_gb[-1], [])]
    for _ in range(MEMORY_REPETITIONS):
        for size, costs in ends:
            costs.append(cost(Case(run_ours, (part_of(mesh, size),))))
    first, last = (median(costs, "peak_mb") for _, costs in ends)
    workload = f"{mesh}, {sizes_gb[0]:g} to {sizes_gb[-1]:g} GB raw"
    return [
        row("preprocess_peak_memory", last, "MB", None, f"{mesh}, {sizes_gb[-1]:g} GB raw", MEMORY_REPETITIONS),
        row("preprocess_memory_growth", last / first, "x", f"{sizes_gb[0]:g} GB", workload, MEMORY_REPETITIONS),
    ]
