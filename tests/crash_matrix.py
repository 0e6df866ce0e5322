"""Every stage ended at every one of its file operations, then the same command again: nothing lost, nothing doubled.

`python tests/crash_matrix.py [STAGE ...] [--how LETTERS] [--most N]` prints a line per stage and way, and puts it into
benchmarks/results/crashes.json. Operations are seen by `file_operations.c` below all libraries; an end comes before
the operation, so that the N-th end is the state after N - 1 of them. Four ways: k: killed; t: half of a write is done,
then killed; l: killed, and what was written but not synced is empty afterwards, as after a power cut; f: from there on
the disk is full. After each the same command runs undisturbed, and then all files of the workspace have the bytes of
an undisturbed run, the parts hold each shower as often as before, and no temporary file is left. A stage is ended on
an empty place (`fresh`), data stages also over their own earlier output (`again`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from workflow_fixtures import REPOSITORY, Workspace, environment

SOURCE = REPOSITORY / "tests" / "file_operations.c"
SERVER = REPOSITORY / "tests" / "fork_server.py"
RESULTS = REPOSITORY / "benchmarks" / "results" / "crashes.json"
WAYS = {"k": "killed", "l": "killed, unsynced lost", "f": "disk full", "t": "killed in a write"}
TRACEBACK = 70

CONTENT: dict[str, Any] = {
    "experiment": "crash",
    "datasets": {
        "siw": {
            "format": "calochallenge",
            "files": "data/raw/siw/*.h5",
            "detector": "SiW",
            "sampling_corrected": False,
            "angle_deg": 90,
            "simulate": {"engine": "parametric", "files": 2, "showers": 40, "energy_gev": [1, 4]},
        }
    },
    "splits": {"train": 0.5, "validation": 0.1, "test": 0.4},
    "preprocessing": {
        "log": [
            {"rebin": {"factors": [6, 10, 9]}},
            {"cut": {"threshold_mev": 0.015}},
            {"log1p": {"scale_mev": 0.01}},
            "standardise",
        ]
    },
    "runs": {
        "representation": {
            "model": {"name": "masked_vit", "patch": [3, 5, 1], "width": 8, "depth": 1, "heads": 2, "decoder_width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
        "energy": {
            "start_from": "representation",
            "head": {"predict": "incident_energy", "width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
        "generator": {
            "model": {
                "name": "diffusion",
                "patch": [3, 5, 1],
                "width": 8,
                "depth": 1,
                "heads": 2,
                "layer_energies": {"width": 8, "depth": 1, "steps": 2},
            },
            "data": ["siw"],
            "recipe": "log",
            "slices": 2,
            "training": {"samples": 32, "batch_size": 8, "validate_every": 16, "checkpoint_every": 8},
        },
    },
    "samples": {"generator": {"run": "generator", "steps": 2}},
    "evaluation": {
        "reference": "siw",
        "rebin": [6, 10, 9],
        "threshold_mev": 0.015,
        "showers": 10,
        "bootstrap": 2,
        "classifier_seeds": 1,
    },
    "figures": {"draw": ["hits"]},
}

DATA = ("--dataset", "siw", "--recipe", "log")
PART = "siw_0002"
# stage -> (arguments, what it makes below the workspace)
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "simulate": (("simulate", "--file", f"siw/{PART}"), (f"data/raw/siw/{PART}.h5*",)),
    "ingest": (("ingest", "--dataset", "siw", "--part", PART, "--threads", "1"), (f"data/store/siw-*/{PART}.*",)),
    "preprocess": (
        ("preprocess", *DATA, "--part", PART, "--threads", "1"),
        (f"data/preprocessed/*/siw-*/{PART}.*",),
    ),
    "merge": (("merge", *DATA, "--threads", "1"), ("results/crash/merge/log/siw.json",)),
    "train": (("train", "--run", "energy"), ("results/crash/train/energy",)),
    "train slice": (
        ("train", "--run", "generator", "--slice", "1"),
        ("results/crash/train/generator/slice-1.json", "results/crash/train/generator/checkpoints"),
    ),
    "generate": (("generate", "--sample", "generator"), ("results/crash/generate/generator.*",)),
    "ingest_sample": (("ingest", "--sample", "generator", "--threads", "1"), ("results/crash/ingest/generator.*",)),
    "predict": (("predict", "--run", "energy"), ("results/crash/predict/energy.*",)),
    "evaluate": (("evaluate", "--subject", "energy"), ("results/crash/evaluate/energy.*",)),
    "metrics": (("metrics",), ("results/crash/metrics.json",)),
    "figures": (("figures", "--figure", "hits"), ("results/crash/figures/hits.*",)),
    "report": (("report",), ("results/crash/report.html",)),
    "freeze": (("freeze", "experiment.yaml", "--output", "data/lock.json"), ("data/lock.json",)),
    "download": (("download", "siw", "--config", "download.yaml"), ("data/raw/fetched", "data/fingerprints.json")),
    "export-dense": (
        ("export-dense", "--dataset", "siw", "--output", "data/dense"),
        ("data/dense",),
    ),
}
AGAIN = ("simulate", "ingest", "preprocess", "merge", "export-dense")  # killed over their own earlier output too
SHARED = ("train slice",)  # the next slice goes on in the same folder, so a slice alone is compared with itself


class Lost(AssertionError):
    """A state from which the same command did not come back to the same bytes."""


@dataclass
class Server:
    """The fork server, watched by the compiled interposer."""

    process: subprocess.Popen[str]
    scratch: Path

    def run(self, workspace: Workspace, arguments: Sequence[str], how: str = "k", at: int = 0) -> tuple[int, str]:
        """Exit status (negative: a signal) and words of one command; the trace lies in `scratch` afterwards."""
        command, *rest = arguments
        source = [] if command in ("freeze", "download") else ["--config", str(workspace.config_file)]
        request = {
            "folder": str(workspace.folder),
            "arguments": [command, *source, *rest],
            "how": how,
            "at": at,
            "trace": str(self.scratch / "trace"),
            "lost": str(self.scratch / "lost"),
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["words"]

    def trace(self) -> list[tuple[str, str]]:
        """Kind and path of each operation of the last command."""
        lines = (self.scratch / "trace").read_text().splitlines()
        return [(kind, path) for _, kind, path in (line.split(" ", 2) for line in lines)]


@contextmanager
def server() -> Iterator[Server]:
    """A running fork server; RuntimeError where there is no C compiler, or preloading does not work."""
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        scratch = Path(folder).resolve()
        library = scratch / "file_operations.so"
        compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
        if compiler is None or sys.platform != "linux":
            raise RuntimeError("expected Linux with a C compiler (cc), found none; install gcc")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(scratch / "words")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), **single, "LD_PRELOAD": str(library), "MPLBACKEND": "agg"},
            text=True,
        )
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "ready"
            yield Server(process, scratch)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def finished(running: Server, folder: Path) -> Workspace:
    """A workspace in which every job of the experiment has run, one after the other."""
    from pipeline.config import load_config
    from pipeline.jobs import jobs
    from pipeline.plan import Plan

    workspace = Workspace(folder)
    workspace.configure(CONTENT)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for job in jobs(Plan.discover(load_config(workspace.config_file))):
            _undisturbed(running, workspace, _command(job.stage, job.name, job.output))
    finally:
        os.chdir(before)
    published = folder / "published"
    published.mkdir()
    (published / "siw.h5").write_bytes((folder / "data" / "raw" / "siw" / f"{PART}.h5").read_bytes())
    checksum = f"md5:{hashlib.md5((published / 'siw.h5').read_bytes(), usedforsecurity=False).hexdigest()}"
    spec = {"urls": [{"url": f"{_served(published)}/siw.h5", "checksum": checksum}]}
    dataset = {"format": "calochallenge", "detector": "SiW", "files": "data/raw/fetched/*.h5", "download": spec}
    (folder / "download.yaml").write_text(json.dumps({"experiment": "fetched", "datasets": {"siw": dataset}}))
    for stage in ("freeze", "download", "export-dense"):
        _undisturbed(running, workspace, STAGES[stage][0])
    return workspace


def _served(folder: Path) -> str:
    """The address of a server of the folder's files, which lives as long as this process."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    own = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=own.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{own.server_address[1]}"


