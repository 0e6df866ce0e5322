"""Configuration of one training over several processes; results change by rounding alone, so no digest holds it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from pipeline.config.spec import Spec


class ParallelSpec(Spec):
    """How a batch is shared between processes and pieces, and how its gradients are computed."""

    processes: PositiveInt | Literal["gpus"] = Field(
        1, description="one per GPU, each with its share of batch_size; gpus: as many as the job sees"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="every process holds the whole network (ddp), or its share of it (fsdp)"
    )
    accumulate: PositiveInt = Field(1, description="pieces of a process's share, one after another: less memory")
    recompute: bool = Field(False, description="keep no activations inside blocks, compute them twice: less memory")
    compile: bool = Field(False, description="compile each block; for trainings of more than some minutes")

    @property
    def parts(self) -> int:
        """Into how many equal parts a batch is cut, as far as the configuration knows."""
        return (1 if self.processes == "gpus" else self.processes) * self.accumulate
