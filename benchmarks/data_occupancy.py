"""Dense against ragged as a function of occupancy: where do they cross?

Synthetic showers of 18x50x45 cells, each with its brightest 1 to 60 % of cells hit, are stored in both layouts of a
part. For both: bytes on disk, and showers per CPU second from a warm page cache to a dense batch; for ragged showers
in memory also that of the scatter against a copy of the dense batch. Writes benchmarks/results/occupancy.json and
draws docs/images/occupancy.png. The codecs are those of our parts.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zarr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measure import RESULTS, cpu_seconds
from workloads import FOLDER

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.data import part_writer
from pipeline.data.part_writer import DENSE_OCCUPANCY, PartWriter
from pipeline.figures.style import MUTED, heading, looks, styled
from pipeline.training.batches import Buffers
from pipeline.training.sources import ReadySource

OUTPUT = FOLDER / "occupancy"
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "occupancy.png"
MESH = CylinderMesh(18, 50, 45, 2.325, 3.4)
OCCUPANCIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
SHOWERS, BATCH, REPETITIONS, SEED = 384, 128, 5, 1
Point = dict[str, float]


def showers_of(occupied: float, n: int = SHOWERS) -> RaggedShowers:
    """Showers whose mean falls with radius and has a maximum in depth, log-normal cells, the brightest ones kept."""
    random = np.random.default_rng(SEED)
    r, _, z = np.indices(MESH.shape).reshape(3, -1)
    mean = -r / 2.5 + 3 * np.log(z + 1.0) - z / 5.0
    kept = round(occupied * MESH.n_cells)
    cells, energies = [], []
    for _ in range(n):
        energy = (mean + random.normal(0, 1.5, MESH.n_cells)).astype(np.float32)
        cell = np.sort(np.argpartition(energy, -kept)[-kept:])
        cells.append(cell.astype(index_dtype(MESH)))
        energies.append(np.exp(energy[cell]))
    label = np.full(n, np.pi / 2)
    return RaggedShowers(
        np.full(n, kept), np.concatenate(cells), np.concatenate(energies), label * 1e4, label, label * 0, MESH, "SiW"
    )


def store(showers: RaggedShowers, dense: bool) -> Path:
    """A part's store in one of the two layouts."""
    path = OUTPUT / ("dense.zarr" if dense else "ragged.zarr")
    shutil.rmtree(path, ignore_errors=True)
    rule = 0.0 if dense else 1.0
    with mock.patch.object(part_writer, "DENSE_OCCUPANCY", rule), PartWriter(path, MESH, {}) as writer:
        for start in range(0, len(showers), BATCH):
            rows = np.arange(start, min(start + BATCH, len(showers)))
            writer.append(showers.take(rows), rows.astype(np.uint64))
    return path


def cpu_of(work: Callable[[], Any]) -> float:
    """CPU seconds, of all threads."""
    start = cpu_seconds()
    work()
    return cpu_seconds() - start


def point(occupied: float) -> Point:
    """Ratios ragged over dense at one occupancy: above 1 ragged is the larger, or the faster."""
    showers = showers_of(occupied)
    ragged, dense = store(showers, False), store(showers, True)
    columns, array = zarr.open_group(ragged, mode="r"), zarr.open_array(dense / "shower_energy", mode="r")
    into = Buffers.empty(BATCH, MESH.shape)
    empty, layers = np.zeros(MESH.shape, np.float32), np.zeros((len(showers), MESH.n_z), np.float32)
    whole = ReadySource(showers, layers, empty, distinct=True)
    block, values, places = array[:BATCH], into.values.numpy(), np.arange(BATCH)

    def from_ragged() -> None:
        cell, energy = columns["cell"][:], columns["energy"][:]
        read = RaggedShowers(
            showers.row_size, cell, energy, showers.incident_energy, showers.theta, showers.phi, MESH, "SiW"
        )
        source = ReadySource(read, layers, empty, distinct=True)
        for start in range(0, len(showers), BATCH):
            source.write(places + start, places, None, into)

    def from_dense() -> None:
        read = array[:]
        for start in range(0, len(showers), BATCH):
            np.copyto(values, read[start : start + BATCH])

    def scatter() -> None:
        for start in range(0, len(showers), BATCH):
            whole.write(places + start, places, None, into)

    def copy() -> None:
        for _ in range(0, len(showers), BATCH):
            np.copyto(values, block)

    from_ragged(), from_dense(), scatter(), copy()
    disk = [cpu_of(from_dense) / cpu_of(from_ragged) for _ in range(REPETITIONS)]
    memory = [cpu_of(copy) / cpu_of(scatter) for _ in range(REPETITIONS)]
    sizes = [sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in (ragged, dense)]
    return {
        "occupancy": occupied,
        "size_on_disk": sizes[0] / sizes[1],
        "speed_from_disk": statistics.median(disk),
        "speed_in_memory": statistics.median(memory),
    }


def occupancy() -> list[Point]:
    """The table at all occupancies; writes it and draws it."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    points = [point(occupied) for occupied in OCCUPANCIES]
    shutil.rmtree(OUTPUT)
    content = {"mesh": list(MESH.shape), "n": REPETITIONS, "showers": SHOWERS, "points": points}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "occupancy.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(points)
    for own in points:
        print("  ".join(f"{name} {value:.3g}" for name, value in own.items()))
    print(f"occupancy: {time.monotonic() - started:.0f} s")
    return points


def draw(points: list[Point]) -> None:
    """Speeds and size, ragged over dense, against the occupancy."""
    x = [100 * own["occupancy"] for own in points]
    names = {
        "speed_from_disk": "speed, disk to dense batch",
        "speed_in_memory": "speed, memory to dense batch (dense: memcpy)",
        "size_on_disk": "size on disk",
    }
    with styled():
        figure = Figure(figsize=(5.6, 3.8))
        ax = figure.subplots()
        for (name, text), look in zip(names.items(), looks(list(names)).values(), strict=False):
            ax.plot(x, [own[name] for own in points], label=text, marker=look.marker, ms=4, **look.line_style())
        ax.axhline(1, color=MUTED, lw=0.9)
        ax.axvline(100 * DENSE_OCCUPANCY, color=MUTED, lw=0.9, ls=":")
        ax.text(100 * DENSE_OCCUPANCY, 0.02, " parts are\n dense", transform=ax.get_xaxis_transform(), color=MUTED)
        ax.set(yscale="log", xlabel="occupancy (%)", ylabel="ragged / dense")
        ax.set_ylim(0.1, 10)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        ax.legend()
        heading(ax, "ragged against dense", f"{'x'.join(map(str, MESH.shape))} cells, {SHOWERS} showers")
        FigureCanvasAgg(figure)
        IMAGE.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(IMAGE, metadata={"Software": None}, bbox_inches="tight")


if __name__ == "__main__":
    occupancy()
