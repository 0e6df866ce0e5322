"""What there is of an experiment: its raw files, what became of each, and the state of all that is made from them.

In: a plan. Out: plain JSON-able records, which `caloforge status` prints. Read are manifests, job records and the
fingerprint cache, a few kilobytes per raw file; no HDF5 file is opened and no store.

A raw file is `new`, `ingested`, `quarantined` (refused, on record, and left out), `changed` (its content is no longer
what was ingested), `failed` (its last ingest, with this content, was refused or died), `running`, or `to simulate`. A
part without a raw file is `removed`. Anything else is `current`, `outdated` (made from something else), `missing`,
`failed` or `running` (see `jobs`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.jobs import JOBS, Job, State, jobs
from pipeline.paths import FINGERPRINTS
from pipeline.plan import Plan
from pipeline.provenance import FingerprintCache, ProvenanceError, read_json
from pipeline.quarantine import REFUSED

FILE_STATES = ("ingested", "quarantined", "new", "changed", "failed", "running", "to simulate", "removed")
BELOW_PARTS = (
    *("preprocess", "merge", "train", "generate", "ingest_sample", "predict", "evaluate", "examine"),
    *("metrics", "figures"),
)


def survey(plan: Plan) -> dict[str, Any]:
    """The whole experiment: `datasets` by name and `stages` by name, each with states and costs."""
    cache = FingerprintCache(FINGERPRINTS)
    datasets = {name: _dataset(plan, name, cache) for name in plan.files}
    cache.save()
    return {"experiment": plan.config.experiment, "datasets": datasets, "stages": _stages(plan, datasets)}


# ------------------------------------------------------------------------------------ raw files


def _dataset(plan: Plan, dataset: str, cache: FingerprintCache) -> dict[str, Any]:
    """Every raw file of a data set with its state, the parts without one, and totals."""
    files = [_file(plan, dataset, part, cache) for part in plan.parts(dataset)]
    folder = plan.paths.part(dataset, "x").parent
    known = {f"{part}.json" for part in plan.parts(dataset)}
    for manifest in sorted(folder.glob("*.json")):
        if manifest.name not in known and (content := _manifest(manifest)):
            files.append(_entry(manifest.stem, content["source"]["name"], "removed", manifest, content))
    _name_identical(files)
    return {
        "folder": folder.as_posix(),
        "files": files,
        "states": dict(Counter(entry["state"] for entry in files)),
        "showers": sum(entry["showers"] for entry in files if entry["state"] != "removed"),
        "raw_bytes": sum(entry["bytes"] for entry in files),
        "stored_bytes": sum(entry["stored_bytes"] for entry in files),
        "cost": cost(JOBS["ingest"](plan, dataset, part) for part in plan.parts(dataset)),
    }


def _file(plan: Plan, dataset: str, part: str, cache: FingerprintCache) -> dict[str, Any]:
    raw, job = plan.files[dataset][part], JOBS["ingest"](plan, dataset, part)
    manifest = _manifest(job.output)
    present = os.path.isfile(raw.path)
    actual = cache(raw.path) if present else None
    state = job.state({})
    if _to_simulate(plan, dataset, part, present):
        name = "to simulate"
    elif state in ("failed", "running"):
        name = state
    elif not manifest:
        name = "new"
    else:
        name = "ingested" if manifest.get("kind") != REFUSED else "quarantined"
        name = name if manifest["source"].get("fingerprint") == actual else "changed"
    entry = _entry(part, raw.path, name, job.output, manifest)
    entry["bytes"] = os.path.getsize(raw.path) if present else 0
    entry["fingerprint"] = actual
    if name == "failed":
        entry["reason"] = job.failure()
    elif name == "quarantined":
        entry["reason"] = manifest["reason"]
    return entry


def _to_simulate(plan: Plan, dataset: str, part: str, present: bool) -> bool:
    """Whether the workflow will simulate the file: it is not there, or made for another configuration."""
    if f"{dataset}/{part}" not in plan.simulated:
        return False
    record = plan.paths.simulation_record(dataset, part)
    key = plan.simulate_key(*plan.simulated[f"{dataset}/{part}"])
    return not present or _manifest(record, "key").get("key") != key


def _entry(part: str, path: str, state: str, manifest: Path, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "part": part,
        "path": path,
        "state": state,
        "bytes": 0,
        "showers": content.get("n_showers", 0),
        "stored_bytes": folder_bytes(manifest.with_suffix(".zarr")) if content else 0,
    }


def _name_identical(files: list[dict[str, Any]]) -> None:
    """Mark every file whose content is that of one before it in the list."""
    first: dict[str, str] = {}
    for entry in files:
        if fingerprint := entry.pop("fingerprint", None):
            if fingerprint in first:
                entry["identical_to"] = first[fingerprint]
            first.setdefault(fingerprint, entry["path"])


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, or of the file; 0 when it is not there."""
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for path, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(path, name)).st_size for name in names)
    return total


def _manifest(path: Path, expected: str = "source") -> dict[str, Any]:
    """The manifest's content, empty when there is none that can be read."""
    try:
        content = read_json(path)
    except (ProvenanceError, OSError):
        return {}
    return content if isinstance(content, dict) and expected in content else {}


# --------------------------------------------------------------------------- what is made of them


def _stages(plan: Plan, datasets: dict[str, Any]) -> dict[str, Any]:
    """States of all jobs below the parts, by stage; a part that is not ingested makes all below it outdated."""
    above: dict[Path, State] = {}
    for name, dataset in datasets.items():
        for entry in dataset["files"]:
            ingested = entry["state"] in ("ingested", "quarantined", "removed")
            above[plan.paths.part(name, entry["part"])] = "current" if ingested else "outdated"
    stages: dict[str, Any] = {}
    for job in jobs(plan):
        if job.stage in BELOW_PARTS:
            above[job.output] = state = job.state(above)
            stages.setdefault(job.stage, []).append(_below(job, state))
    return stages


def _below(job: Job, state: State) -> dict[str, Any]:
    found: dict[str, Any] = {"name": job.name, "state": state, "cost": cost([job])}
    if state == "failed":
        found["reason"] = job.failure()
    return found


def cost(of: Iterable[Job]) -> dict[str, float]:
    """What the jobs cost when each last ended well: how many recorded it, wall and CPU seconds, largest peak in MB."""
    measured = [record for job in of if (record := job.measured())]
    return {
        "jobs": len(measured),
        "wall_seconds": round(sum(m["wall_seconds"] for m in measured), 3),
        "cpu_seconds": round(sum(m["cpu_seconds"] for m in measured), 3),
        "peak_mb": max((m["peak_mb"] for m in measured), default=0.0),
    }
