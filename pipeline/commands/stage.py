"""The stages of the workflow, each a command: `caloforge train --run NAME` is what the rule `train` runs."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.source import add_source, plan_of
from pipeline.config import ConfigError
from pipeline.jobs import JOBS, is_recording, recorded
from pipeline.plan import Plan

STAGES = {
    "ingest": ("raw HDF5 -> one immutable Zarr part", ("dataset", "part", "sample", "threads")),
    "preprocess": ("a part through the recipe's per-shower steps", ("dataset", "part", "recipe", "threads")),
    "merge": ("merge statistics and fit the rest of the recipe", ("recipe", "dataset", "threads")),
    "train": ("train a run, or one slice of it", ("run", "slice")),
    "generate": ("generate showers at the held-out conditions", ("sample",)),
    "predict": ("predict a label for the held-out showers", ("run",)),
    "evaluate": ("compare a sample, the floor or a head with Geant4", ("subject", "threads")),
    "examine": ("look into a trained run: its attention, and what it forgot", ("run",)),
    "metrics": ("collect the rows of all evaluations", ()),
    "probe": ("errors of linear heads on an encoder of the study, or of its baselines", ("encoder",)),
    "study": ("judge the study's claims and write its summary", ()),
    "figures": ("draw one figure", ("figure",)),
    "report": ("write the report page", ()),
    "paper": ("gather figures, tables, HEPData and their links", ()),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "dataset": {"help": "name of a data set, or of a sample's files"},
    "part": {"help": "name of a part (a raw file without its ending)"},
    "sample": {"help": "name of a sample that is made here"},
    "recipe": {"help": "name of a preprocessing recipe"},
    "run": {"help": "name of a run"},
    "slice": {"type": int, "help": "which slice of the training, from 1; default: the last"},
    "subject": {"help": "'floor', 'sensitivity', a sample, or a run with a head"},
    "encoder": {"help": "a run that the study writes, or 'baselines'"},
    "figure": {"help": "name of a figure"},
    "threads": {"type": int, "help": "default: 2 (evaluate: 1; ingest: all CPUs)"},
}


def add(commands: Any) -> None:
    """Declare one command per stage."""
    for name, (text, keys) in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        add_source(stage)
        for key in keys:
            stage.add_argument(f"--{key}", **_OPTIONS[key])
        stage.set_defaults(action=_stage)


def _stage(options: argparse.Namespace) -> None:
    from pipeline import stages

    plan = plan_of(options)
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
    job = JOBS[name](plan, **{key: value for key, value in given.items() if key != "threads"})
    if "slice" in given:
        given["slice_index"] = given.pop("slice")
    with recorded(plan, job):
        output = getattr(stages, name)(plan, **given)
    if is_recording():
        print(output)


def _check_names(plan: Plan, given: dict[str, Any]) -> None:
    config = plan.config
    known: dict[str, Any] = {
        "dataset": plan.files,
        "recipe": config.preprocessing,
        "run": config.runs,
        "sample": config.samples,
        "subject": plan.subjects(),
        "encoder": plan.probed(),
        "figure": plan.figures(),
    }
    for key, members in known.items():
        if key in given and given[key] not in members:
            raise ConfigError(f"--{key}: expected one of {sorted(members)}, got '{given[key]}'")
