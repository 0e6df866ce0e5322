"""`caloforge redraw`: draw figures of a paper again from its recorded tables, and compare them byte for byte."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.provenance import ProvenanceError, file_digest


def add(commands: Any) -> None:
    """Declare the command."""
    text = "draw a paper's figures again from its recorded tables, beside the old ones, and compare them"
    parser = commands.add_parser("redraw", help=text, description=text)
    parser.add_argument("results", type=Path, help="results/<experiment>, here or unpacked from a bundle")
    parser.add_argument("--figure", help="name of a figure (default: all)")
    parser.add_argument("--output", type=Path, default=Path("redrawn"), help="folder for them (default: redrawn)")
    parser.set_defaults(action=_redraw)


def _redraw(options: argparse.Namespace) -> int:
    from pipeline.paper.verify import paper_of, reading
    from pipeline.plan import Plan
    from pipeline.stages import redraw

    root, record = paper_of(options.results)
    with reading(options.results):
        figures = {name: (f["file"], f["digest"], dict(f["inputs"])) for name, f in record["figures"].items()}
        made = ", ".join(f"{library} {number}" for library, number in record["libraries"].items())
        version, saved = record["code"]["version"], Path(record["plan"])
    if options.figure and options.figure not in figures:
        raise ConfigError(f"--figure: expected one of {sorted(figures)}, got '{options.figure}'")
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    output = options.output.resolve()
    os.chdir(root)  # the paths of a plan are relative to the folder that holds results/
    plan, differing = Plan.load(saved), 0
    if unknown := sorted(set(figures) - set(plan.figures())):
        raise ProvenanceError(f"{saved}: expected the figures {unknown} in the plan, found none of that name")
    for name in [options.figure] if options.figure else figures:
        file, digest, inputs = figures[name]
        _check_inputs(file, inputs)
        drawn = redraw(plan, name, output)
        same = file_digest(drawn) == digest
        differing += not same
        print(f"{drawn}: {'identical to' if same else 'differs from'} {file}")
    if differing:
        print(f"{differing} differ; drawn first by Caloforge {version} with {made}")
    return 1 if differing else 0


def _check_inputs(figure: str, inputs: Mapping[str, str]) -> None:
    """What the figure was drawn from must be there as recorded."""
    for path, digest in inputs.items():
        found = file_digest(path) if Path(path).is_file() else "no file"
        if found != digest:
            raise ProvenanceError(
                f"{path}: expected digest {digest} as when {figure} was drawn, found {found}; "
                "put it back, or run `snakemake paper`"
            )
