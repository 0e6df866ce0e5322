"""What the tests ask of Slurm: its jobs with their states and devices, and `snakemake --profile slurm` in a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from workflow_fixtures import REPOSITORY, Workspace, environment

SECONDS = 900
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")
RECORD = REPOSITORY / "logs" / "slurm-tests.json"
_RUNNING: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class SlurmJob:
    """One job as Slurm knows it: what it runs, its state, where, what it asked for, and when it ran (ISO times).

    `rule`: the rule, or of a group all its rules; `about`: the wildcards; `devices`: CUDA_VISIBLE_DEVICES of its tasks.
    """

    number: int
    rule: str
    about: str
    state: str
    partition: str
    gpus: int
    devices: tuple[str, ...]
    mem_mb: int
    minutes: int
    start: str
    end: str

    @classmethod
    def parse(cls, line: str, devices: dict[int, set[str]]) -> SlurmJob:
        """From one line of `scontrol show job --oneliner`."""
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        days, _, clock = fields["TimeLimit"].rpartition("-")
        hours, minutes, _ = (int(x) for x in clock.split(":"))
        gpus = re.search(r"gres:gpu:(\d+)", line)
        memory = re.search(r"mem=(\d+)([MG])", fields["TRES"])
        assert memory is not None, line
        rule, _, about = fields.get("Comment", fields["JobName"]).removeprefix("rule_").partition("_wildcards_")
        number = int(fields["JobId"])
        return cls(
            number,
            rule,
            about,
            fields["JobState"],
            fields["Partition"],
            int(gpus[1]) if gpus else 0,
            tuple(sorted(devices.get(number, ()))),
            int(memory[1]) * (1024 if memory[2] == "G" else 1),
            int(days or 0) * 1440 + hours * 60 + minutes,
            fields["StartTime"],
            fields["EndTime"],
        )

    def beside(self, other: SlurmJob) -> bool:
        """Whether both ran at one time."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class Cluster:
    """A running Slurm of one node, everything of which lies below `root`."""

    root: Path

    @property
    def node(self) -> str:
        """The node's name."""
        return os.uname().nodename.partition(".")[0]

    def jobs(self, folder: Path) -> list[SlurmJob]:
        """All jobs of a working directory, in the order of their submission."""
        lines = slurm("scontrol", "show", "job", "--oneliner").splitlines()
        devices: dict[int, set[str]] = {}
        for line in (self.root / "log" / "devices.txt").read_text().splitlines():
            number, _, visible = line.partition(" ")
            devices.setdefault(int(number), set()).add(visible)
        jobs = [SlurmJob.parse(line, devices) for line in lines if f"WorkDir={folder} " in f"{line} "]
        return sorted(jobs, key=lambda job: job.number)

    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not slurm("squeue", "--noheader").strip()

    def clear(self) -> None:
        """Cancel what a test that failed left, so that the next one finds an idle cluster."""
        if not self.idle():
            slurm("scancel", "--user", "root")
            wait_until(self.idle, seconds=120)

    def set_node(self, state: str) -> None:
        """Drain the node, or take it back."""
        slurm("scontrol", "update", f"nodename={self.node}", f"state={state}", "reason=test")

    def record(self, test: str, folder: Path) -> None:
        """Keep the test's jobs in logs/slurm-tests.json, each with how often its like was submitted before it.

        That number is the retries of a run that was started once; a group's name says nothing of its files: None.
        """
        jobs, before = [], Counter[tuple[str, str]]()
        for job in self.jobs(folder):
            is_group = job.rule in ("data_ingest_preprocess", "figures_figures")
            jobs.append({**asdict(job), "submitted_before": None if is_group else before[job.rule, job.about]})
            before[job.rule, job.about] += 1
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps({**known, test: jobs}, indent=1) + "\n")


def slurm(*command: str) -> str:
    """What one of Slurm's commands answers."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def command(workspace: Workspace, *arguments: str) -> list[str]:
    """`snakemake --profile slurm`, with quick polling."""
    words = workspace.command(*arguments)
    cores = words.index("--cores")
    words[cores : cores + 2] = ["--profile", "slurm", *QUICK]
    return words


def started(workspace: Workspace, *arguments: str) -> subprocess.Popen[bytes]:
    """Run in the background; what it prints is in snakemake.log."""
    with open(workspace.folder / "snakemake.log", "wb") as output:
        running = subprocess.Popen(
            command(workspace, *arguments),
            cwd=workspace.folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_listen,
        )
    _RUNNING.append(running)
    return running


def stop_all() -> None:
    """End what a test that failed left running; its jobs are cancelled."""
    while _RUNNING:
        if (running := _RUNNING.pop()).poll() is None:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def _listen() -> None:
    """Hear Ctrl-C, also where the tests run in the background of a shell, which makes its children deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(workspace: Workspace, running: subprocess.Popen[bytes], status: int = 0) -> str:
    """Wait for its end, which must have this exit status; returns what it printed."""
    try:
        running.wait(SECONDS)
    finally:
        if running.poll() is None:
            running.kill()
        printed = (workspace.folder / "snakemake.log").read_text()
    assert running.returncode == status, printed[-6000:]
    return printed


def submit(workspace: Workspace, *arguments: str, status: int = 0) -> str:
    """Run to the end; returns what Snakemake printed."""
    return finished(workspace, started(workspace, *arguments), status)


def wait_until(what: Callable[[], object], running: subprocess.Popen[bytes] | None = None, seconds: int = 300) -> None:
    """Poll until the function is true, while the process runs."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"gave up waiting after {seconds} s"
        assert running is None or running.poll() is None, f"{running} ended before"
        time.sleep(0.2)


def hold(workspace: Workspace, job: str) -> None:
    """Stop a running job's process where it is, as a hanging file system would: it ends by Slurm's hand only."""
    record = workspace.folder / "logs" / "test" / f"{job}.error.json"
    os.kill(json.loads(record.read_text())["process"], signal.SIGSTOP)
