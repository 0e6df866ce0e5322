"""Configuration of Dask: where blocks of showers are worked on. No result depends on it, so no key holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.config.spec import Spec


class ComputeSpec(Spec):
    """Where Dask runs the data stages and the evaluation; results are the same to the byte wherever it is."""

    scheduler: Annotated[str, Field(pattern=r"^(threads|distributed|(tcp|tls|ucx)://\S+)$")] = Field(
        "threads", description="threads, distributed (a cluster of processes here), or a scheduler's address (tcp://…)"
    )
    workers: PositiveInt | None = Field(None, description="threads or processes; default: the threads of the job")
    dashboard: bool = Field(True, description="with distributed: serve the dashboard, whose address is logged")
