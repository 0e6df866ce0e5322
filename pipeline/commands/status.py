"""`caloforge status`: raw files new, ingested, changed, failed, removed, duplicated; and what is made from them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.commands.source import DEFAULT_CONFIG, experiment_file
from pipeline.commands.tables import duration, print_table, size
from pipeline.config import load_config
from pipeline.plan import Plan
from pipeline.survey import FILE_STATES, survey

STAGE_STATES = ("current", "outdated", "missing", "failed", "running")


def add(commands: Any) -> None:
    """Declare the command."""
    text = "what there is: raw files new, ingested, changed, failed, and the state of what is made from them"
    parser = commands.add_parser("status", help=text, description=text)
    parser.add_argument("experiment", nargs="?", help=f"configuration file or experiment (default: {DEFAULT_CONFIG})")
    parser.add_argument("--config", help="configuration file")
    parser.add_argument("--all", action="store_true", help="list every raw file, not only those that ask for attention")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(action=_status)


def _status(options: argparse.Namespace) -> None:
    source = options.config or (experiment_file(options.experiment, "status") if options.experiment else DEFAULT_CONFIG)
    plan = Plan.discover(load_config(source))
    found = survey(plan)
    for dataset in found["datasets"].values():
        _add_duplicates(dataset)
    if options.json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return
    for name, dataset in found["datasets"].items():
        _print_dataset(name, dataset, every=options.all)
    _print_stages(found["stages"])


def _add_duplicates(dataset: dict[str, Any]) -> None:
    """Showers of each part that lie in a part before it, by the stored hashes."""
    ingested = [entry for entry in dataset["files"] if entry["state"] == "ingested"]
    if len(ingested) < 2:
        return
    from pipeline.data.duplicates import duplicated

    found = duplicated([Path(dataset["folder"]) / f"{entry['part']}.json" for entry in ingested])
    for entry in ingested:
        if entry["part"] in found:
            entry["duplicated"] = found[entry["part"]]


def _print_dataset(name: str, dataset: dict[str, Any], every: bool) -> None:
    counts = ", ".join(f"{dataset['states'][s]} {s}" for s in FILE_STATES if s in dataset["states"])
    took = f"; ingest took {duration(dataset['cost']['wall_seconds'])}" if dataset["cost"]["jobs"] else ""
    title = (
        f"{name}: {counts}; {dataset['showers']} showers, {size(dataset['raw_bytes'])} raw, "
        f"{size(dataset['stored_bytes'])} stored{took}"
    )
    rows = []
    for entry in dataset["files"]:
        remark = _remark(entry)
        if every or remark or entry["state"] != "ingested":
            showers = str(entry["showers"] or "")
            rows.append([entry["path"], entry["state"], size(entry["bytes"]), showers, remark])
    if rows:
        print_table(title, ["raw file", "state", "size", "showers", "remark"], rows)
    else:
        print(f"{title}\n")


def _remark(entry: dict[str, Any]) -> str:
    if entry.get("reason"):
        return str(entry["reason"])
    if entry.get("identical_to"):
        return f"same content as {entry['identical_to']}"
    if found := entry.get("duplicated"):
        return f"{found['showers']} of {entry['showers']} showers also in {found['also_in']}"
    return "its raw file is gone; see caloforge prune" if entry["state"] == "removed" else ""


def _print_stages(stages: dict[str, Any]) -> None:
    rows = []
    for stage, found in stages.items():
        counts = [str(sum(job["state"] == state for job in found) or "") for state in STAGE_STATES]
        wall = sum(job["cost"]["wall_seconds"] for job in found)
        rows.append([stage, *counts, duration(wall) if wall else "", _open(found)])
    if rows:
        print_table("below the parts", ["stage", *STAGE_STATES, "took", "not current"], rows)


def _open(found: list[dict[str, Any]]) -> str:
    """The first few jobs that are not current, and why one failed."""
    names = [f"{j['name']}: {j['reason']}" if j.get("reason") else j["name"] for j in found if j["state"] != "current"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name for name in names[:3] if name) + more
