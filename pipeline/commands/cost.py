"""`caloforge cost`: hours of cores and GPUs, energy, CO2 and showers per kWh of an experiment."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipeline.commands.source import DEFAULT_CONFIG, experiment_file
from pipeline.commands.tables import print_table
from pipeline.config import load_config
from pipeline.cost import cost_table, slurm_energy
from pipeline.plan import Plan


def add(commands: Any) -> None:
    """Declare the command."""
    text = "what the experiment has cost: core-hours, GPU-hours, kWh, CO2, and showers per kWh"
    parser = commands.add_parser("cost", help=text, description=text)
    parser.add_argument("experiment", nargs="?", help=f"configuration file or experiment (default: {DEFAULT_CONFIG})")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(action=_cost)


def _cost(options: argparse.Namespace) -> None:
    source = experiment_file(options.experiment, "cost") if options.experiment else DEFAULT_CONFIG
    plan = Plan.discover(load_config(source))
    table = cost_table(plan, slurm_energy(plan))
    if options.json:
        print(json.dumps(table, indent=1, sort_keys=True))
        return
    for title, rows in (("cost", table["rows"]), ("showers per kWh", table["showers"])):
        if rows:
            header = list(dict.fromkeys(key for row in rows for key in row))
            lines = [[shown(row.get(key)) for key in header] for row in rows]
            print_table(title, [name.replace("_", " ") for name in header], lines)
    print("\n".join(table["notes"]))


def shown(value: Any) -> str:
    """A cell: numbers with three digits."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
