"""Where Dask runs: threads of this process, processes on this machine, jobs of Slurm, or a scheduler given by address.

In: a picklable function and the items to call it with. Out: its results in the items' order, whichever worker was
first, so that reducing them gives the same bits everywhere. At most `AHEAD` results per worker wait in memory. Workers
on other machines must see the same files and the same version of this package (docs.dask.org, "Deploy Dask clusters";
jobqueue.dask.org).
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dask import threaded
from dask.base import compute
from dask.delayed import delayed

from pipeline.config import ComputeSpec, SlurmWorkersSpec

log = logging.getLogger(__name__)
AHEAD = 2
CONNECT_SECONDS = 10
SLURM_WORKERS = 8
SLURM_LOGS = "logs/dask"
_MOST_THREADS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class ComputeError(RuntimeError):
    """A scheduler that cannot be reached; names the key to change."""


@dataclass(frozen=True)
class Workers:
    """`n` workers: threads of this process, or those behind a Dask client."""

    n: int
    client: Any = None

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`function(item)` for each item, in the items' order; an exception of any of them is raised here."""
        if self.client is not None:
            return _window(lambda item: self.client.submit(function, item, pure=False), items, AHEAD * self.n)
        return _in_threads(function, items, self.n)


@contextmanager
def client_for(spec: ComputeSpec, threads: int | None = None) -> Iterator[Workers]:
    """The workers that `compute:` asks for; a cluster of our own ends with the block.

    `threads`: what the job may use, default the CPUs of this process, at most 4; `compute.workers` goes before it.
    """
    n = spec.workers or threads or default_threads()
    if spec.scheduler == "threads":
        yield Workers(n)
    elif spec.scheduler == "distributed":
        with _local_cluster(n, spec.dashboard) as client:
            yield Workers(n, client)
    elif spec.scheduler == "slurm":
        with _slurm_cluster(spec.workers or SLURM_WORKERS, spec.slurm, spec.dashboard) as client:
            yield Workers(spec.workers or SLURM_WORKERS, client)
    else:
        with _connected(spec.scheduler) as client:
            yield Workers(max(1, sum(client.nthreads().values())), client)


def default_threads() -> int:
    """The CPUs that this process may use, at most 4."""
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextmanager
def _local_cluster(n: int, dashboard: bool) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every process that comes and goes
    address = ":0" if dashboard else None
    options = {"threads_per_worker": 1, "dashboard_address": address, "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=n, **options) as own, Client(own) as client:  # type: ignore[no-untyped-call]
        if dashboard:
            log.info("Dask: %d processes, dashboard at %s", n, client.dashboard_link)
        yield client


@contextmanager
def _slurm_cluster(n: int, spec: SlurmWorkersSpec, dashboard: bool) -> Iterator[Any]:
    """n jobs of one worker with one thread each; work begins with the first that comes, and all end with the block."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise ComputeError(
            "compute.scheduler: expected dask-jobqueue for slurm, found none; pip install 'caloforge[slurm]', "
            "or set `scheduler: distributed`"
        ) from None
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.WARNING)
    minutes = f"{spec.minutes // 60:02d}:{spec.minutes % 60:02d}:00"
    with (
        SLURMCluster(
            n_workers=n,
            cores=1,
            processes=1,
            memory=f"{spec.memory_mb}MB",
            job_mem=f"{spec.memory_mb}M",
            walltime=minutes,
            queue=spec.partition,
            account=spec.account,
            interface=spec.interface,
            nanny=False,
            python=sys.executable,
            job_name="caloforge-dask",
            job_script_prologue=["export OMP_NUM_THREADS=1"],
            log_directory=SLURM_LOGS,
            scheduler_options={"dashboard": dashboard, "dashboard_address": ":0"},
        ) as own,
        Client(own) as client,  # type: ignore[no-untyped-call]
    ):
        try:
            client.wait_for_workers(1, timeout=60 * spec.wait_minutes)
        except TimeoutError:
            raise ComputeError(
                f"compute.scheduler: expected a worker from Slurm within {spec.wait_minutes:g} min, got none; see "
                f"`squeue` and {SLURM_LOGS}, raise compute.slurm.wait_minutes, or set `scheduler: threads`"
            ) from None
        log.info("Dask: up to %d jobs of Slurm, dashboard at %s", n, client.dashboard_link)
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        client = Client(address, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise ComputeError(
            f"compute.scheduler: expected a Dask scheduler at {address}, found none that answers ({error}); "
            "start one with `dask scheduler`, or set `scheduler: threads`"
        ) from None
    with client:
        log.info("Dask: scheduler %s, dashboard at %s", address, client.dashboard_link)
        yield client


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item], n: int) -> Iterator[Result]:
    """Dask's threads, which take the next item while the results of others wait: waves of items would wait for all."""
    work = delayed(function, pure=False)
    with ThreadPoolExecutor(n) as pool, ThreadPoolExecutor(AHEAD * n) as ahead:

        def result(item: Item) -> Result:
            (found,) = compute(work(item), scheduler=threaded.get, pool=pool)  # type: ignore[no-untyped-call]
            return cast("Result", found)

        yield from _window(lambda item: ahead.submit(result, item), items, AHEAD * n)


def _window(submit: Callable[[Item], Any], items: Iterable[Item], size: int) -> Iterator[Any]:
    """Results of futures in the items' order, at most `size` of them at a time."""
    waiting = deque[Any]()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= size:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
