"""`figures.json`: what each figure and table was made from, and the digest of every file behind the paper.

In: a plan whose jobs have run, and the paper's own files. Out: one plain record without host and time. Digests
of data and weights are those that ingest, preprocess and train recorded, so nothing large is read again; `verify` does.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pipeline import __version__
from pipeline.figures import CATEGORIES
from pipeline.figures.captions import CAPTIONS
from pipeline.jobs import Job, jobs
from pipeline.paper.tables import measured_records
from pipeline.plan import PAPER_VERSION, Plan
from pipeline.provenance import code_digest, file_digest, joined_digest, read_json
from pipeline.quarantine import refusal

Kind = Literal["data", "checkpoint", "table", "figure", "record"]
Record = dict[str, Any]
_OWN: dict[str, Kind] = {"figures": "figure", "tables": "table", "hepdata": "table"}
LIBRARIES = ("matplotlib", "numpy", "scipy", "torch", "zarr")  # those whose version can change a byte


@dataclass(frozen=True)
class Recorded:
    """A file (or a store, a folder), what it is, its digest, and the file to delete to have it made again."""

    path: Path
    kind: Kind
    digest: str
    delete: Path | None = None

    def entry(self) -> Record:
        """Its line in `figures.json`."""
        content: Record = {"kind": self.kind, "digest": self.digest}
        return content | ({"delete": self.delete.as_posix()} if self.delete else {})


def paper_record(plan: Plan, own: Sequence[Path], tables: Mapping[str, Sequence[Path]]) -> Record:
    """The content of `figures.json`; `own` are the files of the paper's folder, `tables` those of each table."""
    saved = plan.save()
    files = {found.path.as_posix(): found.entry() for found in [*_below(plan), _hashed(saved, "record")]}
    figures = {name: _figure(plan, name) for name in plan.figures()}
    for figure in figures.values():
        for path, digest in figure["inputs"].items():
            files.setdefault(path, {"kind": "table", "digest": digest})
    for path in own:
        if ".measured." not in path.name:
            files[path.as_posix()] = _hashed(path, _OWN.get(path.parent.name, "record")).entry()
    return {
        "version": PAPER_VERSION,
        "experiment": plan.config.experiment,
        "plan": saved.as_posix(),
        "configuration": plan.report_key(),
        "code": {"version": __version__, "digest": code_digest()},
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "lock": lock_digest(plan),
        "data": _data(files),
        "checkpoints": {run: read_json(plan.paths.model(run))["weights_digest"] for run in plan.config.runs},
        "figures": figures,
        "tables": {
            name: {"files": [path.as_posix() for path in paths], "inputs": _table_inputs(plan, name)}
            for name, paths in tables.items()
        },
        "files": files,
    }


def lock_digest(plan: Plan) -> str | None:
    """The digest of the lock that the experiment names, None without one."""
    return file_digest(plan.config.data_lock) if plan.config.data_lock else None


def _figure(plan: Plan, name: str) -> Record:
    """The links of one figure; code and configuration are those it was drawn with."""
    pdf = plan.paths.figure(name)
    made = read_json(pdf.with_suffix(".json"))["provenance"]
    return {
        "file": (plan.paths.paper.parent / "figures" / pdf.name).as_posix(),
        "digest": file_digest(pdf),
        "category": CATEGORIES[name],
        "caption": CAPTIONS[name],
        "numbers": pdf.with_suffix(".json").as_posix(),
        "inputs": made["inputs"],
        "data": sorted(plan.files),
        "configuration": made["configuration"],
        "checkpoints": {run: read_json(plan.paths.model(run))["weights_digest"] for run in plan.config.runs},
        "code": {"version": made["code_version"], "digest": made.get("code_digest")},
        "lock": lock_digest(plan),
        "redraw": f"caloforge redraw {plan.paths.results.as_posix()} --figure {name}",
    }


def _table_inputs(plan: Plan, name: str) -> list[str]:
    if ".measured" in name:
        records = measured_records(plan) if name.startswith("times") else [j.record("measured") for j in jobs(plan)]
        return [path.as_posix() for path in records if path.is_file()]
    return [plan.paths.metrics.as_posix()]


def _data(files: Mapping[str, Record]) -> Record:
    """One digest over all raw files and stores, and how many there are."""
    digests = [f"{path} {entry['digest']}" for path, entry in sorted(files.items()) if entry["kind"] == "data"]
    return {"files": len(digests), "digest": joined_digest(digests)}


# ------------------------------------------------------------------------------- files behind it


def _below(plan: Plan) -> Iterator[Recorded]:
    """What all jobs of the experiment left, in the order of work; the report, which shows times, is not among it."""
    for dataset in plan.files:
        if binning := plan.config.dataset(dataset).binning:
            yield _hashed(Path(binning), "record")
    for job in jobs(plan):
        if job.stage in ("ingest", "ingest_sample", "preprocess"):
            yield from _part(plan, job)
        elif job.stage == "train":
            yield from _trained(job)
        elif job.stage == "simulate":
            yield _hashed(job.output.with_suffix(".h5.json"), "record")
        elif job.stage == "merge":
            yield _hashed(job.output, "record")
        elif job.stage == "predict":
            yield _hashed(job.output, "data")
        elif job.stage in ("evaluate", "examine", "metrics"):
            yield _hashed(job.output, "table")
        elif job.stage == "figures":
            yield from (_hashed(job.output.with_suffix(ending), "figure") for ending in (".pdf", ".png", ".json"))


def _part(plan: Plan, job: Job) -> Iterator[Recorded]:
    """A manifest, its store, and the raw file before it."""
    yield _hashed(job.output, "record")
    if refusal(job.output) is not None:
        return
    manifest = read_json(job.output)
    yield Recorded(job.output.with_suffix(".zarr"), "data", manifest["store_digest"], job.output)
    if job.stage == "ingest":
        dataset, _, part = job.name.partition("/")
        raw = Path(plan.raw_file(dataset, part))
        yield Recorded(raw, "data", manifest["source"]["digest"], raw if job.name in plan.simulated else None)
    elif job.stage == "ingest_sample":
        yield Recorded(job.inputs[0], "data", manifest["source"]["digest"], job.inputs[0])


def _trained(job: Job) -> Iterator[Recorded]:
    yield _hashed(job.output, "record")
    if job.output.stem == "model":
        weights = read_json(job.output)["weights_digest"]
        yield Recorded(job.output.with_suffix(".safetensors"), "checkpoint", weights, job.output)
        yield _hashed(job.output.with_name("metrics.jsonl"), "table")


def _hashed(path: Path, kind: Kind) -> Recorded:
    return Recorded(path, kind, file_digest(path))
