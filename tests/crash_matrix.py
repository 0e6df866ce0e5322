"""Every stage ended at every one of its file operations, then the same command again: nothing lost, nothing doubled.

`python tests/crash_matrix.py [STAGE ...] [--how LETTERS] [--most N]` prints a line per stage and way, and puts it into
benchmarks/results/crashes.json with the digest of the code; what stands there of this code is not measured again.
Operations are seen by `file_operations.c` below all libraries; an end comes before the operation, so that the N-th end
is the state after N - 1 of them. Four ways: k: killed; t: half of a write is done, then killed; l: killed, and what was
written but not synced is empty afterwards, as after a power cut; f: from there on the disk is full. After each the same
command runs undisturbed, and then all files of the workspace have the bytes of an undisturbed run, the parts hold each
shower as often as before, and no temporary file is left. A stage is ended on an empty place (`fresh`), data stages also
over their own earlier output (`again`). Operations of threads are counted as they come, which differs from run to run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from crash_experiment import AGAIN, SHARED, STAGES, finished
from crash_server import Server, in_memory, server, undisturbed
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.provenance import code_digest

RESULTS = REPOSITORY / "benchmarks" / "results" / "crashes.json"
WAYS = {"k": "killed", "l": "killed, unsynced lost", "f": "disk full", "t": "killed in a write"}
TRACEBACK = 70
Task = tuple[str, str, str]  # place, way, stage


@dataclass
class Found:
    """What became of one stage in one way: ends by kind of operation, and everything that was not right."""

    stage: str
    how: str
    place: str
    operations: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "stage": self.stage,
            "how": self.how,
            "place": self.place,
            "operations": self.operations,
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


def rows() -> dict[Task, dict[str, Any]]:
    """What is recorded."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {(row["place"], row["how"], row["stage"]): row for row in found}


def record(task: Task, row: dict[str, Any]) -> None:
    """Put a row among the recorded ones, in the place of an earlier one of its stage, way and place."""
    known = {**rows(), task: row}
    order = sorted(known, key=lambda k: (k[0] != "fresh", list(WAYS).index(k[1]), list(STAGES).index(k[2])))
    RESULTS.write_text(json.dumps([known[key] for key in order], indent=1) + "\n")


def missing(stages: Sequence[str], ways: str, code: str, most: int | None) -> list[Task]:
    """What is not recorded of this code, or of fewer operations than are asked for."""
    wanted = [("fresh", how, stage) for how in ways for stage in stages]
    wanted += [("again", ways[0], stage) for stage in stages if stage in AGAIN]

    def fine(row: dict[str, Any]) -> bool:
        return row.get("code") == code and (row["most"] is None or (most is not None and row["most"] >= most))

    known = rows()
    return [task for task in wanted if task not in known or not fine(known[task])]


@contextmanager
def workplaces(n: int) -> Iterator[Callable[[Callable[[Server, Workspace], Any]], Any]]:
    """Calls a function with one of n fork servers and its finished workspace, when one is idle."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crashes-", dir=in_memory()))).resolve()
        idle: SimpleQueue[tuple[Server, Workspace]] = SimpleQueue()
        for i in range(n):
            running = stack.enter_context(server())
            if i == 0:
                (folder / "0").mkdir()
                workspace = finished(running, folder / "0")
            else:
                workspace = Workspace(Path(shutil.copytree(folder / "0", folder / str(i))))
            idle.put((running, workspace))

        def call(function: Callable[[Server, Workspace], Any]) -> Any:
            place = idle.get()
            try:
                return function(*place)
            finally:
                idle.put(place)

        yield call


def main() -> int:
    """Walk, print, record; exit status 1 when something was lost."""
    parser = argparse.ArgumentParser(description="End every stage at every file operation, and run it again.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"default: all of {', '.join(STAGES)}")
    parser.add_argument("--how", default="".join(WAYS), help=f"letters of {WAYS}")
    parser.add_argument("--most", type=int, help="at most so many operations of a stage, first and last among them")
    parser.add_argument("--workers", type=int, default=1, help="stages that are walked at once")
    options = parser.parse_args()
    code, lost = code_digest()[:12], 0
    left = missing(options.stages or list(STAGES), options.how, code, options.most)
    if not left:
        return 0
    with workplaces(options.workers) as call, ThreadPoolExecutor(options.workers) as pool:

        def one(task: Task) -> Found:
            place, how, stage = task
            return call(lambda running, workspace: walk(running, workspace, stage, how, place, options.most))

        walks = {pool.submit(one, task): task for task in left}
        for walked in as_completed(walks):
            (place, how, stage), found = walks[walked], walked.result()
            stamp = {"most": options.most, "code": code, "date": date.today().isoformat()}
            record(walks[walked], {**found.row(), **stamp})
            lost += len(found.lost)
            print(f"{stage:14} {place:6} {WAYS[how]:22} {sum(found.ends.values()):5} ends", flush=True)
            print("".join(f"    {line}\n" for line in found.lost[:3]), end="", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
