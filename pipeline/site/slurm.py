"""What a Slurm cluster has beside what a profile asks of it: partitions, limits, memory, GPUs, accounting.

In: a Snakemake profile (`profiles/slurm/config.yaml`) and the answers of sinfo, scontrol and sacct. Out: findings for
`caloforge doctor`. A request is evaluated as Snakemake does, for the first attempt and for the last. Left out are
accounts, QOS and what the site's own submit filters may refuse.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.site.findings import Finding, fail, ok, warn

_SECONDS = 20
_FORGOTTEN_SECONDS = 120  # jobs must be known this long after their end, or squeue misses them
_MINUTES = {"d": 1440, "h": 60, "m": 1, "s": 1 / 60}


@dataclass(frozen=True)
class Partition:
    """One partition: whether it takes jobs, its limit in minutes (None: none), and its largest node."""

    name: str
    up: bool
    minutes: float | None
    cpus: int
    mem_mb: int
    gpus: int


@dataclass(frozen=True)
class Request:
    """What one rule asks of Slurm at one attempt; None where the profile does not say."""

    rule: str
    partition: str | None
    minutes: float | None
    mem_mb: int | None
    gpus: int


def check_slurm(profile: Mapping[str, Any]) -> list[Finding]:
    """All findings of a Slurm profile on this cluster."""
    answer = ask("sinfo", "--noheader", "--format=%R|%a|%l|%c|%m|%G")
    if answer is None:
        return [fail("slurm", "sinfo does not answer", "run this on a login node of the cluster")]
    partitions = parse_partitions(answer)
    found = [ok("slurm", f"partitions {', '.join(sorted(partitions))}")]
    retries = int(profile.get("retries", 0))
    first, last = requests(profile, 1), requests(profile, 1 + retries)
    for request, largest in zip(first, last, strict=True):
        found.append(check_request(request, largest, partitions))
    return [*found, *_check_accounting(profile)]


def parse_partitions(text: str) -> dict[str, Partition]:
    """From `sinfo --format=%R|%a|%l|%c|%m|%G`; a partition with several kinds of nodes has several lines."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        name, available, limit, cpus, memory, gres = line.strip().split("|")
        minutes = None if limit == "infinite" else minutes_of(limit)
        gpus = sum(int(n) for n in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres))
        other = partitions.get(name, Partition(name, False, minutes, 0, 0, 0))
        partitions[name] = Partition(
            name,
            available == "up" or other.up,
            minutes,
            max(other.cpus, _number(cpus)),
            max(other.mem_mb, _number(memory)),
            max(other.gpus, gpus),
        )
    return partitions


def requests(profile: Mapping[str, Any], attempt: int) -> list[Request]:
    """What each rule of the profile asks for at an attempt, the default first."""
    default = _resources(profile.get("default-resources", {}))
    rules = {"other rules": {}, **profile.get("set-resources", {})}
    return [_request(rule, {**default, **_resources(own)}, attempt) for rule, own in rules.items()]


def _resources(content: Any) -> dict[str, Any]:
    """Resources written as a mapping, or as a list of `name=value`."""
    if isinstance(content, Mapping):
        return dict(content)
    return dict(str(item).split("=", 1) for item in content or ())


def _request(rule: str, resources: Mapping[str, Any], attempt: int) -> Request:
    minutes, memory = (evaluated(resources.get(key), attempt) for key in ("runtime", "mem_mb"))
    gpus = evaluated(resources.get("gpu", 0), attempt)
    partition = resources.get("slurm_partition")
    return Request(rule, partition, minutes, None if memory is None else int(memory), int(gpus or 0))


def evaluated(value: Any, attempt: int) -> float | None:
    """A resource's number at an attempt: `16000 * attempt`, `2h`, 30; None where it cannot be told beforehand."""
    if value is None or isinstance(value, int | float):
        return value
    if re.fullmatch(r"(\d+[dhms])+", text := str(value).strip()):
        return sum(int(n) * _MINUTES[unit] for n, unit in re.findall(r"(\d+)([dhms])", text))
    try:
        return float(eval(text, {"__builtins__": {}, "min": min, "max": max}, {"attempt": attempt}))
    except Exception:  # it may speak of `input` or `threads`, which only a job has
        return None


