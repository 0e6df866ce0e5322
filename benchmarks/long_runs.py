"""What grows in a long run: memory, open files, temporary files and logs over batches and parts.

`long_runs(batches, parts)` trains a small network for that many batches, and ingests, preprocesses and merges that many
small files, each in one process. Every few of them the process is looked at; a slope is that of a straight line through
the second half, so that caches and pools are warm, and its error that of a jackknife over `BLOCKS` stretches of it,
which also sees values that hang together. Out: rows `{case, over, what, per_1000, error, last, flat}`, recorded with
the digest of the code; a case that is recorded of this code is not run again.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from pipeline.provenance import code_digest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "long_runs.json"
LOOKS = 60
BLOCKS = 5
SIGMAS = 3
# growth per 1000 that is none: with 1000 a day, less than 1 GB or 20 files in a year, and a line of log each
NOTHING = {"memory, MB": 2.0, "open files": 0.05, "threads": 0.05, "temporary files": 0.05, "log, kB": 100.0}
MESH = {"cells": [4, 6, 5], "dr_mm": 2.0, "dz_mm": 3.0}
CONTENT: dict[str, Any] = {
    "experiment": "long",
    "datasets": {
        "siw": {
            "format": "calochallenge",
            "files": "raw/*.h5",
            "detector": "SiW",
            "mesh": MESH,
            "sampling_corrected": False,
            "angle_deg": 90,
        }
    },
    "splits": {"train": 0.8, "validation": 0.1, "test": 0.1},
    "preprocessing": {"log": [{"log1p": {"scale_mev": 0.01}}, "standardise"]},
    "runs": {
        "ssl": {
            "model": {"name": "masked_vit", "patch": [2, 3, 1], "width": 8, "depth": 1, "heads": 2, "decoder_width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"batch_size": 8, "samples": 8, "checkpoint_every": 8000, "validate_every": 8000},
        }
    },
}


class Looks:
    """What the process uses, look by look."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, psutil.Process()
        self._logs = folder / "log"
        self.seen: list[dict[str, float]] = []

    def look(self, at: int) -> None:
        """One look, after so many batches or parts."""
        gc.collect()
        temporary = [*Path(tempfile.gettempdir()).iterdir(), *self._folder.rglob("*.tmp")]
        self.seen.append(
            {
                "at": at,
                "memory, MB": self._process.memory_info().rss / 1e6,
                "open files": self._process.num_fds(),
                "threads": self._process.num_threads(),
                "temporary files": len(temporary),
                "log, kB": self._logs.stat().st_size / 1e3 if self._logs.exists() else 0.0,
            }
        )

    def rows(self, case: str, over: str) -> list[dict[str, Any]]:
        """A row per quantity: growth per 1000 in the second half with its error, the last value, whether it is flat."""
        half = self.seen[len(self.seen) // 2 :]
        at = np.array([look["at"] for look in half], float)
        rows = []
        for what in list(half[0])[1:]:
            values = np.array([look[what] for look in half])
            slope, error = (1000 * number for number in line(at, values))
            flat = slope <= max(NOTHING[what], SIGMAS * error)
            numbers = {"per_1000": round(slope, 4), "error": round(error, 4), "last": round(float(values[-1]), 3)}
            rows.append({"case": case, "over": over, "what": what, **numbers, "flat": bool(flat)})
        return rows


def line(at: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of the straight line, and its error: the jackknife over `BLOCKS` neighbouring stretches."""
    slope = float(np.polyfit(at, values, 1)[0])
    blocks = np.array_split(np.arange(len(at)), BLOCKS)
    without = [np.polyfit(np.delete(at, block), np.delete(values, block), 1)[0] for block in blocks]
    return slope, float(np.sqrt((BLOCKS - 1) * np.var(without)))


def batches(folder: str, n: int) -> list[dict[str, Any]]:
    """Train for n batches in this process."""
    from pipeline import stages
    from pipeline.training import trainer

    plan, _ = _prepared(Path(folder), files=2, showers=60, samples=8 * n)
    for part in plan.parts("siw"):
        stages.ingest(plan, "siw", part, 1)
        stages.preprocess(plan, "siw", part, "log", 1)
    stages.merge(plan, "log", "siw", 1)
    looks, done, original = Looks(Path(folder)), [0], trainer.step

    def step(*arguments: Any, **options: Any) -> Any:
        done[0] += 1
        if done[0] % max(1, n // LOOKS) == 0:
            looks.look(done[0])
        return original(*arguments, **options)

    trainer.step = step
    stages.train(plan, "ssl")
    return looks.rows("batches", f"{done[0]} batches")


def parts(folder: str, n: int) -> list[dict[str, Any]]:
    """Ingest and preprocess n files, and merge them, in this process."""
    from pipeline import stages

    plan, looks = _prepared(Path(folder), files=n, showers=8, samples=8)
    for i, part in enumerate(plan.parts("siw"), 1):
        stages.ingest(plan, "siw", part, 1)
        stages.preprocess(plan, "siw", part, "log", 1)
        if i % max(1, n // LOOKS) == 0:
            looks.look(i)
    stages.merge(plan, "log", "siw", 1)
    return looks.rows("parts", f"{n} parts")


def _prepared(folder: Path, files: int, showers: int, samples: int) -> tuple[Any, Looks]:
    """A project with small raw files, its log in a file, and the plan."""
    from pipeline.calorimeter import CylinderMesh, Showers
    from pipeline.config import load_config
    from pipeline.data.formats import write_calochallenge
    from pipeline.plan import Plan

    os.chdir(folder)
    Path("tmp").mkdir()
    tempfile.tempdir = str(folder / "tmp")
    logging.basicConfig(level=logging.INFO, filename="log", format="%(message)s", force=True)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - progress bars
    mesh, rng = CylinderMesh(4, 6, 5, 2.0, 3.0), np.random.default_rng(1)
    Path("raw").mkdir()
    for i in range(files):
        energy = rng.exponential(1.0, (showers, *mesh.shape)) * (rng.uniform(size=(showers, *mesh.shape)) < 0.3)
        labels = (rng.uniform(1000, 4000, showers), np.full(showers, np.pi / 2), np.zeros(showers))
        block = Showers(energy.astype(np.float32), *labels, mesh, "SiW")
        write_calochallenge(
            Path(f"raw/{i:05d}.h5"), [block], sampling_fraction=0.03, sampling_corrected=False, threshold_mev=0.0
        )
    content = yaml.safe_load(yaml.safe_dump(CONTENT))
    content["runs"]["ssl"]["training"]["samples"] = samples
    return Plan.discover(load_config(content)), Looks(folder)


def long_runs(n_batches: int = 10_000, n_parts: int = 1_000, known: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Both, each in a fresh process; without the cases that are known."""
    rows = []
    cases: list[tuple[Callable[[str, int], list[dict[str, Any]]], int]] = [(batches, n_batches), (parts, n_parts)]
    for function, n in cases:
        if function.__name__ not in known:
            with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
                rows += pool.apply(function, (folder, n))
    return rows


def main() -> int:
    """Run what is not recorded of this code; exit status 1 when something grows."""
    code, stamp = code_digest()[:12], date.today().isoformat()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [row for row in kept if row.get("code") == code]
    found = long_runs(*(int(n) for n in sys.argv[1:]), known=[row["case"] for row in kept])
    rows = [*kept, *({**row, "code": code, "date": stamp} for row in found)]
    RESULTS.write_text(json.dumps(sorted(rows, key=lambda row: row["case"]), indent=1) + "\n")
    for row in rows:
        growth = f"{row['per_1000']:10} ± {row['error']} per 1000"
        print(f"{row['over']:16} {row['what']:16} {growth}, last {row['last']}{'' if row['flat'] else ', GROWS'}")
    return 0 if all(row["flat"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
