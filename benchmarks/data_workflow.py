"""What the workflow itself costs: one more raw file beside 1, 10 and 100, and a dry run with 1,000.

`add_one_file_growth` is the cost of a new file's own ingest and preprocess and of the merge over all parts, beside 100
parts against beside one (each stage loads the plan, as its job does). The parts that are there already are copies of
one, for only their number counts. `dry_run_vs_bare` is `snakemake --dry-run` of an experiment with 1,000 raw files
against a bare Snakefile of as many jobs and the same edges (bare_workflow.smk), turn by turn.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from measure import Case, Row, gain, interleaved, median, row
from workloads import FOLDER, raw_file

from pipeline import stages
from pipeline.config import load_config
from pipeline.plan import Plan

REPOSITORY = Path(__file__).resolve().parent.parent
MESH = {"cells": [9, 16, 45], "dr_mm": 4.65, "dz_mm": 3.4}
GROWTH_GB, PARTS = 0.4, (1, 10, 100)
FILES = 1000
NEW = "new"


def rows(sizes_gb: Sequence[float], repetitions: int) -> list[Row]:
    """Both measurements; the sizes of the raw files do not matter here."""
    return [*_growth_rows(repetitions), *_dry_run_rows(repetitions)]


def experiment(name: str, files: str) -> dict[str, Any]:
    """One data set, one recipe, two runs, one sample, two figures."""
    training = {"samples": 1000, "batch_size": 32}
    return {
        "experiment": name,
        "datasets": {
            "siw": {
                "format": "par04_events",
                "files": files,
                "detector": "SiW",
                "mesh": MESH,
                "sampling_corrected": False,
                "angle_deg": 90,
            }
        },
        "preprocessing": {"log": ["log1p", "standardise"]},
        "runs": {
            "representation": {
                "model": {"name": "masked_vit", "patch": [3, 4, 5]},
                "data": ["siw"],
                "recipe": "log",
                "training": training,
            },
            "generator": {
                "model": {"name": "diffusion", "patch": [3, 4, 5]},
                "data": ["siw"],
                "recipe": "log",
                "training": training,
            },
        },
        "samples": {"generator": {"run": "generator"}},
        "evaluation": {"reference": "siw"},
        "figures": {"draw": ["hits", "linearity"]},
    }


# --------------------------------------------------------------------------------- one more file


def _growth_rows(repetitions: int) -> list[Row]:
    raw = raw_file("9x16x45", GROWTH_GB).resolve()
    folders = {n: _with_parts(n, raw) for n in PARTS}
    costs = interleaved({str(n): Case(add_one_file, (str(folder),)) for n, folder in folders.items()}, repetitions)
    few, many = costs[str(PARTS[0])], costs[str(PARTS[-1])]
    workload = f"{GROWTH_GB:g} GB beside {', '.join(map(str, PARTS))} parts"
    found = [
        row("add_one_file_growth", gain(many, few), "x", "add_one_file_beside_1", workload, repetitions),
        row("add_one_file_growth_cpu", gain(many, few, "cpu_s"), "x", "add_one_file_beside_1", workload, repetitions),
    ]
    for n in PARTS:
        found.append(row(f"add_one_file_beside_{n}", median(costs[str(n)], "wall_s"), "s", None, workload, repetitions))
        found.append(row(f"add_one_file_jobs_{n}", _jobs(folders[n]), "jobs", None, workload, 1))
    return found


def _with_parts(n: int, raw: Path) -> Path:
    """A working folder with `n` parts and their preprocessed ones, merged, and the raw file of one more."""
    folder = (FOLDER / "growth" / str(n)).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    names = [f"p{i:03d}" for i in range(n)]
    for name in [*names, NEW]:
        os.link(raw, folder / "raw" / f"{name}.h5")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment("growth", "raw/*.h5"), sort_keys=False))
    with _inside(folder):
        plan = Plan.discover(load_config("experiment.yaml"))
        manifests = (stages.ingest(plan, "siw", names[0]), stages.preprocess(plan, "siw", names[0], "log"))
        for manifest in manifests:
            _repeat(manifest, names[1:])
        (folder / "raw" / f"{NEW}.h5").rename(folder / "raw" / f"{NEW}.later")
        known = Plan.discover(load_config("experiment.yaml"))
        merged = stages.merge(known, "log", "siw")
        _snakemake(str(folder), [merged.as_posix(), *_ours(), "--touch", "--forceall"])  # as if it had made all this
        (folder / "raw" / f"{NEW}.later").rename(folder / "raw" / f"{NEW}.h5")
        Path("plan").write_text(str(Plan.discover(load_config("experiment.yaml")).save()))
    return folder


def _repeat(manifest: Path, names: Sequence[str]) -> None:
    """The same part under more names: its files are linked, for parts never change."""
    for source in [path for path in manifest.parent.iterdir() if path.stem == manifest.stem]:
        for name in names:
            target = manifest.with_name(f"{name}{source.suffix}")
            if source.is_dir():
                shutil.copytree(source, target, copy_function=os.link)
            else:
                shutil.copy(source, target)


def add_one_file(folder: str) -> None:
    """The new file's own jobs and the merge over all parts, each with the plan loaded anew."""
    with _inside(Path(folder)):
        plan = Path("plan").read_text()
        stages.ingest(Plan.load(plan), "siw", NEW)
        stages.preprocess(Plan.load(plan), "siw", NEW, "log")
        stages.merge(Plan.load(plan), "log", "siw")


