"""The console script: one subcommand per stage of the workflow, and the commands around it.

Errors that Caloforge foresees end in one line on stderr and exit status 1; anything else is a traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import BUILT_IN_DETECTORS, Config, ConfigError, DetectorSpec, SimulateSpec, load_config
from pipeline.plan import Plan, freeze

DEFAULT_CONFIG = "config/config.yaml"

STAGES = {
    "ingest": ("raw HDF5 -> one immutable Zarr part", ("dataset", "part", "sample")),
    "preprocess": ("a part through the recipe's per-shower steps", ("dataset", "part", "recipe", "threads")),
    "merge": ("merge statistics and fit the rest of the recipe", ("recipe", "dataset")),
    "train": ("train a run, or one slice of it", ("run", "slice")),
    "generate": ("generate showers at the held-out conditions", ("sample",)),
    "predict": ("predict a label for the held-out showers", ("run",)),
    "evaluate": ("compare a sample, the floor or a head with Geant4", ("subject",)),
    "metrics": ("collect the rows of all evaluations", ()),
    "figures": ("draw one figure", ("figure",)),
    "report": ("write the report page", ()),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {"help": "name of a data set"},
    "part": {"help": "name of a part (a raw file without its ending)"},
    "sample": {"help": "name of a generated sample"},
    "recipe": {"help": "name of a preprocessing recipe"},
    "run": {"help": "name of a run"},
    "slice": {"type": int, "help": "which slice of the training, from 1; default: the last"},
    "subject": {"help": "'floor', a sample, or a run with a head"},
    "figure": {"help": "name of a figure"},
    "threads": {"type": int, "default": 2, "help": "Dask threads"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "unlock":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(options.action(options) or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not (type(error).__module__.startswith("pipeline.") or isinstance(error, OSError)):
            raise
        print(f"caloforge {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caloforge", description="From raw calorimeter showers to trusted models.")
    parser.add_argument("--version", action="version", version=f"caloforge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_simulate(commands)
    for name, (text, keys) in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        _add_source(stage)
        for key in keys:
            stage.add_argument(f"--{key}", **_OPTIONS[key])
        stage.set_defaults(action=_stage)
    _add_config(commands)
    lock = commands.add_parser("freeze", help="write the lock that makes an experiment ignore newer files")
    lock.add_argument("experiment", help="an experiment's configuration file, or its name")
    lock.add_argument("--output", type=Path, help="default: config/locks/<experiment>.json")
    lock.set_defaults(action=_freeze)
    unlock = commands.add_parser(
        "unlock", help="remove Snakemake's lock when no live process holds it; takes its options"
    )
    unlock.set_defaults(action=_unlock)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", help=f"configuration file (default: {DEFAULT_CONFIG})")
    source.add_argument("--plan", help="plan saved by the workflow (default in its jobs: $CALOFORGE_PLAN)")


def _plan(options: argparse.Namespace) -> Plan:
    saved = options.plan or (None if options.config else os.environ.get("CALOFORGE_PLAN"))
    return Plan.load(saved) if saved else Plan.discover(load_config(options.config or DEFAULT_CONFIG))


# ---------------------------------------------------------------------------------------- stages


def _stage(options: argparse.Namespace) -> None:
    from pipeline import stages

    plan = _plan(options)
    keys = STAGES[options.command][1]
    given = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    name = options.command
    if name == "ingest" and "sample" in given:
        name = "ingest_sample"
    elif name == "ingest":
        keys = ("dataset", "part")
    missing = [key for key in keys if key not in given and key not in ("slice", "threads")]
    if missing and name != "ingest_sample":
        raise ConfigError(f"expected --{missing[0]}, got none; see caloforge {options.command} --help")
    _check_names(plan, given)
    if "slice" in given:
        given["slice_index"] = given.pop("slice")
    print(getattr(stages, name)(plan, **given))


def _check_names(plan: Plan, given: dict[str, Any]) -> None:
    config = plan.config
    known: dict[str, Any] = {
        "dataset": config.datasets,
        "recipe": config.preprocessing,
        "run": config.runs,
        "sample": config.samples,
        "subject": plan.subjects(),
        "figure": plan.figures(),
    }
    for key, members in known.items():
        if key in given and given[key] not in members:
            raise ConfigError(f"--{key}: expected one of {sorted(members)}, got '{given[key]}'")


def _add_simulate(commands: Any) -> None:
    text = "showers from Geant4 or the parametric engine into a raw HDF5 file"
    parser = commands.add_parser("simulate", help=text, description=text)
    _add_source(parser)
    parser.add_argument("--file", help="<dataset>/<part> of the configuration's `simulate` sections")
    alone = parser.add_argument_group("without a configuration")
    alone.add_argument("--output", type=Path, help="the file to write")
    alone.add_argument("--engine", choices=("geant4", "parametric"), default="geant4")
    alone.add_argument("--detector", default="SiW", help=f"{', '.join(BUILT_IN_DETECTORS)} or a detector in YAML")
    alone.add_argument("--particle", choices=("e-", "e+", "gamma"), default="e-")
    alone.add_argument(
        "--energy-gev",
        type=float,
        nargs="+",
        default=[1.0, 4.0],
        help="LOW HIGH of the log-uniform range; with --fixed: the energies",
    )
    alone.add_argument("--fixed", action="store_true", help="fixed energies instead of a range")
    alone.add_argument("--showers", type=int, default=100)
    alone.add_argument("--angle-deg", type=float, default=90.0)
    alone.add_argument("--cells", type=int, nargs=3, metavar=("R", "PHI", "Z"), help="cells of the mesh")
    alone.add_argument("--dr-mm", type=float, help="cell size along r (default: so that the mesh keeps its size)")
    alone.add_argument("--dz-mm", type=float, help="cell size along z (default: so that the mesh keeps its size)")
    alone.add_argument("--threshold-mev", type=float, default=5e-4)
    alone.add_argument("--layout", choices=("calochallenge", "par04"), default="calochallenge")
    alone.add_argument("--seed", type=int, default=1)
    parser.set_defaults(action=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    from pipeline import stages

    if options.file:
        print(stages.simulate(_plan(options), options.file))
        return
    if options.output is None:
        raise ConfigError("expected --output FILE (or --file of a configuration), got neither")
    name, detector = _detector(options.detector)
    stages.simulate_file(options.output, _simulate_spec(options, detector), name, detector, options.seed)
    print(options.output)


def _detector(name: str) -> tuple[str, DetectorSpec]:
    """A built-in detector, or the one of a YAML file (`detectors: {Name: ...}`, or the bare description)."""
    if name in BUILT_IN_DETECTORS:
        return name, BUILT_IN_DETECTORS[name]
    if not Path(name).is_file():
        raise ConfigError(f"--detector: expected one of {sorted(BUILT_IN_DETECTORS)} or a YAML file, got '{name}'")
    import yaml
    from pydantic import ValidationError

    try:
        content = yaml.safe_load(Path(name).read_text())
        members = content.get("detectors") if isinstance(content, dict) else None
        if isinstance(members, dict) and len(members) == 1:
            ((own_name, content),) = members.items()
            return str(own_name), DetectorSpec.model_validate(content)
        return Path(name).stem, DetectorSpec.model_validate(content)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{name}: expected `detectors:` with one detector, got errors in it: {lines}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: expected YAML, got: {error}") from None


def _simulate_spec(options: argparse.Namespace, detector: DetectorSpec) -> SimulateSpec:
    from pydantic import ValidationError

    mesh: dict[str, Any] | None = None
    if options.cells or options.dr_mm or options.dz_mm:
        own = detector.mesh
        options.cells = options.cells or list(own.cells)
        mesh = {
            "cells": options.cells,
            "dr_mm": options.dr_mm or own.dr_mm * own.cells[0] / options.cells[0],
            "dz_mm": options.dz_mm or own.dz_mm * own.cells[2] / options.cells[2],
        }
    try:
        return SimulateSpec.model_validate(
            {
                "engine": options.engine,
                "files": 1,
                "showers": options.showers,
                "energy_gev": options.energy_gev,
                "spectrum": "fixed" if options.fixed else "log_uniform",
                "angle_deg": options.angle_deg,
                "particle": options.particle,
                "mesh": mesh,
                "threshold_mev": options.threshold_mev,
                "layout": options.layout,
                "seed": options.seed,
            }
        )
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise ConfigError("; ".join(lines)) from None


# ------------------------------------------------------------------------------- configuration


def _add_config(commands: Any) -> None:
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


def _freeze(options: argparse.Namespace) -> None:
    config = load_config(_experiment_file(options.experiment))
    plan = Plan.discover(
        Config.model_validate({**config.model_dump(mode="json", exclude_unset=True), "data_lock": None})
    )
    output = options.output or Path("config") / "locks" / f"{config.experiment}.json"
    lock = freeze(plan, output)
    count = sum(len(parts) for parts in lock["datasets"].values())
    print(f"{output}: {count} raw files; add to the experiment's configuration:\n\ndata_lock: {output}")


def _experiment_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    import yaml

    candidates = [*sorted(Path("config").glob("*.yaml")), *sorted(Path("config/experiments").glob("*.yaml"))]
    for path in candidates:
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError:
            continue
        if isinstance(content, dict) and content.get("experiment") == name:
            return path
    raise ConfigError(f"freeze: expected a configuration file or the name of an experiment in config/, got '{name}'")


def _unlock(options: argparse.Namespace) -> int:
    """Snakemake leaves its lock behind when it is killed; a live run must keep it."""
    import subprocess

    import psutil

    if not any(Path(".snakemake/locks").glob("*")):
        return 0
    here = os.getcwd()
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            words = process.info["cmdline"] or []
            if any(Path(word).name == "snakemake" for word in words[:3]) and process.cwd() == here:
                print(
                    f"caloforge unlock: Snakemake runs here as process {process.pid}; its lock stays", file=sys.stderr
                )
                return 1
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    command = [sys.executable, "-m", "snakemake", *options.rest, "--unlock"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
