"""Loading against the ways of the field and against memcpy; part of `make bench-data`.

One raw file is ingested and preprocessed, and its training showers are also written dense, in network space: every
case gives batches of 128 showers (float32) of the same values, without further work, from a warm page cache, and each
is measured in a fresh process.
- `per_shower`: torch's DataLoader, shuffled, one index at a time, on Zarr with one shower per chunk;
- `dense_shards`: chunk-shuffled Zarr (zstd 1, chunks of 16 showers, shards of 320): whole shards in random order,
  read at once, showers shuffled over a buffer of four;
- `memory`: our loader with all showers in memory, dense as they fit, and `hits`: as hits, both beside a memcpy of
  the values of as many neighbouring showers from the same memory to the same buffer, in turn in one process;
  `first_pass`: reading them into memory, dense, and one pass;
- `stream`: our loader with windows of a quarter of the data.
Ours also give hit masks and layer energies. Rows compare seconds per shower, what comes before the first shower left
out but for `first_pass`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from data_occupancy import occupancy
from measure import Case, Cost, Row, cpu_seconds, gain, interleaved, median, row
from workloads import FOLDER, MESHES, raw_file
from zarr.codecs import ZstdCodec

from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, RecipeSpec, SplitSpec
from pipeline.data.ingest import ingest
from pipeline.data.merge import merge
from pipeline.data.preprocess import preprocess_part
from pipeline.data.store import Part, training_rows
from pipeline.data.transforms import Transform
from pipeline.provenance import read_json, write_json
from pipeline.training.batches import Buffers
from pipeline.training.loading import Loader
from pipeline.training.stored import StoredShowers, total_bytes
from pipeline.training.streaming import StreamLoader

OUTPUT = FOLDER / "loader"
BATCH, CHUNK, SHARD, BUFFERED = 128, 16, 320, 4
SPLITS = SplitSpec(train=0.98, validation=0.01, test=0.01)
RECIPE = RecipeSpec.model_validate(
    [{"cut": {"threshold_mev": 5e-4}}, {"log1p": {"scale_mev": 1e-3}}, {"standardise": {"per": ["r", "z"]}}]
)
INDEXED = 512  # showers that the per-shower loader is measured on
SECONDS = 0.4  # of each turn of loader and memcpy
TURNS = 5


def prepare(raw: Path, mesh: str, folder: Path) -> None:
    """Part, prefix, transform, and the training showers as dense Zarr in both layouts."""
    siw = BUILT_IN_DETECTORS["SiW"]
    detector = siw.model_copy(update={"mesh": siw.mesh.model_copy(update={"cells": MESHES[mesh]})})
    spec = DatasetSpec(format="par04_events", detector="SiW", sampling_corrected=False, angle_deg=90)
    ingest(raw, folder / "part.json", spec, detector, "benchmark")
    preprocess_part(folder / "part.json", folder / "prefix.json", RECIPE, SPLITS)
    write_json(folder / "transform.json", merge([folder / "prefix.json"], RECIPE, Part.open(folder / "part.json").mesh))
    loader = Loader([stored(folder).in_memory()], 1)
    n, shape = len(loader), loader.shape
    layouts = {"shards": (n, CHUNK, SHARD), "singles": (min(n, INDEXED), 1, None)}
    for name, (count, chunk, shard) in layouts.items():
        array = zarr.create_array(
            folder / f"{name}.zarr",
            shape=(count, *shape),
            dtype="f4",
            chunks=(chunk, *shape),
            shards=(shard, *shape) if shard and n > shard else None,
            compressors=ZstdCodec(level=1),
        )
        for start in range(0, count, SHARD):
            stop = min(start + SHARD, count)
            array[start:stop] = loader.batch(np.arange(start, stop)).values.numpy()


def stored(folder: Path) -> StoredShowers:
    """The training showers on disk."""
    part = Part.open(folder / "prefix.json")
    transform = Transform.from_state(read_json(folder / "transform.json"))
    return StoredShowers((part,), training_rows([part], SPLITS, "train"), transform, from_prefix=True)


# ----------------------------------------------------------------------------------------- cases


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Wall and CPU seconds per shower; `work` returns how many it gave."""
    wall, cpu = time.monotonic(), cpu_seconds()
    n = work()
    return (time.monotonic() - wall) / n, (cpu_seconds() - cpu) / n


