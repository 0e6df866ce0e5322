"""`snakemake --profile slurm` on a real Slurm of one node with two GPUs that only Slurm sees: `make test-slurm`.

The node is started and stopped by start.sh and stop.sh beside this file (root, Debian). What every test's jobs were,
where they ran, how often and how they ended is kept in logs/slurm-tests.json.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow_fixtures import REPOSITORY, Workspace, environment

pytestmark = pytest.mark.slurm

HERE = Path(__file__).resolve().parent
CONTENT = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
GPU_RULES = {"train", "train_slice", "generate", "predict"}
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue")


@dataclass(frozen=True)
class SlurmJob:
    """One job as Slurm knows it: rule (of a group: all its rules), state, partition, GPUs, memory and time asked."""

    number: int
    rule: str
    state: str
    partition: str
    gpus: int
    mem_mb: int
    minutes: int

    @classmethod
    def parse(cls, line: str) -> SlurmJob:
        """From one line of `scontrol show job --oneliner`."""
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        days, _, clock = fields["TimeLimit"].rpartition("-")
        hours, minutes, _ = (int(x) for x in clock.split(":"))
        gpus = re.search(r"gres:gpu:(\d+)", line)
        memory = re.search(r"mem=(\d+)([MG])", fields["TRES"])
        assert memory is not None, line
        return cls(
            int(fields["JobId"]),
            fields.get("Comment", "").removeprefix("rule_").partition("_wildcards")[0],
            fields["JobState"],
            fields["Partition"],
            int(gpus[1]) if gpus else 0,
            int(memory[1]) * (1024 if memory[2] == "G" else 1),
            int(days or 0) * 1440 + hours * 60 + minutes,
        )


def slurm_jobs(folder: Path) -> list[SlurmJob]:
    """All jobs of a working directory, in the order of their submission."""
    lines = subprocess.run(
        ["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    jobs = [SlurmJob.parse(line) for line in lines if f"WorkDir={folder} " in f"{line} "]
    return sorted(jobs, key=lambda job: job.number)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running Slurm; its logs stay below the folder when a test fails."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a Slurm for the tests needs root on Debian")
    root = tmp_path_factory.mktemp("slurm")
    subprocess.run([str(HERE / "start.sh"), str(root)], check=True)
    yield root
    subprocess.run([str(HERE / "stop.sh"), str(root)], check=False)


@pytest.fixture
def workspace(slurm: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """An empty folder with config/test.yaml and the symlink `slurm`; its jobs are recorded afterwards."""
    workspace = Workspace(tmp_path)
    workspace.configure(CONTENT)
    (tmp_path / "slurm").symlink_to(REPOSITORY / "profiles" / "slurm")
    yield workspace
    record = REPOSITORY / "logs" / "slurm-tests.json"
    record.parent.mkdir(exist_ok=True)
    known = json.loads(record.read_text()) if record.exists() else {}
    known[request.node.name] = [vars(job) for job in slurm_jobs(tmp_path)]
    record.write_text(json.dumps(known, indent=1) + "\n")


def command(workspace: Workspace, *arguments: str) -> list[str]:
    """`snakemake --profile slurm`, with quick polling and a cluster without accounting."""
    words = workspace.command(*arguments)
    cores = words.index("--cores")
    del words[cores : cores + 2]
    return [*words, "--profile", "slurm", *QUICK]


def submit(workspace: Workspace, *arguments: str) -> str:
    """Run to the end; returns what Snakemake printed, raises with it when it fails."""
    done = subprocess.run(
        command(workspace, *arguments),
        cwd=workspace.folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def started(workspace: Workspace, *arguments: str) -> subprocess.Popen[bytes]:
    """Run in the background."""
    with open(workspace.folder / "snakemake.log", "wb") as output:
        return subprocess.Popen(
            command(workspace, *arguments),
            cwd=workspace.folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until(what: Any, seconds: float = 300) -> None:
    """Poll until the function is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.5)


def data_only() -> dict[str, Any]:
    """Simulation, ingest and one preprocessing job per file, nothing trained."""
    content = copy.deepcopy(CONTENT)
    for section in ("runs", "samples", "evaluation"):
        content.pop(section)
    return content


