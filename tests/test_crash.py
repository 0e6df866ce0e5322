"""Stages ended at some of their file operations come back to the same bytes; `make test-crash` ends them at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_matrix import AGAIN, STAGES, Server, finished, server, walk
from workflow_fixtures import Workspace

pytestmark = pytest.mark.slow
MOST = 3


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A fork server whose file operations are watched."""
    try:
        with server() as found:
            yield found
    except RuntimeError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def workspace(running: Server, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Every job of a small experiment, done."""
    return finished(running, tmp_path_factory.mktemp("crash").resolve())


@pytest.mark.parametrize("how", ["k", "l", "f", "t"])
@pytest.mark.parametrize("stage", STAGES)
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


def test_every_kind_of_operation_is_seen(running: Server, workspace: Workspace, tmp_path: Path) -> None:
    """The interposer sees what Python, HDF5 and the kernel's copies do: as many as the stage's trace says."""
    kinds = {"open", "write", "fsync", "rename", "unlink", "mkdir"}
    for stage in ("simulate", "ingest", "preprocess"):
        found = walk(running, workspace, stage, "k", "fresh", 2)
        assert kinds <= {kind for kind, _ in running.trace()}, (stage, found)
