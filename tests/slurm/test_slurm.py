"""`snakemake --profile slurm` on a real Slurm of one node with two GPUs that only Slurm sees: `make test-slurm`.

The node is started and stopped by start.sh and stop.sh beside this file (root, Debian). What every test's jobs were,
where they ran, how often and how they ended is kept in logs/slurm-tests.json.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import signal
from typing import Any

import pytest
from cluster_fixtures import Cluster, finished, hold, slurm, started, submit, wait_until
from workflow_fixtures import Workspace

pytestmark = pytest.mark.slurm

GPU_RULES = {"train", "train_slice", "generate", "predict"}
MODEL = "results/test/train/generator/model.json"


def data_only(content: dict[str, Any]) -> dict[str, Any]:
    """Simulation and ingest, nothing trained."""
    return {k: v for k, v in copy.deepcopy(content).items() if k not in ("runs", "samples", "evaluation")}


def checkpoint(workspace: Workspace) -> bool:
    """Whether the generator's training left one."""
    return any((workspace.folder / "results" / "test" / "train" / "generator").rglob("*.pt"))


def went_on(workspace: Workspace) -> bool:
    """Whether the generator's last training began with a checkpoint."""
    log = (workspace.folder / "logs" / "test" / "train" / "generator.log").read_text()
    return re.search(r"generator: going on after [1-9]\d* showers", log) is not None


def test_the_whole_workflow_and_its_placement(
    workspace: Workspace, cluster: Cluster, test_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    test_config["datasets"]["test_siw"]["simulate"]["files"] = 2
    test_config["evaluation"]["showers"] = 40
    test_config["samples"] = {"generator": test_config["samples"]["generator"]}
    test_config["figures"] = {"draw": ["summary", "hits", "linearity", "training_curves"]}
    workspace.configure(test_config)
    here = Workspace(tmp_path_factory.mktemp("here"))
    here.configure(test_config)
    running = started(workspace)
    here.snakemake()  # the same meanwhile, without Slurm
    finished(workspace, running)

    jobs = cluster.jobs(workspace.folder)
    assert {job.state for job in jobs} == {"COMPLETED"}
    on_gpu = [job for job in jobs if job.partition == "gpu"]
    assert {job.rule for job in on_gpu} == GPU_RULES
    assert {job.gpus for job in on_gpu} == {1}
    assert all(job.devices in (("0",), ("1",)) for job in on_gpu)
    assert {job.gpus for job in jobs if job.partition == "cpu"} == {0}
    together = [(a, b) for a, b in itertools.combinations(on_gpu, 2) if a.beside(b)]
    assert together
    assert all(a.devices != b.devices for a, b in together)
    assert [job.about for job in on_gpu if job.rule == "train_slice"] == ["generator_1"]
    assert {job.rule for job in jobs if "_" in job.rule} >= {"data_ingest_preprocess", "figures_figures"}

    assert "data:image/png;base64," in (workspace.folder / "results" / "test" / "report.html").read_text()
    assert workspace.digests() == here.digests()
    assert workspace.jobs() == {}


def test_a_job_out_of_memory_names_its_logs_and_is_tried_again_with_more(
    workspace: Workspace, cluster: Cluster, test_content: dict[str, Any]
) -> None:
    workspace.configure(data_only(test_content))
    more = "simulate:mem_mb=60 + 940 * (attempt - 1)"
    told = submit(workspace, "--until", "simulate", "--retries", "0", "--set-resources", more, status=1)
    # Slurm looks once a second: the job may have left a record of its beginning by then, or not.
    name = r"(?:killed by Slurm: rule_simulate/test_siw_|failed: simulate test_siw/)test_siw_0001"
    (log,) = re.findall(name + r": .*exceeded memory limit.*\n(?: +less logs/\S+\n)? +less (\.snakemake/\S+)", told)
    assert "exceeded memory limit" in (workspace.folder / log).read_text()

    tried = len(cluster.jobs(workspace.folder))
    submit(workspace, "--until", "simulate", "--set-resources", more)
    asked = [(job.mem_mb, job.state) for job in cluster.jobs(workspace.folder)[tried:]]
    assert {memory for memory, state in asked if state != "COMPLETED"} == {60}
    assert [memory for memory, state in asked if state == "COMPLETED"] == [1000] * 3


def test_a_job_out_of_time_goes_on_where_it_was(prepared: Workspace, cluster: Cluster) -> None:
    running = started(prepared, MODEL)
    wait_until(lambda: checkpoint(prepared), running)
    hold(prepared, "train/generator/model")
    (job,) = cluster.jobs(prepared.folder)
    slurm("scontrol", "update", f"jobid={job.number}", "endtime=now+3")  # "now" may have passed when it arrives
    finished(prepared, running)
    first, second = cluster.jobs(prepared.folder)
    assert (first.state, second.state) == ("TIMEOUT", "COMPLETED")
    assert second.mem_mb == 2 * first.mem_mb
    assert second.minutes == 2 * 480
    assert went_on(prepared)


def test_a_cancelled_run_resumes(prepared: Workspace, cluster: Cluster) -> None:
    running = started(prepared, MODEL)
    wait_until(lambda: checkpoint(prepared), running)
    hold(prepared, "train/generator/model")
    running.send_signal(signal.SIGINT)
    finished(prepared, running, status=1)
    wait_until(cluster.idle)
    assert [(job.rule, job.state) for job in cluster.jobs(prepared.folder)] == [("train", "CANCELLED")]
    submit(prepared, MODEL)
    assert [(job.rule, job.state) for job in cluster.jobs(prepared.folder)][1:] == [("train", "COMPLETED")]
    assert went_on(prepared)


def test_a_drained_node_delays_a_smoke_run_and_loses_nothing_of_it(
    workspace: Workspace, cluster: Cluster, test_content: dict[str, Any]
) -> None:
    one_run = {"runs": {"representation": test_content["runs"]["representation"]}, "figures": {"draw": []}}
    workspace.configure({**data_only(test_content), **one_run, "smoke": True})
    cluster.set_node("drain")
    try:
        running = started(workspace)
        wait_until(lambda: any(job.state == "PENDING" for job in cluster.jobs(workspace.folder)), running)
    finally:
        cluster.set_node("resume")
    finished(workspace, running)
    jobs = cluster.jobs(workspace.folder)
    assert [job.rule for job in jobs] == ["simulate", "simulate", "data_ingest_preprocess", "merge", "train", "report"]
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert json.loads((workspace.folder / "results/test_smoke/train/representation/model.json").read_text())
    assert [path.name for path in (workspace.folder / "results").iterdir()] == ["test_smoke"]