def _command(stage: str, name: str, output: Path) -> list[str]:
    """The command line of a job."""
    first, _, rest = name.partition("/")
    options = {
        "simulate": ["--file", name],
        "ingest": ["--dataset", first, "--part", rest],
        "preprocess": ["--recipe", first, "--dataset", *rest.partition("/")[::2]],
        "merge": ["--recipe", first, "--dataset", rest],
        "train": ["--run", name],
        "generate": ["--sample", name],
        "ingest_sample": ["--sample", name],
        "predict": ["--run", name],
        "evaluate": ["--subject", name],
        "examine": ["--run", name],
        "figures": ["--figure", name],
    }.get(stage, [])
    if stage == "preprocess":
        options.insert(4, "--part")
    if output.stem.startswith("slice-"):
        options += ["--slice", output.stem.removeprefix("slice-")]
    return ["ingest" if stage == "ingest_sample" else stage, *options]


def _undisturbed(running: Server, workspace: Workspace, arguments: Sequence[str]) -> None:
    status, words = running.run(workspace, arguments)
    if status:
        raise Lost(f"caloforge {' '.join(arguments)}: ended with {status}: {words[-2000:]}")


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
    undisturbed, known = workspace.digests(), showers(workspace)
    found = Found(stage, how, place)

    def prepare() -> None:
        if place == "fresh":
            remove(workspace.folder, made)

    prepare()
    _undisturbed(running, workspace, arguments)
    trace = running.trace()
    undisturbed = workspace.digests() if stage in SHARED else undisturbed
    if workspace.digests() != undisturbed:
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
        if how == "f" and not _foreseen(status, words, workspace, undisturbed):
            found.lost.append(f"{where}: expected one line of reason, got status {status}: {words[-1500:]}")
        if how == "l":
            _lose(workspace, running.scratch / "lost")
        status, words = running.run(workspace, arguments)
        if status:
            found.lost.append(f"{where}: the same command again ended with {status}: {words[-500:]}")
            prepare()
            _undisturbed(running, workspace, arguments)
        now = workspace.digests()
        if now != undisturbed:
            changed = sorted(k for k in {*now, *undisturbed} if now.get(k) != undisturbed.get(k))
            found.lost.append(f"{where}: other bytes in {changed[:5]}")
            undisturbed = now
        if stage in ("simulate", "ingest", "preprocess", "ingest_sample") and showers(workspace) != known:
            found.lost.append(f"{where}: other showers in the parts")
        left = [p for top in ("data", "results", "logs") for p in (workspace.folder / top).rglob(".*")]
        if left := [p for p in left if p.name.endswith((".tmp", ".download"))]:
            found.lost.append(f"{where}: left {[p.name for p in left]}")
            for path_left in left:
                shutil.rmtree(path_left) if path_left.is_dir() else path_left.unlink()
    return found


