"""The architecture, held by tests: imports point one way, data stages need no torch, the README's commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "pipeline"
ROOMS = [
    "cli",
    "commands",
    "stages",
    "paper",
    "figures",
    "studies",
    "generation",
    "training",
    "evaluation",
    "models",
    "data",
    "simulation",
    "calorimeter",
    "site",
    "foundation",
]
FOUNDATION = {
    "config",
    "cost",
    "energy",
    "failures",
    "jobs",
    "orphans",
    "reasons",
    "survey",
    "paths",
    "plan",
    "provenance",
    "quarantine",
    "raw_files",
    "reference",
    "wildcards",
    "__init__",
    "__main__",
}


def room_of(module: str) -> str:
    name = [*module.split("."), "__init__"][1]
    return "foundation" if name in FOUNDATION or name.startswith("__") else name


def imports() -> list[tuple[str, str, str]]:
    """(file, its room, imported room) for each import of our own package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
                names = [f"{node.module}.{a.name}" if node.module == "pipeline" else node.module for a in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("pipeline")]
            found += [(own, room_of(own), room_of(name)) for name in names]
    return found


def test_imports_point_one_way() -> None:
    wrong = {
        f"{own} imports {room}"
        for own, mine, room in imports()
        if mine != "foundation" and ROOMS.index(room) < ROOMS.index(mine)
    }
    wrong |= {
        f"{own} imports {room}"
        for own, mine, room in imports()
        if mine == "foundation" and room != "foundation" and "__main__" not in own
    }
    assert not wrong


def test_figures_import_no_other_room() -> None:
    assert {room for _, mine, room in imports() if mine == "figures"} <= {"figures", "foundation"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pipeline.cli", ["torch", "zarr", "xarray", "dask", "numpy", "h5py"]),
        ("pipeline.plan", ["torch", "zarr", "xarray", "dask"]),
        ("pipeline.data.ingest", ["torch"]),
        ("pipeline.data.preprocess", ["torch"]),
        ("pipeline.simulation.parametric", ["torch"]),
        ("pipeline.evaluation.observables", ["torch"]),
        ("pipeline.figures", ["torch", "zarr"]),
        ("pipeline.training.trainer", ["snakemake", "matplotlib", "geant4_pybind"]),
    ],
)
def test_heavy_libraries_stay_out(module, absent) -> None:
    code = f"import sys, {module}; print([m for m in {absent} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert output.stdout.strip() == "[]"


def test_stage_is_rule_is_subcommand_is_function() -> None:
    from pipeline import stages
    from pipeline.commands.stage import STAGES

    rules = set()
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        rules |= set(re.findall(r"^rule (\w+):", path.read_text(), re.M))
    assert rules == {*STAGES, "simulate", "ingest_sample", "train_slice"}
    assert all(callable(getattr(stages, stage)) for stage in [*STAGES, "simulate", "ingest_sample"])


def test_every_rule_keeps_a_log() -> None:
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        assert text.count("log:") == len(re.findall(r"^rule ", text, re.M)), path.name
        assert "\n    run:" not in text
        assert "retries" not in text


def test_readme_commands_exist() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", readme, re.M)) <= targets
    help_text = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    for command in set(re.findall(r"`caloforge ([a-z]+)", readme)):
        assert re.search(rf"^    {command}\b", help_text, re.M), command


def test_file_names_say_what_is_inside() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc", "base", "manager"}
