"""One stage ended at its file operations, one after the other, and run again after each: what was not right then.

`walk` ends a command in the fork server at each operation of its trace (`crash_server.py`, `file_operations.c`), in
one of four ways: k: killed before the operation; t: half of a write is done, then killed; l: killed, and what was
written but not synced is empty afterwards, as after a power cut; f: from there on the disk is full. Then the same
command runs undisturbed, and all files of the workspace have the bytes of an undisturbed run, the parts hold each
shower as often as before, and no temporary file is left. A stage is ended on an empty place (`fresh`), or over its own
earlier output (`again`). Operations of threads are counted as they come, which differs from run to run.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crash_experiment import SHARED, STAGES
from crash_server import Server, undisturbed
from workflow_fixtures import Workspace

WAYS = {"k": "killed", "l": "killed, unsynced lost", "f": "disk full", "t": "killed in a write"}
TRACEBACK = 70


@dataclass
class Found:
    """What became of one stage in one way: ends by kind of operation, and everything that was not right."""

    stage: str
    how: str
    place: str
    operations: int = 0  # of an undisturbed run
    boundaries: int = 0  # those among them at which this way can end it
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "stage": self.stage,
            "how": self.how,
            "place": self.place,
            "operations": self.operations,
            "boundaries": self.boundaries,
            "ended": sum(self.ends.values()),
            "by_kind": dict(sorted(self.ends.items())),
            "lost": len(self.lost),
        }


def remove(folder: Path, patterns: Sequence[str]) -> None:
    """Delete what a stage makes."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def showers(workspace: Workspace) -> Counter[str]:
    """How often each shower lies in the parts of the workspace, by its hash."""
    import zarr

    hashes: Counter[str] = Counter()
    for store in sorted(workspace.folder.glob("data/store/*/*.zarr")):
        hashes.update(map(str, np.asarray(zarr.open_group(store, mode="r")["shower_hash"][:]).tolist()))
    return hashes


def walk(
    running: Server, workspace: Workspace, stage: str, how: str, place: str = "fresh", most: int | None = None
) -> Found:
    """End the stage at each of its operations (or at `most` of them, first and last included) and run it again."""
    arguments, made = STAGES[stage]
    right, known = workspace.digests(), showers(workspace)
    whole = right
    found = Found(stage, how, place)

    def prepare() -> None:
        if place == "fresh":
            remove(workspace.folder, made)

    for _ in range(2):  # the first one warms caches
        prepare()
        undisturbed(running, workspace, arguments)
    trace = running.trace()
    right = workspace.digests() if stage in SHARED else right
    if workspace.digests() != right:
        found.lost.append(f"{stage}: run again undisturbed, it makes other bytes")
    found.operations = len(trace)
    wanted = [i for i, (kind, _) in enumerate(trace, 1) if how != "t" or kind == "write"]
    found.boundaries = len(wanted)
    if most is not None and most < len(wanted):
        wanted = sorted({wanted[round(i * (len(wanted) - 1) / (most - 1))] for i in range(most)})
    for at in wanted:
        prepare()
        status, words = running.run(workspace, arguments, how, at)
        kind, path = running.trace()[-1]
        where = f"{stage} ({place}), {WAYS[how]} at operation {at} of {found.operations}, {kind} {path}"
        if how != "f" and status == 0:  # fewer operations this time: a cache was warm
            continue
        found.ends[running.trace()[at - 1][0]] += 1
        if how != "f" and status != -signal.SIGKILL:
            found.lost.append(f"{where}: expected the end of the process, got status {status}: {words[-500:]}")
        if how == "f" and not _foreseen(status, words, workspace, right):
            found.lost.append(f"{where}: expected one line of reason, got status {status}: {words[-1500:]}")
        if how == "l":
            _lose(workspace, running.scratch / "lost")
        status, words = running.run(workspace, arguments)
        if status:
            found.lost.append(f"{where}: the same command again ended with {status}: {words[-500:]}")
            prepare()
            undisturbed(running, workspace, arguments)
        now = workspace.digests()
        if now != right:
            changed = sorted(k for k in {*now, *right} if now.get(k) != right.get(k))
            found.lost.append(f"{where}: other bytes in {changed[:5]}")
            right = now
        if stage in ("simulate", "ingest", "preprocess", "ingest_sample") and showers(workspace) != known:
            found.lost.append(f"{where}: other showers in the parts")
        left = [p for top in ("data", "results", "logs") for p in (workspace.folder / top).rglob(".*")]
        if left := [p for p in left if p.name.endswith((".tmp", ".download"))]:
            found.lost.append(f"{where}: left {[p.name for p in left]}")
            for path_left in left:
                shutil.rmtree(path_left) if path_left.is_dir() else path_left.unlink()
    if stage in SHARED:
        undisturbed(running, workspace, SHARED[stage])
        if workspace.digests() != whole:
            found.lost.append(f"{stage}: the stage behind it makes other bytes")
    return found


def _foreseen(status: int, words: str, workspace: Workspace, right: dict[str, str]) -> bool:
    """Whether a full disk ended well: by its reason in one line, or, where it did not matter, with the right bytes.

    The HDF5 library may go down itself when it then closes a file that it cannot write; the line was there before.
    """
    if status == 0:
        return workspace.digests() == right
    return status != TRACEBACK and ("No space left on device" in words or "errno = 28" in words)


def _lose(workspace: Workspace, lost: Path) -> None:
    """Empty the files whose inodes are listed: what a power cut does to what was not synced."""
    inodes = {int(line) for line in lost.read_text().split()} if lost.exists() else set()
    for top in ("data", "results", "logs"):
        for path in (workspace.folder / top).rglob("*"):
            if path.is_file() and path.stat().st_ino in inodes:
                os.truncate(path, 0)
    lost.unlink(missing_ok=True)
