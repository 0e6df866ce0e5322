"""`caloforge freeze`: write the lock that makes an experiment ignore newer files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.source import experiment_file
from pipeline.config import Config, load_config
from pipeline.plan import Plan, freeze


def add(commands: Any) -> None:
    """Declare the command."""
    lock = commands.add_parser("freeze", help="write the lock that makes an experiment ignore newer files")
    lock.add_argument("experiment", help="an experiment's configuration file, or its name")
    lock.add_argument("--output", type=Path, help="default: config/locks/<experiment>.json")
    lock.set_defaults(action=_freeze)


def _freeze(options: argparse.Namespace) -> None:
    config = load_config(experiment_file(options.experiment, "freeze"))
    plan = Plan.discover(
        Config.model_validate({**config.model_dump(mode="json", exclude_unset=True), "data_lock": None})
    )
    output = options.output or Path("config") / "locks" / f"{config.experiment}.json"
    lock = freeze(plan, output)
    count = sum(len(parts) for parts in lock["datasets"].values())
    print(f"{output}: {count} raw files; add to the experiment's configuration:\n\ndata_lock: {output}")
