"""A Slurm of one node for the whole session, and folders to submit from."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import RECORD, Cluster, stop_all
from workflow_fixtures import REPOSITORY, Workspace

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running Slurm; it is stopped whatever happens, and its logs stay below its folder."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a Slurm for the tests needs root on Debian")
    root = tmp_path_factory.mktemp("slurm")
    RECORD.unlink(missing_ok=True)
    try:
        subprocess.run([str(HERE / "start.sh"), str(root)], check=True, timeout=300)
        yield Cluster(root)
    finally:
        subprocess.run([str(HERE / "stop.sh"), str(root)], check=False, timeout=120)


@pytest.fixture
def workspace(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """An empty folder with config/test.yaml and the symlink `slurm`; its jobs are recorded afterwards."""
    workspace = Workspace(tmp_path)
    (tmp_path / "slurm").symlink_to(REPOSITORY / "profiles" / "slurm")
    yield workspace
    stop_all()
    cluster.clear()
    cluster.record(request.node.name, tmp_path)


@pytest.fixture
def prepared(workspace: Workspace, merged: Workspace) -> Workspace:
    """The workspace with all data ready, so that one training is all that is left to do."""
    shutil.copytree(merged.folder, workspace.folder, dirs_exist_ok=True, symlinks=True)
    return workspace


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, test_content: dict[str, Any]) -> Workspace:
    """A folder in which everything up to the fitted transform was made, without Slurm."""
    workspace = Workspace(tmp_path_factory.mktemp("merged"))
    content = copy.deepcopy(test_content)
    run = content["runs"]["generator"] | {"slices": 1}
    content |= {"runs": {"generator": run}, "samples": {}, "figures": {"draw": []}}
    workspace.configure(content)
    workspace.snakemake("results/test/merge/log/test_siw.json")
    return workspace
