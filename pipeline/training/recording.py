"""What a training writes down: rows of metrics, deterministic numbers only, and apart from them what it cost.

Out: `metrics.jsonl`, one row per line, cut back to the checkpoint when a run goes on; `training.measured.json`. Of
several processes the first one writes.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from pipeline.provenance import atomic_path, write_json
from pipeline.training.prefetch import Prefetcher
from pipeline.training.request import TrainRequest
from pipeline.training.state import State
from pipeline.training.throughput import Throughput

log = logging.getLogger(__name__)
ROWS = 100  # rows of training metrics in a whole run


def due(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` samples was passed."""
    return before // every != after // every


def averages(state: State) -> dict[str, Any]:
    """The row of training metrics since the last one; starts the sums anew."""
    steps = state.sums.pop("steps")
    row = {"samples": state.samples, "split": "train", **{k: v / steps for k, v in state.sums.items()}}
    state.sums = {}
    return row


def append(rows: IO[str], state: State, new: list[dict[str, Any]]) -> None:
    """Write new rows, and keep them for the checkpoints."""
    for row in new:
        state.rows.append(row)
        rows.write(json.dumps(row, sort_keys=True) + "\n")
        rows.flush()
        level = logging.INFO if row["split"] == "validation" else logging.DEBUG
        log.log(level, "%(samples)d showers, %(split)s loss %(loss).4f", row)


@contextmanager
def metrics_file(request: TrainRequest, state: State) -> Iterator[IO[str]]:
    """The run's metrics, cut back to what the checkpoint knows; written by the first process alone."""
    if not state.ranks.first:
        with open(os.devnull, "w") as nothing:
            yield nothing
        return
    path = request.folder / "metrics.jsonl"
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in state.rows))
    with open(path, "a") as rows:
        yield rows


@contextmanager
def measured(request: TrainRequest, state: State, meter: Throughput, batches: Prefetcher) -> Iterator[None]:
    """Write what the steps of the block cost, however it ends."""
    wall, cpu, resumed_at = time.monotonic(), time.process_time(), state.samples
    try:
        yield
    finally:
        times = {"wall_seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
        if state.ranks.first:
            found = {"samples": state.samples - resumed_at, **times, **meter.record(batches.waited_seconds)}
            write_json(request.folder / "training.measured.json", found)
