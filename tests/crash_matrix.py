"""Every stage ended at every one of its file operations, then the same command again: nothing lost, nothing doubled.

`python tests/crash_matrix.py [STAGE ...] [--how LETTERS] [--most N]` prints a line per stage and way (`crash_walk.py`),
and puts it into benchmarks/results/crashes.json with the digest of the code; what stands there of this code is not
measured again. Stages are killed at all operations; over their own earlier output, and in the other ways, at all or
with `--most` at so many. Ctrl-C ends it at once, and keeps every line that was printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

from crash_experiment import STAGES, finished
from crash_server import Lost, Server, in_memory, server
from crash_walk import WAYS, Found, walk
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.provenance import atomic_path, code_digest

RESULTS = REPOSITORY / "benchmarks" / "results" / "crashes.json"
PLACES = ("fresh", "again")
SECONDS_BETWEEN_SIGNALS = 0.2  # a signal that another thread received is seen by the main one when it next wakes up
Task = tuple[str, str, str]  # place, way, stage
COMPLETE = ("fresh", "k")  # whatever `--most` says
Walk = Callable[[Server, Workspace, Task], Found]


# ----------------------------------------------------------------------------------------- records


def rows() -> dict[Task, dict[str, Any]]:
    """What is recorded."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {(row["place"], row["how"], row["stage"]): row for row in found}


def record(task: Task, row: dict[str, Any]) -> None:
    """Put a row among the recorded ones, in the place of an earlier one of its stage, way and place."""
    known = {**rows(), task: row}
    order = sorted(known, key=lambda k: (list(WAYS).index(k[1]), PLACES.index(k[0]), list(STAGES).index(k[2])))
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(json.dumps([known[key] for key in order], indent=1) + "\n")


def missing(stages: Sequence[str], ways: str, code: str, most: int | None) -> list[Task]:
    """What is not recorded of this code, or of fewer operations than are asked for, or lost something."""
    wanted = [(place, how, stage) for how in ways for place in PLACES for stage in stages]
    known = rows()

    def fine(task: Task) -> bool:
        row = known.get(task, {})
        tried = row.get("most", 0)
        enough = tried is None or (task[:2] != COMPLETE and most is not None and tried >= most)
        return row.get("code") == code and not row["lost"] and enough

    return [task for task in wanted if (task[0] == "fresh" or task[1] == "k") and not fine(task)]


# -------------------------------------------------------------------------------------- workplaces


@dataclass
class Workplaces:
    """Fork servers, each with a finished workspace of its own."""

    servers: list[Server] = field(default_factory=list)
    idle: SimpleQueue[tuple[Server, Workspace]] = field(default_factory=SimpleQueue)

    def add(self, running: Server, workspace: Workspace) -> None:
        """One more."""
        self.servers.append(running)
        self.idle.put((running, workspace))

    def call(self, function: Callable[[Server, Workspace], Any]) -> Any:
        """The function's value at the next one that is idle."""
        place = self.idle.get()
        try:
            return function(*place)
        finally:
            self.idle.put(place)

    def end(self) -> None:
        """Kill all servers and what runs in them."""
        for running in self.servers:
            running.end()


@contextmanager
def workplaces(n: int) -> Iterator[Workplaces]:
    """n of them, in memory where that is to be had; nothing is left of them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crashes-", dir=in_memory()))).resolve()
        places = Workplaces()
        for i in range(n):
            running = stack.enter_context(server())
            if i == 0:
                (folder / "0").mkdir()
                workspace = finished(running, folder / "0")
            else:
                workspace = Workspace(Path(shutil.copytree(folder / "0", folder / str(i))))
            places.add(running, workspace)
        yield places


def walk_all(tasks: Sequence[Task], places: Workplaces, one: Walk, stamp: dict[str, Any]) -> int:
    """Walk, print and record all tasks, as many at a time as there are places; returns how much was lost.

    Whatever ends it early, an interrupt first of all, kills the servers: no walk is waited for.
    """
    lock, ended, lost = Lock(), Event(), 0

    def walked(task: Task) -> int:
        place, how, stage = task
        try:
            found: Found = places.call(lambda running, workspace: one(running, workspace, task))
        except Lost as reason:
            if not ended.is_set():
                print(f"{stage:14} {place:6} {WAYS[how]:22} {reason}", flush=True)
            return 1
        with lock:
            record(task, {**found.row(), **stamp, "most": None if task[:2] == COMPLETE else stamp["most"]})
            print(f"{stage:14} {place:6} {WAYS[how]:22} {sum(found.ends.values()):5} ends", flush=True)
            print("".join(f"    {line}\n" for line in found.lost[:3]), end="", flush=True)
        return len(found.lost)

    with ThreadPoolExecutor(len(places.servers)) as pool:
        walks = [pool.submit(walked, task) for task in tasks]
        try:
            running: set[Future[int]] = set(walks)
            while running:
                done, running = wait(running, SECONDS_BETWEEN_SIGNALS, FIRST_EXCEPTION)
                lost += sum(walk.result() for walk in done)
            return lost
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            places.end()
            raise


def interruptible() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, in the background too; later ones are ignored."""

    def end(*_: object) -> None:
        for own in (signal.SIGINT, signal.SIGTERM):
            signal.signal(own, signal.SIG_IGN)
        raise KeyboardInterrupt

    for own in (signal.SIGINT, signal.SIGTERM):
        signal.signal(own, end)


def main() -> int:
    """Walk, print, record; exit status 1 when something was lost, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(description="End every stage at every file operation, and run it again.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"default: all of {', '.join(STAGES)}")
    parser.add_argument("--how", default="".join(WAYS), help=f"letters of {WAYS}")
    parser.add_argument(
        "--most", type=int, help="in the ways besides k: at so many operations, first and last included"
    )
    parser.add_argument("--workers", type=int, default=1, help="stages that are walked at once")
    options = parser.parse_args()
    interruptible()
    stamp = {"most": options.most, "code": code_digest()[:12], "date": date.today().isoformat()}
    tasks = missing(options.stages or list(STAGES), options.how, stamp["code"], options.most)
    if not tasks:
        return 0

    def one(running: Server, workspace: Workspace, task: Task) -> Found:
        place, how, stage = task
        return walk(running, workspace, stage, how, place, None if task[:2] == COMPLETE else options.most)

    try:
        with workplaces(options.workers) as places:
            return 1 if walk_all(tasks, places, one, stamp) else 0
    except KeyboardInterrupt:
        print(f"interrupted; the lines above are kept in {RESULTS.relative_to(REPOSITORY)}", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
