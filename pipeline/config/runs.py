"""Configuration of training runs and their models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.adaptation import AdaptSpec, HeadSpec, ReplaySpec
from pipeline.config.autoencoders import AutoregressiveSpec, VAESpec, VQVAESpec
from pipeline.config.generators import ConsistencySpec, DiffusionSpec
from pipeline.config.parallel import ParallelSpec
from pipeline.config.pretraining import MaskedViTSpec
from pipeline.config.spec import Spec, digest_of

Model = Annotated[
    MaskedViTSpec | DiffusionSpec | ConsistencySpec | VAESpec | VQVAESpec | AutoregressiveSpec,
    Field(discriminator="name"),
]


class AugmentSpec(Spec):
    """Random symmetries applied while loading, on the raw mesh and before any rebinning.

    Rotation is exact at 90 degrees only; a tilted data set allows the reflection alone.
    """

    rotate_phi: bool = False
    reflect_phi: bool = False


class TrainingSpec(Spec):
    """How long and how to train; everything is counted in samples."""

    samples: PositiveInt = Field(description="showers seen in total")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegativeFloat = 0.01
    warmup_samples: NonNegativeInt = 2000
    clip: PositiveFloat = Field(1.0, description="largest gradient norm")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.998, description="decay per step; 0: no average")
    validate_every: PositiveInt = Field(20000, description="samples between validations")
    checkpoint_every: PositiveInt = Field(20000, description="samples between checkpoints")
    threads: PositiveInt = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    augment: AugmentSpec = AugmentSpec()
    loading: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="all showers in memory, or random pieces of the parts; auto: in memory if they need no more than "
        "memory_gb. The showers are the same, their order is not",
    )
    memory_gb: PositiveFloat = Field(8.0, description="budget of the loader in each process, 1e9 bytes")
    keep_checkpoints: PositiveInt = Field(2, description="how many of the newest are kept")
    parallel: ParallelSpec = ParallelSpec()

    @model_validator(mode="after")
    def _shared_equally(self) -> TrainingSpec:
        if self.batch_size % self.parallel.parts:
            raise ValueError(
                f"batch_size: expected a multiple of parallel.processes x parallel.accumulate = {self.parallel.parts}, "
                f"got {self.batch_size}"
            )
        return self


class RunSpec(Spec):
    """One training job; `start_from` makes it continue from another run's weights."""

    model: Model | None = Field(None, description="the network; left out with start_from: the parent's")
    start_from: str | None = None
    head: HeadSpec | None = None
    freeze: Literal["none", "encoder"] = "none"
    adapt: AdaptSpec = AdaptSpec()
    data: tuple[str, ...] = Field(min_length=1)
    recipe: str
    showers: PositiveInt | None = Field(
        None, description="train on the first N training showers of each data set only; replayed ones have their own N"
    )
    replay: ReplaySpec | None = None
    training: TrainingSpec
    slices: PositiveInt = Field(1, description="cut the training into this many chained jobs")
    seed: int = 1
    version: int = 2

    def training_digest(self) -> str:
        """Digest of all that shapes the training; slices, processes and kept checkpoints do not.

        Defaults are left out, so that an option added tomorrow moves no run of today; a change of what a default
        means bumps `version`, which is always in.
        """
        left_out: Any = {"slices": True, "training": {"parallel", "keep_checkpoints"}}
        content = self.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        return digest_of([content, self.model.name if self.model else None, self.version])
