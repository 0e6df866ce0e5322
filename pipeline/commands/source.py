"""Which experiment a command speaks of: a configuration file, an experiment's name, or a saved plan."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.config import ConfigError, load_config
from pipeline.plan import Plan

DEFAULT_CONFIG = "config/config.yaml"


def add_source(parser: argparse.ArgumentParser) -> None:
    """Options `--config` and `--plan`, one or the other."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", help=f"configuration file (default: {DEFAULT_CONFIG})")
    source.add_argument("--plan", help="plan saved by the workflow (default in its jobs: $CALOFORGE_PLAN)")


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that `add_source`'s options name; in a job of the workflow the one of its run."""
    saved = options.plan or (None if options.config else os.environ.get("CALOFORGE_PLAN"))
    return Plan.load(saved) if saved else Plan.discover(load_config(options.config or DEFAULT_CONFIG))


def experiment_file(name: str, command: str) -> Path:
    """The configuration file of that name, or of the experiment of that name; ConfigError when there is none."""
    if Path(name).is_file():
        return Path(name)
    import yaml

    candidates = [*sorted(Path("config").glob("*.yaml")), *sorted(Path("config/experiments").glob("*.yaml"))]
    for path in candidates:
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(content, dict) and content.get("experiment") == name:
            return path
    raise ConfigError(f"{command}: expected a configuration file or the name of an experiment in config/, got '{name}'")