def _jobs(folder: Path) -> int:
    """How many jobs Snakemake would start for the new file, up to the merge."""
    with _inside(folder):
        plan = Plan.load(Path("plan").read_text())
        for manifest in (plan.paths.part("siw", NEW), plan.paths.prefix("log", "siw", NEW)):
            manifest.unlink(missing_ok=True)
        target = plan.paths.transform("log", "siw").as_posix()
    return sum(_dry_run(str(folder), [target, *_ours()]).values())


class _inside:
    """The working directory for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.before = os.getcwd()
        os.chdir(self.folder)

    def __exit__(self, *error: object) -> None:
        os.chdir(self.before)


# -------------------------------------------------------------------------------------- dry run


def _dry_run_rows(repetitions: int) -> list[Row]:
    folder = (FOLDER / "dry_run").resolve()
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    for i in range(FILES):
        (folder / "raw" / f"f{i:04d}.h5").write_bytes(str(i).encode())
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment("dry_run", "raw/*.h5"), sort_keys=False))
    bare = ["--snakefile", str(REPOSITORY / "benchmarks" / "bare_workflow.smk"), "--config", f"files={FILES}"]
    cases = {"ours": Case(_dry_run, (str(folder), _ours())), "bare": Case(_dry_run, (str(folder), bare))}
    costs = interleaved(cases, repetitions)
    ours, theirs = costs["ours"], costs["bare"]
    jobs, as_many = ours[0].result, theirs[0].result
    if sum(jobs.values()) != sum(as_many.values()):
        raise SystemExit(f"dry_run_vs_bare: expected as many jobs in both workflows, got {jobs} and {as_many}")
    workload = f"{FILES} raw files, {sum(jobs.values())} jobs"
    per_file = sum(n for n in jobs.values() if n >= FILES) / FILES
    return [
        row("dry_run_vs_bare", gain(ours, theirs), "x", "dry_run_bare", workload, repetitions),
        row("dry_run_vs_bare_cpu", gain(ours, theirs, "cpu_s"), "x", "dry_run_bare", workload, repetitions),
        row("dry_run_ours", median(ours, "wall_s"), "s", None, workload, repetitions),
        row("dry_run_bare", median(theirs, "wall_s"), "s", None, workload, repetitions),
        row("jobs_per_raw_file", per_file, "jobs", None, workload, 1),
    ]


def _ours() -> list[str]:
    profile = str(REPOSITORY / "profiles" / "default")
    snakefile = str(REPOSITORY / "Snakefile")
    return ["--snakefile", snakefile, "--workflow-profile", profile, "--configfile", "experiment.yaml"]


def _dry_run(folder: str, arguments: Sequence[str]) -> dict[str, int]:
    """`snakemake --dry-run` in a process of its own; returns the number of jobs by rule."""
    table = _snakemake(folder, [*arguments, "--dry-run", "--quiet", "rules"]).partition("Job stats:")[2]
    table = table.partition("\n\n")[0]
    counts = {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.M)}
    return {name: n for name, n in counts.items() if name not in ("all", "total")}


def _snakemake(folder: str, arguments: Sequence[str]) -> str:
    """Run Snakemake in a process of its own, with this package; returns what it printed."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CALOFORGE")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"snakemake {' '.join(arguments)}:\n{done.stdout[-2000:]}")
    return done.stdout
