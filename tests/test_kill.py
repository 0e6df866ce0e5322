"""Whatever is killed (SIGKILL), the same command again gives the same bytes, and nothing half-written stays.

Each stage is killed at file operations spread over its whole run, the first and the last among them;
then Snakemake itself is killed while its jobs run.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from workflow_fixtures import REPOSITORY, Workspace, environment

pytestmark = pytest.mark.slow
KILL_AT = str(REPOSITORY / "tests" / "kill_at.py")
POINTS = 6
RECIPE = ("--dataset", "test_siw", "--recipe", "log")

# stage -> (arguments, what the stage makes, as glob patterns below the workspace)
STAGES = {
    "simulate": (("--file", "test_siw/test_siw_0002"), ["data/raw/test_siw/test_siw_0002.h5*"]),
    "ingest": (("--dataset", "test_siw", "--part", "test_siw_0002"), ["data/store/test_siw-*/test_siw_0002.*"]),
    "preprocess": ((*RECIPE, "--part", "test_siw_0002"), ["data/preprocessed/*/test_siw-*/test_siw_0002.*"]),
    "merge": (RECIPE, ["results/test/merge/log/test_siw.json"]),
    "train": (("--run", "energy"), ["results/test/train/energy"]),
    "generate": (("--sample", "generator"), ["results/test/generate/generator.*"]),
    "predict": (("--run", "energy"), ["results/test/predict/energy.*"]),
    "evaluate": (("--subject", "energy"), ["results/test/evaluate/energy.*"]),
    "metrics": ((), ["results/test/metrics.json"]),
    "figures": (("--figure", "hits"), ["results/test/figures/hits.*"]),
    "report": ((), ["results/test/report.html"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, test_content) -> Workspace:
    """A workspace in which the workflow has run to its end."""
    workspace = Workspace(tmp_path_factory.mktemp("killed"))
    workspace.configure(test_content)
    workspace.snakemake()
    return workspace


def remove(folder: Path, patterns: list[str]) -> None:
    """Delete what a stage makes."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_stage(workspace: Workspace, stage: str, kill_at: int) -> subprocess.CompletedProcess:
    arguments = STAGES[stage][0]
    return workspace.caloforge(
        stage, "--config", str(workspace.config_file), *arguments, prefix=(KILL_AT, str(kill_at))
    )


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_run_again_gives_the_same_bytes(finished: Workspace, stage: str) -> None:
    undisturbed = finished.digests()
    made = STAGES[stage][1]
    remove(finished.folder, made)
    clean = run_stage(finished, stage, kill_at=0)
    assert clean.returncode == 0, clean.stderr
    assert finished.digests() == undisturbed
    operations = int(re.search(r"operations: (\d+)", clean.stderr)[1])
    kills = 0
    for point in sorted({1 + round(i * (operations - 1) / (POINTS - 1)) for i in range(POINTS)}):
        remove(finished.folder, made)
        killed = run_stage(finished, stage, kill_at=point)
        if killed.returncode == 0:  # a cache was warm this time: fewer operations
            continue
        kills += 1
        assert killed.returncode == -signal.SIGKILL, f"operation {point} of {operations}: {killed.stderr}"
        again = run_stage(finished, stage, kill_at=0)
        assert again.returncode == 0, f"after a kill at operation {point} of {operations}: {again.stderr}"
        assert finished.digests() == undisturbed, f"after a kill at operation {point} of {operations}"
    assert kills >= min(3, operations - 1)
    left = [p for top in ("data", "results") for p in (finished.folder / top).rglob("*.tmp")]
    assert not left


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
