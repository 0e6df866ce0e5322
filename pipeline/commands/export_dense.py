"""`caloforge export-dense`: parts as a plain dense Zarr that any tool opens, `xarray.open_zarr` first of all."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.source import add_source, plan_of
from pipeline.config import ConfigError
from pipeline.quarantine import accepted

_TEXT = "parts -> one plain dense Zarr (shower, r, phi, z) in float32 MeV, with conditions and coordinates"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("export-dense", help=_TEXT, description=_TEXT)
    add_source(parser)
    parser.add_argument("parts", nargs="*", type=Path, metavar="MANIFEST", help="manifests of parts, in order")
    parser.add_argument("--dataset", help="all ingested parts of a data set of the configuration")
    parser.add_argument("--output", type=Path, required=True, help="the store; with --each: the folder of the stores")
    parser.add_argument("--each", action="store_true", help="one store per part, <part>.zarr")
    parser.set_defaults(action=_export)


def _export(options: argparse.Namespace) -> None:
    from pipeline.data.dense import export_dense
    from pipeline.data.store import Part

    parts = [Part.open(path) for path in _manifests(options)]
    if not options.each:
        print(export_dense(parts, options.output))
        return
    names = [part.path.stem for part in parts]
    if len(set(names)) < len(names):
        raise ConfigError("--each: expected parts of different names, got the same name twice; export them apart")
    for part in parts:
        print(export_dense([part], options.output / f"{part.path.stem}.zarr"))


def _manifests(options: argparse.Namespace) -> list[Path]:
    if bool(options.parts) == bool(options.dataset):
        raise ConfigError("expected either manifests of parts or --dataset NAME; see caloforge export-dense --help")
    if options.parts:
        return list(options.parts)
    plan = plan_of(options)
    if options.dataset not in plan.config.datasets:
        raise ConfigError(f"--dataset: expected one of {sorted(plan.config.datasets)}, got '{options.dataset}'")
    manifests = accepted(plan.part_manifests(options.dataset))
    if not manifests:
        raise ConfigError(f"--dataset {options.dataset}: expected parts, found none; check its `files:`")
    return manifests
