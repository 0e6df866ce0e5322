"""`caloforge why`: what would run now, because of which file or key, and what it cost when it last ran."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.pending import Pending, pending
from pipeline.commands.source import DEFAULT_CONFIG, experiment_file
from pipeline.commands.tables import duration, print_table
from pipeline.config import ConfigError, load_config
from pipeline.jobs import Job, jobs
from pipeline.plan import Plan
from pipeline.reasons import below, causes

_SHOWN = 6


def add(commands: Any) -> None:
    """Declare the command."""
    text = "what would run now, because of which file or key of the configuration, and at what recorded cost"
    parser = commands.add_parser("why", help=text, description=text)
    parser.add_argument("target", nargs="?", help="one output, or one job as STAGE/NAME (default: all)")
    parser.add_argument("--config", help=f"configuration file or experiment (default: {DEFAULT_CONFIG})")
    parser.add_argument("--json", action="store_true", help="print every job as JSON")
    parser.add_argument("--snakemake", default="", metavar="OPTIONS", help="options that Snakemake needs to run here")
    parser.set_defaults(action=_why)


def _why(options: argparse.Namespace) -> None:
    config = experiment_file(options.config, "why") if options.config else Path(DEFAULT_CONFIG)
    plan = Plan.discover(load_config(config))
    every = jobs(plan)
    targets = [_target(options.target, every).as_posix()] if options.target else []
    found = pending([*shlex.split(options.snakemake), *targets, "--configfile", str(config)])
    answer = explain(plan, every, found)
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        _print(answer)


def _target(name: str, every: Sequence[Job]) -> Path:
    """The output that a path, `train/generator` or `report` stands for."""
    for job in every:
        if name in (job.output.as_posix(), f"{job.stage}/{job.name}".rstrip("/")):
            return job.output
    small = [job for job in every if job.stage not in ("ingest", "preprocess")]
    known = sorted({f"{job.stage}/{job.name}".rstrip("/") for job in small})
    raise ConfigError(f"expected an output or one of {', '.join(known)}, got '{name}'")


def explain(plan: Plan, every: Sequence[Job], found: Sequence[Pending]) -> list[dict[str, Any]]:
    """The jobs that would run, in the order of work, each with causes, what it lies below, and its cost in seconds.

    The cost is that of the job's last run, or, where it never ran, the median of its stage (`estimated`).
    """
    reasons = {output: job.reason for job in found for output in job.outputs}
    running = {job.output: job for job in every if job.output in reasons}
    typical = _typical(every)
    answer = []
    for output, job in running.items():
        own = job.measured().get("wall_seconds")
        answer.append(
            {
                "job": f"{job.stage} {job.name}".strip(),
                "stage": job.stage,
                "output": output.as_posix(),
                "causes": causes(plan, job, reasons[output]),
                "below": below(job, running),
                "wall_seconds": own if own is not None else typical.get(job.stage),
                "estimated": own is None,
            }
        )
    return answer


def _typical(every: Sequence[Job]) -> dict[str, float]:
    """Median of the recorded wall seconds of each stage."""
    walls: dict[str, list[float]] = {}
    for job in every:
        if (wall := job.measured().get("wall_seconds")) is not None:
            walls.setdefault(job.stage, []).append(wall)
    return {stage: statistics.median(values) for stage, values in walls.items()}


def _print(answer: Sequence[dict[str, Any]]) -> None:
    if not answer:
        print("nothing would run: all is up to date")
        return
    by_cause: dict[str, list[str]] = {}
    for job in answer:
        for cause in job["causes"]:
            by_cause.setdefault(cause, []).append(job["job"])
    print_table("because of", ["cause", "jobs"], [[cause, _some(names)] for cause, names in by_cause.items()])
    rows, unknown = [], 0
    for stage in dict.fromkeys(job["stage"] for job in answer):
        of_stage = [job for job in answer if job["stage"] == stage]
        walls = [job["wall_seconds"] for job in of_stage if job["wall_seconds"] is not None]
        unknown += len(of_stage) - len(walls)
        about = "about " if any(job["estimated"] for job in of_stage) else ""
        cost = f"{about}{duration(sum(walls))}" if walls else "?"
        why = next((job["below"] for job in of_stage if job["below"] and not job["causes"]), "")
        rows.append([stage, str(len(of_stage)), cost, why])
    print_table("would run", ["stage", "jobs", "took", ""], rows)
    total = sum(job["wall_seconds"] or 0 for job in answer)
    never = f"; {unknown} of a kind that never ran here" if unknown else ""
    print(f"{len(answer)} jobs, {duration(total)} one after the other by the last runs{never}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
