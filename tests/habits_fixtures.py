"""A small experiment whose files come, change and go: two raw files, one recipe, one run, seconds per job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflow_fixtures import Workspace

CONTENT: dict[str, Any] = {
    "experiment": "small",
    "datasets": {
        "siw": {
            "format": "calochallenge",
            "files": "raw/*.h5",
            "detector": "SiW",
            "sampling_corrected": False,
            "angle_deg": 90,
            "mesh": {"cells": [9, 10, 15], "dr_mm": 4.65, "dz_mm": 10.2},
        }
    },
    "splits": {"train": 0.5, "validation": 0.1, "test": 0.4},
    "preprocessing": {"log": ["log1p", "standardise"]},
    "runs": {
        "representation": {
            "model": {"name": "masked_vit", "patch": [3, 5, 3], "width": 8, "depth": 1, "heads": 1, "decoder_width": 8},
            "data": ["siw"],
            "recipe": "log",
            "training": {"samples": 32, "batch_size": 8, "warmup_samples": 8, "validate_every": 16},
        }
    },
    "figures": {"draw": []},
}


def add_file(workspace: Workspace, name: str, seed: int) -> Path:
    """One raw file of 24 parametric showers, as a detector group would drop it in."""
    path = workspace.folder / "raw" / f"{name}.h5"
    options = ["--engine", "parametric", "--showers", "24", "--seed", str(seed), "--cells", "9", "10", "15"]
    done = workspace.caloforge("simulate", *options, "--output", str(path))
    assert done.returncode == 0, done.stderr
    return path


def small_workspace(folder: Path) -> Workspace:
    """The experiment with two raw files, `a` and `b`, nothing made yet."""
    workspace = Workspace(folder)
    workspace.configure(CONTENT)
    add_file(workspace, "a", seed=1)
    add_file(workspace, "b", seed=2)
    return workspace


def snakemake_options() -> str:
    """What `caloforge why` needs to find the Snakefile from a workspace."""
    command = Workspace(Path()).command()
    return " ".join(command[3:7])
