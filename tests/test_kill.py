"""Snakemake itself is killed while its jobs run, and goes on to the same bytes; `test_crash` ends single stages."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from workflow_fixtures import Workspace, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, test_content) -> Workspace:
    """A workspace in which the workflow has run to its end."""
    workspace = Workspace(tmp_path_factory.mktemp("killed"))
    workspace.configure(test_content)
    workspace.snakemake()
    return workspace


def test_killed_snakemake_goes_on_after_unlocking(finished: Workspace, tmp_path: Path, test_content) -> None:
    workspace = Workspace(tmp_path)
    workspace.configure(test_content)
    for seconds in (12, 25):
        process = subprocess.Popen(
            workspace.command(),
            cwd=tmp_path,
            env=environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        process.kill()
        process.wait()
        unlocked = workspace.caloforge("unlock", *workspace.command()[3:])
        assert unlocked.returncode == 0, unlocked.stderr
    workspace.snakemake()
    assert workspace.digests() == finished.digests()


def test_a_live_snakemake_keeps_its_lock(tmp_path: Path, test_content) -> None:
    workspace = Workspace(tmp_path)
    workspace.configure(test_content)
    process = subprocess.Popen(
        workspace.command(), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.time() + 60
        while not any((tmp_path / ".snakemake" / "locks").glob("*")) and time.time() < deadline:
            time.sleep(0.2)
        refused = workspace.caloforge("unlock")
        assert refused.returncode == 1 and "its lock stays" in refused.stderr
    finally:
        process.terminate()
        process.wait()
