"""Configuration of a study of generators: what training on an old detector is worth on a new one.

It writes its own runs and samples. For each seed a generator is trained on the old data set; then, for each number of
showers of the new one and each seed, generators from scratch (once, and for several times the samples: the best of them
on validation showers is its plateau) and from the old generator: fine-tuned, with its blocks frozen, and without any
step. Beside them stand the same few showers resampled, and the old detector's showers as they are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.config.spec import Spec
from pipeline.config.study import merged

SCRATCH, PLATEAU, TUNED, FROZEN, ZERO_SHOT = "scratch", "plateau", "fine_tuned", "frozen", "zero_shot"
RESAMPLED, OLD_SHOWERS = "resampled", "old_showers"
LOWER_IS_BETTER = ("sliced_wasserstein", "fpd", "kpd", "separation_power", "l1", "wasserstein", "distance")
_STANDS_STILL = 1e-9  # share of the learning rate: 2e-12 a step is below the spacing of the weights


class GeneratorStudySpec(Spec):
    """Generators carried from one detector to another, over the number of showers of the new one."""

    question: str
    old: str = Field(description="data set of the detector that generators are trained on first")
    new: str = Field(description="data set of the new detector: evaluation.reference")
    pretraining: dict[str, Any] = Field(description="a run (`runs.<name>`) of a generator, without data and seed")
    training: dict[str, Any] = Field({}, description="keys of pretraining.training that are other on the new data")
    fine_tuning: dict[str, Any] = Field({}, description="`adapt` of the fine-tuned runs; left out: every weight")
    showers: tuple[PositiveInt, ...] = Field(min_length=1, description="rising numbers of showers of the new data set")
    plateau: tuple[PositiveInt, ...] = Field(
        (1, 3), min_length=1, description="scratch is trained for so many times the samples; the best is its plateau"
    )
    seeds: tuple[NonNegativeInt, ...] = Field((1, 2), min_length=2, description="of trainings")
    sampling: dict[str, Any] = Field({}, description="keys of every sample, such as steps")
    scores: tuple[str, ...] = Field(
        ("features/sliced_wasserstein",),
        min_length=1,
        description="<observable>/<metric> of the metric rows, smaller is better; the first one is judged",
    )
    version: int = 1

    @model_validator(mode="after")
    def _fits_together(self) -> GeneratorStudySpec:
        errors = []
        if list(self.showers) != sorted(set(self.showers)):
            errors.append(f"showers: expected rising numbers, got {list(self.showers)}")
        if 1 not in self.plateau:
            errors.append(f"plateau: expected 1, the equal steps, among the factors, got {list(self.plateau)}")
        if self.old == self.new:
            errors.append(f"new: expected another data set than old, got '{self.new}' twice")
        for score in self.scores:
            metric = score.partition("/")[2]
            if not metric.startswith("auc_") and metric not in LOWER_IS_BETTER:
                errors.append(f"scores: expected <observable>/ and auc_... or one of {LOWER_IS_BETTER}, got '{score}'")
        if errors:
            raise ValueError("\n".join(errors))
        return self

    def trained(self) -> dict[str, tuple[str, int, int, int]]:
        """Arm, factor of its samples, showers and seed of each run on the new data, by the run's name."""
        arms = {
            **{f"scratch_x{factor}": (SCRATCH, factor) for factor in self.plateau},
            **{arm: (arm, 1) for arm in (TUNED, FROZEN, ZERO_SHOT)},
        }
        return {
            f"{name}_n{n}_seed{seed}": (*arm, n, seed)
            for name, arm in arms.items()
            for n in self.showers
            for seed in self.seeds
        }

    def runs(self) -> dict[str, dict[str, Any]]:
        """The training runs that the study writes, by name, as they would stand under `runs`."""
        first = {f"old_seed{seed}": {**self.pretraining, "data": [self.old], "seed": seed} for seed in self.seeds}
        return {**first, **{name: self._run(*place) for name, place in self.trained().items()}}

    def _run(self, arm: str, factor: int, showers: int, seed: int) -> dict[str, Any]:
        run = merged(self.pretraining, {"training": self.training})
        run |= {"data": [self.new], "showers": showers, "seed": seed}
        training: dict[str, Any] = dict(run["training"])
        training["samples"] = factor * int(training["samples"])
        if arm != SCRATCH:
            run.pop("model", None)
            run["start_from"] = f"old_seed{seed}"
        if arm == TUNED:
            run["adapt"] = dict(self.fine_tuning)
        if arm == FROZEN:
            run["freeze"] = "encoder"
        if arm == ZERO_SHOT:
            run["adapt"] = {"rate": _STANDS_STILL}
            training |= {"samples": training.get("batch_size", 64), "weight_decay": 0.0}
        return {**run, "training": training}

    def samples(self) -> dict[str, dict[str, Any]]:
        """The samples that the study writes, by name: of each run on the new data, and those without a network."""
        made: dict[str, dict[str, Any]] = {
            name: {**self.sampling, "run": name, "seed": seed} for name, (*_, seed) in self.trained().items()
        }
        made |= {resampled(n): {"baseline": "nearest_energy", "showers": n} for n in self.showers}
        return made | {OLD_SHOWERS: {"baseline": "nearest_energy", "data": self.old}}


def resampled(showers: int) -> str:
    """The sample of the same few showers, used again."""
    return f"{RESAMPLED}_n{showers}"


GeneratorStudy = Annotated[
    GeneratorStudySpec | None, Field(description="a study of generators; writes its own runs and samples")
]