def long_training(samples: int) -> dict[str, Any]:
    """One run long enough to be interrupted, with a checkpoint every few seconds."""
    content = copy.deepcopy(CONTENT)
    content.pop("samples")
    content.pop("evaluation")
    run = content["runs"]["generator"]
    run["slices"] = 1
    run["training"] |= {"samples": samples, "validate_every": samples, "checkpoint_every": 640}
    content["runs"] = {"generator": run}
    return content


def test_the_whole_workflow_and_its_placement(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    submit(workspace)
    jobs = slurm_jobs(workspace.folder)
    assert {job.state for job in jobs} == {"COMPLETED"}
    on_gpu = [job for job in jobs if job.partition == "gpu"]
    assert {job.rule for job in on_gpu} == GPU_RULES
    assert {job.gpus for job in on_gpu} == {1}
    assert {job.gpus for job in jobs if job.partition == "cpu"} == {0}
    assert sum(job.rule == "train_slice" for job in jobs) == 1
    assert len(jobs) < sum(1 for _ in (workspace.folder / "results").rglob("*.pdf")) + 25  # figures travel together
    page = (workspace.folder / "results" / "test" / "report.html").read_text()
    assert "data:image/png;base64," in page

    here = Workspace(tmp_path_factory.mktemp("here"))
    here.configure(CONTENT)
    here.snakemake()
    assert workspace.digests() == here.digests()
    assert workspace.jobs() == {}


def test_a_job_out_of_memory_is_tried_again_with_more(workspace: Workspace) -> None:
    workspace.configure(data_only())
    submit(workspace, "--set-resources", "simulate:mem_mb=60 + 940 * (attempt - 1)")
    asked = [(job.mem_mb, job.state) for job in slurm_jobs(workspace.folder) if job.rule == "simulate"]
    assert {memory for memory, state in asked if state != "COMPLETED"} == {60}
    assert {memory for memory, state in asked if state == "COMPLETED"} == {1000}


def test_a_job_out_of_time_goes_on_where_it_was(workspace: Workspace) -> None:
    workspace.configure(long_training(samples=64000))
    submit(workspace, "--set-resources", "train:runtime=attempt ** 4")
    jobs = [job for job in slurm_jobs(workspace.folder) if job.rule == "train"]
    assert [job.state for job in jobs] == ["TIMEOUT", "COMPLETED"]
    assert [job.minutes for job in jobs] == [1, 16]
    log = (workspace.folder / "logs" / "test" / "train" / "generator.log").read_text()
    assert re.search(r"generator: going on after [1-9]\d* showers", log)


def test_a_cancelled_run_resumes(workspace: Workspace) -> None:
    workspace.configure(long_training(samples=32000))
    running = started(workspace)
    training = workspace.folder / "results" / "test" / "train" / "generator"
    wait_until(lambda: any(training.rglob("*.pt")))
    running.send_signal(signal.SIGINT)
    running.wait(timeout=120)
    wait_until(lambda: not subprocess.check_output(["squeue", "--noheader"]).strip(), 60)
    states = {job.rule: job.state for job in slurm_jobs(workspace.folder)}
    assert states["train"] == "CANCELLED"
    submit(workspace)
    log = (workspace.folder / "logs" / "test" / "train" / "generator.log").read_text()
    assert re.search(r"going on after [1-9]\d* showers", log)
    again = {job.rule for job in slurm_jobs(workspace.folder)[len(states) :]}
    assert "simulate" not in again


def test_a_drained_node_delays_and_loses_nothing(workspace: Workspace) -> None:
    workspace.configure(data_only())
    running = started(workspace)
    node = subprocess.check_output(["hostname", "-s"], text=True).strip()
    wait_until(lambda: len(slurm_jobs(workspace.folder)) > 0)
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"], check=True)
    wait_until(lambda: any(job.state == "PENDING" for job in slurm_jobs(workspace.folder)))
    assert running.poll() is None
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=True)
    assert running.wait(timeout=600) == 0, (workspace.folder / "snakemake.log").read_text()[-4000:]
    assert {job.state for job in slurm_jobs(workspace.folder)} == {"COMPLETED"}