def check_request(request: Request, last: Request, partitions: Mapping[str, Partition]) -> Finding:
    """Whether a partition runs what a rule asks for, at the first attempt (else fail) and the last (else warn)."""
    what = f"slurm, {request.rule}"
    if request.partition is None:
        return warn(what, "no partition named; Slurm takes its default", "set slurm_partition in the profile")
    partition = partitions.get(request.partition)
    if partition is None:
        known = ", ".join(sorted(partitions))
        return fail(what, f"partition {request.partition}: there is none of that name", f"name one of {known}")
    if not partition.up:
        return fail(what, f"partition {partition.name} is down", "name another, or wait")
    if problem := _too_much(request, partition):
        return fail(what, problem, f"lower it in the profile, or name another partition than {partition.name}")
    asked = f"{_size(request)} in {partition.name}"
    if problem := _too_much(last, partition):
        return warn(what, f"{asked}; the last attempt would be refused: {problem}", "lower the growth or `retries`")
    return ok(what, asked)


def _too_much(request: Request, partition: Partition) -> str | None:
    """What the partition does not have, in words."""
    if request.gpus > partition.gpus:
        return f"{request.gpus} GPU(s) asked for, its nodes have {partition.gpus}"
    if request.mem_mb is not None and request.mem_mb > partition.mem_mb:
        return f"{request.mem_mb} MB asked for, its largest node has {partition.mem_mb}"
    if request.minutes is not None and partition.minutes is not None and request.minutes > partition.minutes:
        return f"{request.minutes:g} min asked for, its limit is {partition.minutes:g}"
    return None


def _size(request: Request) -> str:
    known = [f"{request.mem_mb} MB"] if request.mem_mb is not None else []
    known += [f"{request.minutes:g} min"] if request.minutes is not None else []
    return ", ".join([*known, *([f"{request.gpus} GPU"] if request.gpus else [])]) or "what its rule says"


def _check_accounting(profile: Mapping[str, Any]) -> list[Finding]:
    """Whether the state of jobs that ended can be asked for, and the efficiency report made."""
    accounting = ask("sacct", "--noheader", "--allocations", "--starttime=now") is not None
    if accounting:
        return [ok("slurm accounting", "sacct answers; slurm-efficiency-report can be switched on")]
    if profile.get("slurm-efficiency-report"):
        remedy = "comment out slurm-efficiency-report in the profile"
        return [fail("slurm accounting", "sacct does not answer, and the profile asks for its report", remedy)]
    if profile.get("slurm-status-command") != "squeue":
        remedy = "set slurm-status-command: squeue in the profile"
        return [fail("slurm accounting", "sacct does not answer, and the profile asks it", remedy)]
    age = re.search(r"MinJobAge\s*=\s*(\d+)", ask("scontrol", "show", "config") or "")
    if age and int(age[1]) < _FORGOTTEN_SECONDS:
        remedy = f"ask the administrators for MinJobAge >= {_FORGOTTEN_SECONDS}"
        return [warn("slurm accounting", f"none, and jobs are forgotten {age[1]} s after their end", remedy)]
    return [ok("slurm accounting", "none; squeue is asked instead")]


# ------------------------------------------------------------------------------------- reading


def ask(*command: str) -> str | None:
    """What a program prints; None when it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def minutes_of(limit: str) -> float:
    """Slurm's `days-hours:minutes:seconds`, or the end of it, in minutes."""
    days, _, clock = limit.rpartition("-")
    pieces: Sequence[int] = [int(x) for x in clock.split(":")]
    if days:
        pieces = [*pieces, 0, 0][:3]
    elif len(pieces) < 3:
        pieces = [*[0] * (3 - len(pieces)), *pieces] if len(pieces) == 2 else [0, pieces[0], 0]
    hours, minutes, seconds = pieces
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _number(text: str) -> int:
    """A number of sinfo's, which may carry a `+`."""
    return int("".join(_digits(text)) or 0)


def _digits(text: str) -> Iterable[str]:
    return (c for c in text if c.isdigit())
