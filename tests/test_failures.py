"""What failed is told with its reason and the command that shows its log, Slurm's own log included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from workflow_fixtures import REPOSITORY

from pipeline.config import load_config
from pipeline.failures import failures
from pipeline.jobs import JOBS, recorded
from pipeline.plan import Plan


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return Plan.discover(load_config(REPOSITORY / "config" / "test.yaml"))


def fail(plan: Plan, stage: str, reason: str, **about: object) -> None:
    with pytest.raises(RuntimeError, match=reason), recorded(plan, JOBS[stage](plan, **about)):
        raise RuntimeError(reason)


def test_nothing_failed(plan) -> None:
    assert failures(plan) == []


def test_reason_and_log_of_each_failed_job_in_the_order_of_work(plan) -> None:
    fail(plan, "train", "no loss", run="generator", slice=1)
    fail(plan, "ingest", "no cells", dataset="test_siw", part="test_siw_0002")
    folder = plan.paths.dataset_folder("test_siw")
    assert failures(plan) == [
        "failed: ingest test_siw/test_siw_0002: no cells",
        f"    less logs/ingest/{folder}/test_siw_0002.log",
        "failed: train generator: no loss",
        "    less logs/test/train/generator-1.log",
    ]


def test_the_newest_of_slurms_logs_that_names_the_jobs_log(plan) -> None:
    fail(plan, "train", "killed", run="energy")
    for number, log in enumerate(("logs/test/train/energy.log", "logs/test/train/energy.log", "logs/other.log"), 1):
        slurm_log(f"rule_train/{number}.log", f"    log: {log} (check log file(s) for error details)\n", number)
    assert failures(plan)[1:] == [
        "    less logs/test/train/energy.log",
        "    less .snakemake/slurm_logs/rule_train/2.log",
    ]


def slurm_log(name: str, text: str, seconds: float) -> None:
    path = Path(".snakemake/slurm_logs") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (seconds, seconds))


def test_a_job_that_slurm_killed_before_it_could_leave_a_record(plan) -> None:
    text = "slurmstepd: error: Exceeded job memory limit\nBye\n"
    slurm_log("rule_simulate/siw_siw_0001/7.log", text, seconds=50)
    slurm_log("rule_simulate/siw_siw_0002/3.log", text, seconds=40)
    slurm_log("rule_simulate/siw_siw_0003/8.log", "cancelled by the user\n", seconds=60)
    assert failures(plan, since=45) == [
        "killed by Slurm: rule_simulate/siw_siw_0001: slurmstepd: error: Exceeded job memory limit",
        "    less .snakemake/slurm_logs/rule_simulate/siw_siw_0001/7.log",
    ]


@pytest.mark.parametrize(
    ("cause", "others"),
    [
        (
            "slurmstepd-n1: error: StepId=7.batch exceeded memory limit (90 > 60), being killed",
            ("Exceeded job memory limit",),
        ),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***", ()),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.", ()),
    ],
)
def test_slurms_cause_is_told_wherever_it_stands_and_whoever_tells_the_failure(plan, cause, others) -> None:
    cancelled = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-02T03:04:05 ***"
    fail(plan, "train", "the process ended without a word", run="energy")
    for number, lines in enumerate(((cause, *others, cancelled), (cancelled, cause, *others)), 1):
        text = "\n".join(("log: logs/test/train/energy.log (check log file(s))", *lines, "Bye", ""))
        slurm_log("rule_train/1.log", text, number)
        slurm_log("rule_simulate/siw_siw_0001/7.log", "\n".join(lines), number)
        assert failures(plan) == [
            f"failed: train energy: the process ended without a word ({cause})",
            "    less logs/test/train/energy.log",
            "    less .snakemake/slurm_logs/rule_train/1.log",
            f"killed by Slurm: rule_simulate/siw_siw_0001: {cause}",
            "    less .snakemake/slurm_logs/rule_simulate/siw_siw_0001/7.log",
        ]


def test_many_failures_are_counted(plan) -> None:
    for figure in plan.figures():
        fail(plan, "figures", "no font", figure=figure)
    told = failures(plan)
    assert sum(line.startswith("failed: ") for line in told) == 10
    assert told[-1] == f"and {len(plan.figures()) - 10} more: caloforge status test"
