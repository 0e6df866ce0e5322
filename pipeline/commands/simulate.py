"""`caloforge simulate`: showers into a raw file, from a configuration or from options alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.source import add_source, plan_of
from pipeline.config import BUILT_IN_DETECTORS, ConfigError, DetectorSpec, SimulateSpec
from pipeline.jobs import JOBS, recorded


def add(commands: Any) -> None:
    """Declare the command."""
    text = "showers from Geant4 or the parametric engine into a raw HDF5 file"
    parser = commands.add_parser("simulate", help=text, description=text)
    add_source(parser)
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
    alone.add_argument("--layout", choices=("calochallenge", "caloforge", "par04"), default="calochallenge")
    alone.add_argument("--seed", type=int, default=1)
    parser.set_defaults(action=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    from pipeline import stages

    if options.file:
        plan = plan_of(options)
        with recorded(plan, JOBS["simulate"](plan, options.file)):
            print(stages.simulate(plan, options.file))
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
