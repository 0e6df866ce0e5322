"""`caloforge config`: check, explain or describe the configuration."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pipeline.commands.source import DEFAULT_CONFIG
from pipeline.config import Config, load_config
from pipeline.plan import Plan


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("config", help="check, explain or describe the configuration")
    actions = parser.add_subparsers(dest="what", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="validate a configuration, all errors at once")
    check.add_argument("file", nargs="?", default=DEFAULT_CONFIG)
    actions.add_parser("schema", help="print the JSON schema")
    explain = actions.add_parser("explain", help="explain a key, such as runs.training.samples")
    explain.add_argument("key", nargs="?", default="")
    actions.add_parser("reference", help="print the reference of all keys as Markdown (config/README.md)")
    parser.set_defaults(action=_config)


def _config(options: argparse.Namespace) -> None:
    from pipeline import reference

    if options.what == "schema":
        print(json.dumps(Config.model_json_schema(), indent=1))
    elif options.what == "explain":
        print(reference.explain(options.key))
    elif options.what == "reference":
        print(reference.as_markdown(), end="")
    else:
        config = load_config(options.file)
        Plan.discover(config)
        print(
            f"{options.file}: experiment '{config.experiment}': {len(config.datasets)} data sets, "
            f"{len(config.runs)} runs, {len(config.samples)} samples: correct"
        )
