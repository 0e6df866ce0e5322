"""What failed, why, and how to read its log: what the Snakefile says when a run ends in an error.

In: a plan. Out: lines. Read are the records that jobs leave beside their logs (see `jobs`), and, on a cluster, the
newest of Slurm's own logs that names the job's, for there it stands that a job was out of time or memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.jobs import Job, jobs
from pipeline.plan import Plan

SLURM_LOGS = Path(".snakemake") / "slurm_logs"
_BY_SLURM = "slurmstepd"
_CAUSE = re.compile(r"memory limit|oom.kill|DUE TO", re.IGNORECASE)
_SHOWN = 10


def failures(plan: Plan, since: float = 0.0) -> list[str]:
    """One line for each failed job with its reason, and below it the commands that show its logs.

    `since`: when the run began (seconds of time.time()); jobs that Slurm killed later, before they could leave a record
    (or that were tried again meanwhile), are told by Slurm's own words.
    """
    failed = [(job, reason) for job in jobs(plan) if (reason := job.failure()) is not None]
    logs = {path: path.read_text(errors="replace") for path in _newest_first(SLURM_LOGS.rglob("*.log"), since)}
    told = [_told(job, reason, logs) for job, reason in failed]
    known = {line.split()[-1] for lines in told for line in lines[1:]}
    told += [_killed(path, text) for path, text in logs.items() if path.as_posix() not in known and _BY_SLURM in text]
    lines = [line for lines in told[:_SHOWN] for line in lines]
    if len(told) > _SHOWN:
        lines.append(f"and {len(told) - _SHOWN} more: caloforge status {plan.config.experiment}")
    return lines


def _told(job: Job, reason: str, slurm_logs: Mapping[Path, str]) -> list[str]:
    of_slurm = next((path for path, text in slurm_logs.items() if job.log.as_posix() in text), None)
    name = f"{job.stage} {job.name}".strip()
    if of_slurm is not None and (words := _slurms_words(slurm_logs[of_slurm])):
        reason = f"{reason} ({words})"
    return [f"failed: {name}: {reason}", f"    less {job.log}", *([f"    less {of_slurm}"] if of_slurm else [])]


def _killed(path: Path, text: str) -> list[str]:
    """What Slurm said of a job that it killed; the log's folder names rule and wildcards."""
    return [f"killed by Slurm: {path.parent.relative_to(SLURM_LOGS)}: {_slurms_words(text)}", f"    less {path}"]


def _slurms_words(text: str) -> str:
    """The first line of Slurm that names a cause, else its last; empty without any.

    Its lines come in any order: "CANCELLED AT", which tells no cause, stands before or after "exceeded memory limit".
    """
    lines = [line for line in text.splitlines() if _BY_SLURM in line]
    return next((line for line in lines if _CAUSE.search(line)), lines[-1] if lines else "")


def _newest_first(paths: Iterable[Path], since: float) -> list[Path]:
    times = {path: path.stat().st_mtime for path in paths}
    return sorted((path for path in times if times[path] >= since), key=lambda path: -times[path])
