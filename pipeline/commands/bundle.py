"""`caloforge bundle`: a paper as one file, without its showers."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from pipeline.commands.tables import size
from pipeline.config import ConfigError


def add(commands: Any) -> None:
    """Declare the command."""
    text = "pack a paper's configuration, lock, tables, figures, small models and provenance into one zip"
    parser = commands.add_parser("bundle", help=text, description=text)
    parser.add_argument("results", type=Path, help="results/<experiment>")
    parser.add_argument("--output", type=Path, help="default: <experiment>.zip")
    parser.add_argument("--largest-model-mb", type=float, default=100, metavar="MB", help="larger weights stay out")
    parser.add_argument("--date", help="date of publication, YYYY-MM-DD (default: today); shapes the file's bytes")
    parser.add_argument("--license", help="URL of the licence the bundle is published under")
    parser.set_defaults(action=_bundle)


def _bundle(options: argparse.Namespace) -> None:
    from pipeline.paper.bundle import bundle

    today = datetime.datetime.now(datetime.UTC).date()
    try:
        date = datetime.date.fromisoformat(options.date) if options.date else today
    except ValueError:
        raise ConfigError(f"--date: expected YYYY-MM-DD, got '{options.date}'") from None
    output = options.output or Path(f"{options.results.absolute().name}.zip")
    content = bundle(options.results, output, date.isoformat(), options.largest_model_mb, options.license)
    print(f"{output}: {len(content['files'])} files, {size(output.stat().st_size)}")
    for path, reason in content["left_out"].items():
        if reason != "showers":
            print(f"left out: {path} ({reason})")
    showers = sum(reason == "showers" for reason in content["left_out"].values())
    print(f"left out: {showers} raw files, stores and samples, named by their digests")
