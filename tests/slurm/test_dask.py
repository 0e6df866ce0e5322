"""Dask's workers as jobs of a real Slurm: `compute: {scheduler: slurm}` gives the bytes that threads give."""

from __future__ import annotations

import pytest
from cluster_fixtures import Cluster
from workflow_fixtures import Workspace

from pipeline.config import load_config
from pipeline.plan import Plan

pytestmark = pytest.mark.slurm


def test_preprocess_and_evaluate_by_jobs_of_slurm(
    prepared: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared.folder)
    plan = Plan.discover(load_config(prepared.config_file))
    part = plan.parts("test_siw")[0]
    floor = plan.paths.evaluation("floor").with_suffix("")
    stages = (
        ["preprocess", "--dataset", "test_siw", "--part", part, "--recipe", "log"],
        ["evaluate", "--subject", "floor"],
    )
    kept = (plan.paths.prefix("log", "test_siw", part).with_suffix("").as_posix(), floor.as_posix())

    def made(compute: dict[str, object]) -> dict[str, str]:
        prepared.configure({**prepared.config(), "compute": compute})
        for stage in stages:
            done = prepared.caloforge(*stage, "--config", str(prepared.config_file))
            assert done.returncode == 0, done.stderr
        return {name: digest for name, digest in prepared.digests().items() if name.startswith(kept)}

    threads = made({"scheduler": "threads"})
    assert len(threads) > 3
    before = len(cluster.jobs(prepared.folder))
    assert made({"scheduler": "slurm", "workers": 2, "slurm": {"memory_mb": 1000, "wait_minutes": 1}}) == threads
    workers = cluster.jobs(prepared.folder)[before:]
    assert len(workers) == 2 * len(stages)
    assert {(job.rule, job.partition, job.mem_mb, job.minutes) for job in workers} == {
        ("caloforge-dask", "cpu", 1000, 120)
    }
    assert {job.state for job in workers} <= {"COMPLETED", "CANCELLED"}