def run_per_shower(folder: Path) -> dict[str, tuple[float, float]]:
    """A map-style data set of a Zarr array behind torch's loader."""
    import torch

    array = zarr.open_array(folder / "singles.zarr", mode="r")

    class Indexed(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return int(array.shape[0])

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.from_numpy(array[i])

    batches = torch.utils.data.DataLoader(Indexed(), BATCH, shuffle=True)
    return {"per_shower": timed(lambda: sum(len(batch) for batch in batches))}


def run_dense_shards(folder: Path) -> dict[str, tuple[float, float]]:
    """Whole shards in random order, a few of them shuffled together."""
    import torch

    array = zarr.open_array(folder / "shards.zarr", mode="r")
    random, n = np.random.default_rng(1), array.shape[0]

    def work() -> int:
        given = 0
        starts = random.permutation(np.arange(0, n, SHARD))
        for i in range(0, len(starts), BUFFERED):
            block = np.concatenate([array[start : start + SHARD] for start in starts[i : i + BUFFERED]])
            order = random.permutation(len(block))
            for first in range(0, len(block), BATCH):
                given += len(torch.from_numpy(block[order[first : first + BATCH]]))
        return given

    return {"dense_shards": timed(work)}


def run_memory(folder: Path) -> dict[str, tuple[float, float]]:
    """The loader in memory, dense and as hits, and memcpy, in turn."""
    wall, cpu = time.monotonic(), cpu_seconds()
    source = stored(folder).in_memory(dense=True)
    loader = Loader([source], 1)
    into, n = Buffers.empty(BATCH, loader.shape), len(loader)
    for samples in range(0, n - BATCH + 1, BATCH):
        loader.training_batch(samples, BATCH, into=into)
    passed = n // BATCH * BATCH
    first_pass = (time.monotonic() - wall) / passed, (cpu_seconds() - cpu) / passed
    of_hits = Loader([stored(folder).in_memory()], 1)
    held, values = source.held.values.numpy(), into.values.numpy()

    def load(i: int) -> None:
        loader.training_batch(i * BATCH, BATCH, into=into)

    def load_hits(i: int) -> None:
        of_hits.training_batch(i * BATCH, BATCH, into=into)

    def copy(i: int) -> None:
        start = i * BATCH % passed
        np.copyto(values, held[start : start + BATCH])

    found: dict[str, list[tuple[float, float]]] = {"memory": [], "hits": [], "memcpy": []}
    for _ in range(TURNS):
        for name, work in (("memory", load), ("hits", load_hits), ("memcpy", copy)):
            found[name].append(timed(lambda work=work: _for_a_while(work)))
    medians = {name: tuple(np.median(pairs, axis=0).tolist()) for name, pairs in found.items()}
    return {**medians, "first_pass": first_pass}  # type: ignore[dict-item]


def _for_a_while(work: Callable[[int], None]) -> int:
    end, i = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        work(i)
        i += 1
    return i * BATCH


def run_stream(folder: Path) -> dict[str, tuple[float, float]]:
    """The loader over windows of a quarter of the data, one pass."""
    own = stored(folder)
    loader = StreamLoader([own], 1, memory_gb=2.5 * total_bytes([own]) / 4e9)
    into = Buffers.empty(BATCH, loader.shape)

    def work() -> int:
        whole = len(loader) // BATCH * BATCH
        for samples in range(0, whole, BATCH):
            loader.training_batch(samples, BATCH, into=into)
        return whole

    found = timed(work)
    loader.close()
    return {"stream": found}


# ------------------------------------------------------------------------------------------ rows

RATIOS = [
    ("loader_vs_per_shower", "per_shower", "memory", "torch DataLoader, one index at a time, shower-chunked Zarr"),
    ("loader_vs_dense_shards", "dense_shards", "memory", "chunk-shuffled dense Zarr shards"),
    ("loader_vs_memcpy", "memcpy", "memory", "memcpy of a batch"),
    ("loader_hits_vs_memcpy", "memcpy", "hits", "memcpy of a batch"),
    ("loader_first_pass_vs_per_shower", "per_shower", "first_pass", "torch DataLoader, shower-chunked Zarr"),
    ("loader_first_pass_vs_dense_shards", "dense_shards", "first_pass", "chunk-shuffled dense Zarr shards"),
    ("loader_stream_vs_per_shower", "per_shower", "stream", "torch DataLoader, shower-chunked Zarr"),
    ("loader_stream_vs_dense_shards", "dense_shards", "stream", "chunk-shuffled dense Zarr shards"),
]


def rows(sizes_gb: Sequence[float], repetitions: int) -> list[Row]:
    """Ratios and rates at the first size on both meshes; draws the figure of occupancies on the way."""
    table: list[Row] = []
    for mesh in MESHES:
        folder = (OUTPUT / mesh).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare(raw_file(mesh, sizes_gb[0]).resolve(), mesh, folder)
        functions = (run_per_shower, run_dense_shards, run_memory, run_stream)
        measured = interleaved({f.__name__: Case(f, (folder,)) for f in functions}, repetitions)
        table += _rows(_per_shower(measured), f"{mesh}, {sizes_gb[0]:g} GB raw", repetitions)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    occupancy()
    return table


def _per_shower(measured: dict[str, list[Cost]]) -> dict[str, list[Cost]]:
    """The seconds per shower that the cases returned, in the place of those of the whole process."""
    costs: dict[str, list[Cost]] = {}
    for own in measured.values():
        for cost in own:
            result: dict[str, Any] = cost.result
            for name, (wall, cpu) in result.items():
                costs.setdefault(name, []).append(replace(cost, wall_s=wall, cpu_s=cpu, result=None))
    return costs


def _rows(costs: dict[str, list[Cost]], workload: str, n: int) -> list[Row]:
    table = [
        row(f"loader_{name}_rate", 1 / median(own, "wall_s"), "showers/s", None, workload, n)
        for name, own in costs.items()
    ]
    for name, slow, fast, against in RATIOS:
        for suffix, what in (("", "wall_s"), ("_cpu", "cpu_s")):
            table.append(row(name + suffix, gain(costs[slow], costs[fast], what), "x", against, workload, n))
    return table
