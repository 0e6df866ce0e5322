"""`caloforge lineage`: the data and the checkpoints behind a model, youngest first."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.commands.tables import print_table
from pipeline.config import ConfigError
from pipeline.provenance import ProvenanceError, read_json

_TEXT = "tell the data and checkpoints behind a model, from its manifest"
_LONG = 300  # runs in a chain: more is a circle


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("lineage", help=_TEXT, description=_TEXT)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model's manifest, or the folder of its run")
    parser.add_argument("--json", action="store_true", help="print every model's record as JSON")
    parser.set_defaults(action=_lineage)


def _lineage(options: argparse.Namespace) -> None:
    chain = lineage(options.model)
    if options.json:
        print(json.dumps(chain, indent=1))
        return
    rows = [
        [
            entry["run"],
            entry["weights"],
            entry["state"],
            f"{entry['samples']:,}",
            ", ".join(f"{name} ({len(parts)} parts)" for name, parts in entry["parts"].items()),
            entry["from"],
        ]
        for entry in chain
    ]
    print_table("models", ["run", "weights", "state", "showers seen", "data", "starts from"], rows)
    parts = [[entry["run"], name, d] for entry in chain for name, digests in entry["parts"].items() for d in digests]
    print_table("parts", ["run", "data set", "digest of the part"], parts)


def lineage(model: Path) -> list[dict[str, Any]]:
    """The model and those it starts from or is built on, youngest first, each with the digests of its parts.

    Raises ConfigError when the manifest is no model's. A parent is looked for beside its child; it may be gone, or
    have been trained again since: `state` says so.
    """
    first = model / "model.json" if model.is_dir() else model
    waiting: list[tuple[Path, str | None]] = [(first, None)]
    chain: list[dict[str, Any]] = []
    while waiting and len(chain) < _LONG:
        path, expected = waiting.pop(0)
        record = _record(path)
        if record is None and expected is None:
            raise ConfigError(f"{path}: expected the manifest of a trained model, got none; name <run>/model.json")
        known = record is not None and expected in (None, record["weights_digest"])
        if record is None or not known:
            state = "gone" if record is None else "trained again since"
            chain.append(
                {"run": path.parent.name, "weights": expected, "state": state, "samples": 0, "parts": {}, "from": ""}
            )
            continue
        origins = record["lineage"]
        parents = [origins["parent"]] if origins.get("parent") else []
        parents += list(origins.get("model_parents", {}).values())
        waiting += [(path.parent.parent / p["run"] / "model.json", p["weights_digest"]) for p in parents]
        chain.append(
            {
                "run": record["run"],
                "weights": record["weights_digest"],
                "state": "here",
                "samples": record["spec"]["training"]["samples"],
                "parts": origins["parts"],
                "from": ", ".join(p["run"] for p in parents),
            }
        )
    return chain


def _record(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except (ProvenanceError, FileNotFoundError):
        return None
    known = isinstance(content, dict) and {"run", "weights_digest", "lineage", "spec"} <= set(content)
    return content if known else None
