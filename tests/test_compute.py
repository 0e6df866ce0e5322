"""Dask's workers: results come in order, and are the same bytes from threads, a cluster and a given scheduler."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data_fixtures import make_part
from pydantic import ValidationError

from pipeline.calorimeter import Showers
from pipeline.config import ComputeSpec, RecipeSpec, SplitSpec
from pipeline.data import preprocess
from pipeline.data.compute import ComputeError, Workers, client_for
from pipeline.data.preprocess import preprocess_part
from pipeline.provenance import tree_digest

RECIPE = RecipeSpec.model_validate([{"rebin": {"factors": [2, 3, 1]}}, {"log": {"epsilon_mev": 1e-3}}, "standardise"])


def square(x: int) -> int:
    if x < 0:
        raise ValueError(f"expected x >= 0, got {x}")
    return x * x


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("n", [1, 3, 20])
def test_results_come_in_the_order_of_the_items(n: int) -> None:
    assert list(Workers(n).in_order(square, range(11))) == [x * x for x in range(11)]
    assert list(Workers(n).in_order(square, [])) == []


def test_an_error_of_one_item_is_raised() -> None:
    with pytest.raises(ValueError, match="expected x >= 0, got -1"):
        list(Workers(2).in_order(square, [1, 2, 3, -1, 5]))


def test_the_next_items_wait_until_results_are_taken() -> None:
    seen: list[int] = []
    results = Workers(2).in_order(lambda x: seen.append(x) or x, range(100))
    assert next(results) == 0
    assert len(seen) <= 4
    results.close()


def test_the_scheduler_changes_no_byte(
    tmp_path: Path,
    make_showers: Callable[..., Showers],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(preprocess, "BLOCK_HITS", 500)
    part = make_part(tmp_path, make_showers(100))

    def made(name: str, spec: ComputeSpec) -> tuple[bytes, bytes, str]:
        out = tmp_path / name / "a.json"
        preprocess_part(part.path, out, RECIPE, SplitSpec(), compute=spec)
        return out.read_bytes(), out.with_suffix(".npz").read_bytes(), tree_digest(out.with_suffix(".zarr"))

    threads = made("threads", ComputeSpec(workers=3))
    with caplog.at_level(logging.INFO):
        assert made("cluster", ComputeSpec(scheduler="distributed", workers=2)) == threads
    assert "dashboard at http://" in caplog.text
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        assert made("address", ComputeSpec(scheduler=cluster.scheduler_address)) == threads


def test_a_local_cluster_works_in_other_processes() -> None:
    with client_for(ComputeSpec(scheduler="distributed", workers=1, dashboard=False)) as workers:
        assert set(workers.in_order(process_of, range(3))) != {os.getpid()}
        with pytest.raises(ValueError, match="expected x >= 0, got -2"):
            list(workers.in_order(square, [1, -2]))


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.compute.CONNECT_SECONDS", 0.3)
    with (
        pytest.raises(ComputeError, match=r"compute\.scheduler: expected a Dask scheduler at tcp://127\.0\.0\.1:9,"),
        client_for(ComputeSpec(scheduler="tcp://127.0.0.1:9")),
    ):
        pass


def test_slurm_without_dask_jobqueue_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with (
        pytest.raises(ComputeError, match=r"compute\.scheduler: expected dask-jobqueue for slurm, found none; pip"),
        client_for(ComputeSpec(scheduler="slurm")),
    ):
        pass


def test_workers_that_slurm_does_not_start_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is full: sbatch takes the jobs and they wait."""
    for name, line in (("sbatch", "cat $1 >>jobs; echo Submitted batch job 7"), ("scancel", "echo $1 >>cancelled")):
        (tmp_path / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    slurm = {"partition": "long", "account": "calo", "memory_mb": 3000, "minutes": 90, "wait_minutes": 0.02}
    with (
        pytest.raises(ComputeError, match=r"expected a worker from Slurm within 0\.02 min, got none; see `squeue` and"),
        client_for(ComputeSpec.model_validate({"scheduler": "slurm", "workers": 2, "slurm": slurm})),
    ):
        pass
    submitted = (tmp_path / "jobs").read_text()
    for words in ("-p long", "-A calo", "--mem=3000M", "-t 01:30:00", "--cpus-per-task=1"):
        assert submitted.count(f"#SBATCH {words}\n") == 2
    assert (tmp_path / "cancelled").read_text().split() == ["7", "7"]


def test_other_schedulers_are_refused() -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        ComputeSpec(scheduler="pbs")
