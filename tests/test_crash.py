"""Stages ended at some of their file operations come back to the same bytes; `make test-crash` ends them at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_experiment import STAGES, finished
from crash_server import Server, in_memory, server
from crash_walk import walk
from workflow_fixtures import Workspace

pytestmark = pytest.mark.slow
MOST = 3
WRITERS = ("ingest", "preprocess", "train", "generate", "export-dense")  # of Zarr, torch and HDF5
AGAIN = ("simulate", "ingest", "preprocess", "merge", "paper", "export-dense")  # those that replace what is there
CASES = [(stage, "k") for stage in STAGES] + [(stage, how) for how in "lft" for stage in WRITERS]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A fork server whose file operations are watched."""
    try:
        with server() as found:
            yield found
    except RuntimeError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def workspace(running: Server) -> Iterator[Workspace]:
    """Every job of a small experiment, done."""
    with tempfile.TemporaryDirectory(prefix="crash-", dir=in_memory()) as folder:
        yield finished(running, Path(folder).resolve())


@pytest.mark.parametrize(("stage", "how"), CASES)
def test_an_ended_stage_run_again_gives_the_same_bytes(
    running: Server, workspace: Workspace, stage: str, how: str
) -> None:
    found = walk(running, workspace, stage, how, "fresh", MOST)
    assert not found.lost, "\n".join(found.lost)
    assert sum(found.ends.values()) >= 1


@pytest.mark.parametrize("stage", AGAIN)
def test_a_stage_ended_over_its_own_output_gives_the_same_bytes(
    running: Server, workspace: Workspace, stage: str
) -> None:
    found = walk(running, workspace, stage, "k", "again", MOST)
    assert not found.lost, "\n".join(found.lost)


def test_every_kind_of_operation_is_seen(running: Server, workspace: Workspace) -> None:
    """The interposer sees what Python, HDF5 and the kernel's copies do: as many as the stage's trace says."""
    kinds = {"open", "write", "fsync", "rename", "unlink", "mkdir"}
    for stage in ("simulate", "ingest", "preprocess"):
        found = walk(running, workspace, stage, "k", "fresh", 2)
        assert kinds <= {kind for kind, _ in running.trace()}, (stage, found)
