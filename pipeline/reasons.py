"""Why a job would run again: the plan under which it last ended well, beside today's.

In: today's plan, a job, and Snakemake's reason. Out: short sentences that name files and keys of the configuration,
with the old value and the new one. Every job records its plan (`jobs.recorded`), so the comparison is with what the
output was truly made from, and not with whatever run came last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.jobs import Job
from pipeline.paths import PREPROCESSED, STORE
from pipeline.plan import Plan
from pipeline.provenance import ProvenanceError

_FORGOTTEN = object()
_WORDS = {
    "Code has changed": "the text of its rule changed",
    "Incomplete output": "its last run was killed",
    "Forced execution": "it was asked for",
    "Updated input files": "files that it reads are newer than its output",
}


def causes(plan: Plan, job: Job, reason: str) -> list[str]:
    """The reasons of a job that is not merely below another one that runs; empty when it is."""
    before = plan_of_record(job)
    found = [f"its last run failed: {failure}"] if (failure := job.failure()) else []
    if job.stage == "ingest":
        return found or _file_causes(plan, job, before)
    if before is not None:
        found += [*changed_files(plan, before, job), *changed_keys(plan, before, job)]
    if not found and before is None and job.stage == "preprocess":
        recipe, dataset, part = job.name.split("/")
        found = _made_otherwise(plan, job, f"{recipe}-*/{dataset}-*/{part}.json")
    if not found:
        found = [words for phrase, words in _WORDS.items() if phrase in reason]
    if not found and "Params have changed" in reason:
        found = ["its configuration changed; what it was before is not recorded"]
    if not found and "Missing output" in reason and "updated by another job" not in reason:
        found = ["it was never made" if not job.measured() else "its output is gone"]
    return found


def plan_of_record(job: Job) -> Plan | None:
    """The plan under which the job's output was made; None when it is not recorded, or gone."""
    path = job.measured().get("plan")
    return _load(os.path.abspath(path)) if path else None


@lru_cache(maxsize=64)
def _load(path: str) -> Plan | None:
    try:
        return Plan.load(path)
    except (KeyError, OSError, ValueError, ProvenanceError):
        return None


def _file_causes(plan: Plan, job: Job, before: Plan | None) -> list[str]:
    """Why a raw file is ingested: it is new, its content changed, or it is read in another way."""
    dataset, _, part = job.name.partition("/")
    raw = plan.files[dataset][part]
    old = before.files.get(dataset, {}).get(part) if before else None
    simulated = f"{dataset}/{part}" in plan.simulated
    if simulated and not os.path.exists(raw.path):
        return [f"{raw.path}: to be simulated"]
    if old is not None and old.key != raw.key:
        what = "to be simulated anew" if simulated else f"its content changed ({old.key[:8]} -> {raw.key[:8]})"
        return [f"{raw.path}: {what}"]
    if before is None and (elsewhere := _made_otherwise(plan, job, f"{dataset}-*/{part}.json")):
        return elsewhere
    return [f"{raw.path}: a new file" if old is None else f"{raw.path}: its part is gone"]


def _made_otherwise(plan: Plan, job: Job, pattern: str) -> list[str]:
    """Keys that say why what lies in another folder of the same name, under another digest, does not serve."""
    top = STORE if job.stage == "ingest" else PREPROCESSED
    candidates = [path for path in top.glob(pattern) if path != job.output]
    for manifest in sorted(candidates, key=lambda path: -path.stat().st_mtime):
        other = plan_of_record(replace(job, output=manifest))
        if other is not None and (found := changed_keys(plan, other, job)):
            return found
    return []


def changed_files(plan: Plan, before: Plan, job: Job) -> list[str]:
    """Raw files that came or went since, of the data sets that the job reads; a changed one has a job of its own."""
    found = []
    for dataset in _datasets(plan, job):
        old, new = before.files.get(dataset, {}), plan.files[dataset]
        found += [f"{old[part].path}: the file is gone" for part in sorted(old.keys() - new.keys())]
        found += [f"{new[part].path}: a new file" for part in sorted(new.keys() - old.keys())]
    return found


def _datasets(plan: Plan, job: Job) -> list[str]:
    if job.stage == "merge":
        return [job.name.partition("/")[2]]
    return list(plan.config.runs[job.name].data) if job.stage == "train" else []


def changed_keys(plan: Plan, before: Plan, job: Job) -> list[str]:
    """Keys of the configuration that shape the job and changed since: `evaluation.bins: 40 -> 8`."""
    old, new = (_flat(p.config.model_dump(mode="json")) for p in (before, plan))
    keys = [key for key in sorted({*old, *new}) if _shapes(key, job) and old.get(key) != new.get(key)]
    return [f"{key}: {_shown(old.get(key, _FORGOTTEN))} -> {_shown(new.get(key, _FORGOTTEN))}" for key in keys]


def _shapes(key: str, job: Job) -> bool:
    """Whether a change of the key shows in the job's own key (see `plan.py`)."""
    name, section = job.name.partition("/")[0], key.partition(".")[0]
    at_all: dict[str, tuple[str, ...]] = {
        "simulate": (f"datasets.{name}.simulate.", "detectors."),
        "ingest": (f"datasets.{name}.", "detectors."),
        "preprocess": (f"preprocessing.{name}.", "splits."),
        "merge": (f"preprocessing.{name}.", "splits."),
        "train": (f"runs.{name}.", "splits.", "seed", "detectors."),
        "generate": (f"samples.{name}.", "evaluation.reference", "evaluation.showers", "splits.", "seed"),
        "predict": ("evaluation.reference", "evaluation.showers", "splits."),
        "evaluate": ("evaluation.", "splits.", "seed"),
        "examine": ("evaluation.", "splits.", "seed", "figures.draw", "figures.attention_quantile"),
        "metrics": ("samples.", "runs."),
        "figures": ("figures.",),
    }
    if job.stage == "ingest" and key.split(".")[2:3] in (["files"], ["simulate"], ["first_file_only"], ["download"]):
        return False
    return (
        section not in ("data_lock", "on_bad_file")
        if job.stage == "report"
        else key.startswith(at_all.get(job.stage, ("\0",)))
    )


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested sections by their dotted key; lists are numbered when they hold sections."""
    return dict(_leaves(content, prefix))


def _leaves(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and any(isinstance(item, Mapping) for item in content):
        for i, item in enumerate(content):
            yield from _leaves(item, f"{prefix}.{item.get('name', i) if isinstance(item, Mapping) else i}")
    else:
        yield prefix, content


def _shown(value: Any) -> str:
    return "(nothing)" if value is _FORGOTTEN or value is None else str(value)


def below(job: Job, running: Mapping[Path, Job]) -> str:
    """Which jobs that run make what the job reads: `below merge log/siw and 3 more`."""
    parents = [running[path] for path in job.inputs if path in running]
    if not parents:
        return ""
    first = f"{parents[0].stage} {parents[0].name}".strip()
    return f"below {first}" + (f" and {len(parents) - 1} more" if len(parents) > 1 else "")
