"""`caloforge prune`: list what no configuration asks for any more, and remove it when told to. Raw files stay."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.tables import print_table, size
from pipeline.commands.unlock import live_snakemake
from pipeline.config import ConfigError, load_config
from pipeline.orphans import orphans, other_results
from pipeline.plan import Plan


def add(commands: Any) -> None:
    """Declare the command."""
    text = "list parts, runs, samples, plans and leftovers that no configuration asks for; --yes removes them"
    parser = commands.add_parser("prune", help=text, description=text)
    parser.add_argument("--yes", action="store_true", help="remove what is listed (never a raw file)")
    parser.add_argument(
        "--config",
        action="append",
        type=Path,
        help="a configuration that counts; may be repeated (default: all in config/ and config/experiments/)",
    )
    parser.set_defaults(action=_prune)


def _prune(options: argparse.Namespace) -> None:
    _refuse_while_running()
    plans = [Plan.discover(load_config(path)) for path in options.config or _configurations()]
    found = orphans(plans)
    names = ", ".join(sorted(plan.config.experiment for plan in plans))
    if found:
        rows = [[orphan.paths[0].as_posix(), size(orphan.n_bytes), orphan.reason] for orphan in found]
        print_table(f"not asked for by {names}", ["path", "size", "why"], rows)
    for folder in other_results(plans):
        print(f"{folder}: results of an experiment whose configuration was not given; left alone")
    total = size(sum(orphan.n_bytes for orphan in found))
    if not found:
        print(f"nothing to prune: all is asked for by {names}")
    elif options.yes:
        for orphan in found:
            orphan.remove()
        print(f"{total} removed")
    else:
        print(f"{total} in {len(found)} places; nothing was removed: add --yes to remove them")


def _configurations() -> list[Path]:
    """All experiments of the repository: YAML files that name one."""
    import yaml

    candidates = [*sorted(Path("config").glob("*.yaml")), *sorted(Path("config/experiments").glob("*.yaml"))]
    found = [path for path in candidates if "experiment" in (yaml.safe_load(path.read_text()) or {})]
    if not found:
        raise ConfigError("expected configurations in config/ or below, found none; name them by --config")
    return found


def _refuse_while_running() -> None:
    """A run must not lose what it is about to read."""
    if (process := live_snakemake()) is not None:
        raise ConfigError(f"Snakemake runs here as process {process}; wait until it ends")
    if any(Path(".snakemake/locks").glob("*")):
        raise ConfigError(
            "expected no lock of Snakemake here, found one: a run goes on, here or on another host; "
            "wait until it ends, or remove the lock of a killed one by `caloforge unlock`"
        )
