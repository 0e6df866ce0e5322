"""Trainings of several processes for tests: one interpreter that imports torch, and forks of it as ranks.

`python tests/rank_fixtures.py TASKS.json` runs each task's request in `world` processes on the CPU (gloo).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from training_fixtures import ToyExperiment

REPOSITORY = Path(__file__).resolve().parent.parent


def train_in_ranks(toy: ToyExperiment, tasks: list[dict[str, Any]], timeout: int = 300) -> None:
    """Run tasks `{run, where, world, sections, slice, slices}` in turn; AssertionError with the output of a failure."""
    content = {"folder": str(toy.folder), "parts": [str(p) for p in toy.parts], "prefix": [str(p) for p in toy.prefix]}
    content |= {"transform": str(toy.transform), "tasks": tasks}
    path = toy.folder / "tasks.json"
    path.write_text(json.dumps(content))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, __file__, str(path)], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _main(path: Path) -> int:
    import torch  # noqa: F401  # once, before the forks

    import pipeline.training.trainer  # noqa: F401

    content = json.loads(path.read_text())
    parts, prefix = ([Path(p) for p in content[key]] for key in ("parts", "prefix"))
    toy = ToyExperiment(Path(content["folder"]), parts, prefix, Path(content["transform"]))
    return max(_run(toy, task) for task in content["tasks"])


def _run(toy: ToyExperiment, task: dict[str, Any]) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(task["world"]):
        if (child := os.fork()) == 0:
            os._exit(_rank(toy, task, rank, port))
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


def _rank(toy: ToyExperiment, task: dict[str, Any], rank: int, port: int) -> int:
    import traceback

    from pipeline.training.trainer import train

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(task["world"])}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        request = toy.request(task["run"], Path(task["where"]), toy.config(**task.get("sections", {})))
        train(replace(request, slice_index=task.get("slice", 1), n_slices=task.get("slices", 1)))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
