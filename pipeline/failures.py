"""What failed, why, and how to read its log: what the Snakefile says when a run ends in an error.

In: a plan. Out: lines. Read are the records that jobs leave beside their logs (see `jobs`), and, on a cluster, the
newest of Slurm's own logs that names the job's, for there it stands that a job was out of time or memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.jobs import Job, jobs
from pipeline.plan import Plan

SLURM_LOGS = Path(".snakemake") / "slurm_logs"
_SHOWN = 10


def failures(plan: Plan) -> list[str]:
    """One line for each failed job with its reason, and below it the commands that show its logs."""
    failed = [(job, reason) for job in jobs(plan) if (reason := job.failure()) is not None]
    logs = _newest_first(SLURM_LOGS.rglob("*.log")) if failed else []
    lines = [line for job, reason in failed[:_SHOWN] for line in _told(job, reason, logs)]
    if len(failed) > _SHOWN:
        lines.append(f"and {len(failed) - _SHOWN} more: caloforge status {plan.config.experiment}")
    return lines


def _told(job: Job, reason: str, slurm_logs: Iterable[Path]) -> list[str]:
    log = job.log
    of_slurm = next((path for path in slurm_logs if log.as_posix() in path.read_text(errors="replace")), None)
    name = f"{job.stage} {job.name}".strip()
    return [f"failed: {name}: {reason}", f"    less {log}", *([f"    less {of_slurm}"] if of_slurm else [])]


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
