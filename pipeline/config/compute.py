"""Configuration of Dask: where blocks of showers are worked on. No result depends on it, so no key holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.config.spec import Spec


class SlurmWorkersSpec(Spec):
    """What each worker asks of Slurm, with `scheduler: slurm`; Dask's own jobqueue.yaml fills what is not said."""

    partition: str | None = Field(None, description="default: Slurm's own")
    account: str | None = Field(None, description="default: Slurm's own")
    memory_mb: PositiveInt = 4000
    minutes: PositiveInt = Field(120, description="time limit; a worker that goes is replaced")
    interface: str | None = Field(None, description="network interface that nodes reach each other by, e.g. ib0")
    wait_minutes: PositiveFloat = Field(60, description="how long the first worker may wait in the queue")


class ComputeSpec(Spec):
    """Where Dask runs the data stages and the evaluation; results are the same to the byte wherever it is."""

    scheduler: Annotated[str, Field(pattern=r"^(threads|distributed|slurm|(tcp|tls|ucx)://\S+)$")] = Field(
        "threads",
        description="threads, distributed (processes here), slurm (workers as jobs), or a scheduler's address (tcp://…)",
    )
    workers: PositiveInt | None = Field(
        None, description="threads, processes or jobs; default: the threads of the job, with slurm 8"
    )
    dashboard: bool = Field(True, description="with distributed and slurm: serve the dashboard; its address is logged")
    slurm: SlurmWorkersSpec = SlurmWorkersSpec()
