"""`caloforge inspect`: what is inside raw files and stores, and whether ingest would take them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.commands.source import DEFAULT_CONFIG
from pipeline.config import Config, ConfigError, DatasetSpec, DetectorSpec, load_config
from pipeline.config.data import Format

if TYPE_CHECKING:
    from pipeline.data.formats.guess import Guess

_TEXT = "show what is inside raw files, parts or stores; fails with one line each for what would be refused"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("inspect", help=_TEXT, description=_TEXT)
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="FILE", help="raw files, manifests of parts, Zarr stores"
    )
    parser.add_argument("--config", help="configuration whose data set is applied")
    parser.add_argument("--dataset", help=f"its data set (with --config, default: {DEFAULT_CONFIG})")
    parser.add_argument("--format", choices=get_args(Format), help="layout, else it is recognised by the content")
    parser.add_argument("--detector", help="detector, else what file or path say")
    parser.add_argument("--quick", action="store_true", help="look at the first showers only")
    parser.set_defaults(action=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    known = _configured(options)
    refused = 0
    for path in options.paths:
        try:
            _show(path, _facts(path, options, known))
        except (ValueError, RuntimeError, OSError) as error:
            if not (type(error).__module__.startswith("pipeline.") or isinstance(error, OSError)):
                raise
            print(f"refused: {' '.join(str(error).split())}", file=sys.stderr)
            refused += 1
    return 1 if refused else 0


def _configured(options: argparse.Namespace) -> tuple[DatasetSpec, DetectorSpec] | None:
    """The data set that the options name."""
    if options.dataset is None:
        if options.config is not None:
            raise ConfigError("--config: expected --dataset NAME with it, got none")
        return None
    if options.format or options.detector:
        raise ConfigError("--dataset: expected no --format or --detector with it; the data set says them")
    config: Config = load_config(options.config or DEFAULT_CONFIG)
    if options.dataset not in config.datasets:
        raise ConfigError(f"--dataset: expected one of {sorted(config.datasets)}, got '{options.dataset}'")
    spec = config.datasets[options.dataset]
    return spec, config.detector(spec.detector)


def _facts(path: Path, options: argparse.Namespace, known: tuple[DatasetSpec, DetectorSpec] | None) -> dict[str, str]:
    from pipeline.data.inspection import inspect_dense, inspect_part, inspect_raw

    manifest = path.with_suffix(".json")
    if path.suffix == ".json" or (path.is_dir() and manifest.exists()):
        return inspect_part(manifest, options.quick)
    if path.is_dir():
        return inspect_dense(path, options.quick)
    if known is not None:
        return inspect_raw(path, *known, options.quick)
    from pipeline.data.formats.guess import detector_of, guessed

    guess = guessed(path, options.format, options.detector)
    spec = DatasetSpec.model_validate({**guess.spec, "files": (str(path),)})
    facts = inspect_raw(path, spec, detector_of(spec.detector, {}), options.quick)
    return {**facts, "": _section(path, guess)}


def _show(path: Path, facts: dict[str, str]) -> None:
    section = facts.pop("", "")
    width = max(map(len, facts))
    print(f"{path}:")
    for key, text in facts.items():
        print(f"  {key.replace('_', ' ') if ' ' not in key else key:<{width}}  {text}")
    if section:
        marked = "; check the marked lines" if "# check" in section else ""
        print(f"\nIt would be ingested with this section{marked}:\n\n{section}")


def _section(path: Path, guess: Guess) -> str:
    """The data set's section as YAML, a remark beside what the file does not say."""
    import yaml

    name = "".join(c if c.isalnum() else "_" for c in path.stem) or "my_data"
    lines = ["datasets:", f"  {name}:"]
    for key, value in guess.spec.items():
        text = yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False, width=1000).strip()[1:-1]
        remark = f"   # {guess.remarks[key]}" if key in guess.remarks else ""
        lines.append(f"    {text}{remark}")
    return "\n".join(lines) + "\n"
