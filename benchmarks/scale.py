"""What many files cost: `make bench-scale`. In: numbers of raw files. Out: benchmarks/results/scale.json.

Experiments of 100 to 10,000 raw files of 0.1 GB (scale_experiment.py), all up to date, are asked what a user asks on a
Monday: `snakemake --dry-run` beside the bare workflow with as many jobs, turn by turn; the same after one more file
came; `caloforge status`; the merge; and what a training does before its first batch. Wall and CPU seconds and
the peak memory of the process are recorded; every command runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from measure import RESULTS, Case, Cost, Row, cost, gain, median, row, write
from peak import MARK
from scale_experiment import COMPLETE, CONFIG, RAW_GB, add_raw_file, bare, build, environment, ours

FILES = (100, 1000, 10000)
REPETITIONS = 1
ONE_MORE = "one_more"
BATCH = 32


def rows_of(n: int, repetitions: int) -> Iterator[list[Row]]:
    """The rows of one size, question by question."""
    folder = build(n)
    workload = f"{n} raw files, {n * RAW_GB:g} GB"

    def rows(name: str, costs: Sequence[Cost], against: str | None = None) -> list[Row]:
        what = (("wall_s", "s"), ("cpu_s", "s"), ("peak_mb", "MB"))
        ends = {"wall_s": "", "cpu_s": "_cpu", "peak_mb": "_memory"}
        return [row(name + ends[w], median(costs, w), unit, against, workload, len(costs)) for w, unit in what]

    mine, theirs = _in_turn(
        [
            lambda: run(folder, dry_run(ours())),
            lambda: run(folder / "bare", dry_run(bare(n))),
        ],
        repetitions,
    )
    for found in (*mine, *theirs):
        if "Nothing to be done" not in found.result:
            raise SystemExit(f"{folder}: expected all to be up to date, got:\n{found.result[-2000:]}")
    yield [
        row("up_to_date_vs_bare", gain(mine, theirs), "x", "up_to_date_bare", workload, repetitions),
        row("up_to_date_vs_bare_cpu", gain(mine, theirs, "cpu_s"), "x", "up_to_date_bare", workload, repetitions),
        *rows("up_to_date", mine),
        *rows("up_to_date_bare", theirs),
    ]
    one_more, jobs = _one_more(folder)
    yield [*rows("one_more_file", [one_more]), row("one_more_file_jobs", jobs, "jobs", None, workload, 1)]
    yield rows("status", [run(folder, ["pipeline", "status", "--config", CONFIG])])
    yield rows("merge", [cost(Case(merge, (str(folder),)))])
    yield rows("training_start", [cost(Case(start_training, (str(folder),)))])


def _in_turn(cases: Sequence[Callable[[], Cost]], repetitions: int) -> list[list[Cost]]:
    rounds = [[case() for case in cases] for _ in range(repetitions)]
    return [list(costs) for costs in zip(*rounds, strict=True)]


def dry_run(arguments: Sequence[str]) -> list[str]:
    """The words of a dry run of Snakemake."""
    return ["snakemake", *arguments, "--dry-run", "--cores", "2"]


def run(folder: Path, module: Sequence[str]) -> Cost:
    """A module with its arguments in a process of its own: its cost, its own peak memory, and what it printed."""
    words = [sys.executable, str(Path(__file__).with_name("peak.py")), *module]
    wall = time.monotonic()
    with subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{printed[-2000:]}")
    printed, _, peak_kb = printed.rpartition(MARK)
    return Cost(time.monotonic() - wall, usage.ru_utime + usage.ru_stime, int(peak_kb) / 1e3, printed)


def _one_more(folder: Path) -> tuple[Cost, int]:
    """A dry run after one more file came, and how many jobs it has; the file goes again."""
    path = add_raw_file(folder, ONE_MORE)
    try:
        found = run(folder, dry_run([*ours(), "--quiet", "rules"]))
    finally:
        path.unlink()
    table = found.result.partition("Job stats:")[2].partition("\n\n")[0]
    return found, sum(
        int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.M) if name not in ("all", "total")
    )


def merge(folder: str) -> None:
    """The merge over all parts, with the plan loaded as its job does."""
    from pipeline import stages

    stages.merge(_saved_plan(folder), "log", "siw")


def start_training(folder: str) -> int:
    """All that a training does before its first step, streaming; returns the number of its showers."""
    from pipeline.data.transforms import Transform
    from pipeline.provenance import read_json
    from pipeline.training.datasets import training_loader, validation_loader
    from pipeline.training.request import TrainRequest

    plan = _saved_plan(folder)
    paths, transform = plan.paths, plan.paths.transform("log", "siw")
    request = TrainRequest(
        run="representation",
        config=plan.config,
        parts={"siw": plan.part_manifests("siw")},
        prefix={"siw": plan.prefix_manifests("log", "siw")},
        transforms={"siw": transform},
        parent=None,
        manifest=paths.model("representation"),
        folder=paths.run_folder("representation"),
    )
    fitted = [Transform.from_state(read_json(transform))]
    loader = training_loader(request, fitted)
    validation_loader(request, fitted)
    loader.training_batch(0, BATCH)
    return len(loader)


def _saved_plan(folder: str):  # type: ignore[no-untyped-def]
    from pipeline.plan import Plan

    os.chdir(folder)
    return Plan.load(Path(COMPLETE).read_text())


def main() -> None:
    """Measure the sizes asked for and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=list(FILES), help="numbers of raw files")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    for n in options.files:
        found: list[Row] = []
        for rows in rows_of(n, options.repetitions):
            found += rows
            write("scale", merged(found))


def merged(new: Sequence[Row]) -> list[Row]:
    """The new rows with those of other sizes that the file holds, the smallest size first."""
    path = RESULTS / "scale.json"
    old = json.loads(path.read_text()) if path.exists() else []
    sizes = {line["workload"] for line in new}
    return sorted([*(line for line in old if line["workload"] not in sizes), *new], key=_files)


def _files(line: Row) -> int:
    return int(line["workload"].split()[0])


if __name__ == "__main__":
    main()