def _foreseen(status: int, words: str, workspace: Workspace, undisturbed: dict[str, str]) -> bool:
    """Whether a full disk ended well: by its reason in one line, or, where it did not matter, with the right bytes.

    The HDF5 library may go down itself when it then closes a file that it cannot write; the line was there before.
    """
    if status == 0:
        return workspace.digests() == undisturbed
    return status != TRACEBACK and ("No space left on device" in words or "errno = 28" in words)


def _lose(workspace: Workspace, lost: Path) -> None:
    """Empty the files whose inodes are listed: what a power cut does to what was not synced."""
    inodes = {int(line) for line in lost.read_text().split()} if lost.exists() else set()
    for top in ("data", "results", "logs"):
        for path in (workspace.folder / top).rglob("*"):
            if path.is_file() and path.stat().st_ino in inodes:
                os.truncate(path, 0)
    lost.unlink(missing_ok=True)


def record(row: dict[str, Any]) -> None:
    """Put a row among the recorded ones, in the place of an earlier one of its stage, way and place."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    known = {tuple(r[key] for key in ("place", "how", "stage")): r for r in [*rows, row]}
    order = sorted(known, key=lambda k: (k[0] != "fresh", list(WAYS).index(k[1]), list(STAGES).index(k[2])))
    RESULTS.write_text(json.dumps([known[key] for key in order], indent=1) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: a line per stage, ends by way, and how many of them were not come back from."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    lines = [["stage", "operations", *WAYS.values(), "lost"], ["---"] * (3 + len(WAYS))]
    totals: Counter[str] = Counter()
    for stage in stages:
        of = [row for row in rows if row["stage"] == stage]
        counts = {how: sum(row["ended"] for row in of if row["how"] == how) for how in WAYS}
        lost = sum(row["lost"] for row in of)
        totals.update({**counts, "lost": lost})
        operations = " + ".join(str(row["operations"]) for row in of if row["how"] == of[0]["how"])
        lines.append([stage, operations, *(str(counts[how]) for how in WAYS), str(lost)])
    lines.append(["all", "", *(f"**{totals[how]}**" for how in WAYS), f"**{totals['lost']}**"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Walk, print, write; exit status 1 when something was lost."""
    parser = argparse.ArgumentParser(description="End every stage at every file operation, and run it again.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"default: all of {', '.join(STAGES)}")
    parser.add_argument("--how", default="".join(WAYS), help=f"letters of {WAYS}")
    parser.add_argument("--most", type=int, help="at most so many operations of a stage, first and last among them")
    options = parser.parse_args()
    rows, lost = [], []
    with server() as running, tempfile.TemporaryDirectory(prefix="crash-workspace-") as folder:
        workspace = finished(running, Path(folder).resolve())
        places = [("fresh", how) for how in options.how] + [("again", options.how[0])]
        for place, how in places:
            for stage in options.stages or (AGAIN if place == "again" else STAGES):
                if place == "again" and stage not in AGAIN:
                    continue
                found = walk(running, workspace, stage, how, place, options.most)
                rows.append(found.row())
                lost += found.lost
                print(f"{stage:14} {place:6} {WAYS[how]:22} {sum(found.ends.values()):5} ends", flush=True)
                print("".join(f"    {line}\n" for line in found.lost[:3]), end="", flush=True)
                record(found.row())
    print(table(rows))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
