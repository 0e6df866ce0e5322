"""Configuration of a study: what is asked of pre-trained encoders, on which tasks, with how many labels and seeds.

A study writes its own training runs: for each point of its axis and each seed one of `pretraining` with the point's
changes, and one more on cells permuted within each shower, the control of every study. Everything that decides the
result stands here before the run: numbers of showers, subsets, seeds, compute, and the claims to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.detectors import Cells
from pipeline.config.pretraining import Fraction
from pipeline.config.spec import Spec

PRETRAINED, SHUFFLED, RANDOM, SCRATCH, TUNED = "pretrained", "shuffled", "random", "scratch", "fine_tuned"
ZERO_SHOT = "zero_shot"
CELL_SUM, CORRECTED_SUM = "cell_sum", "corrected_sum"
FEATURES, BOOSTED = "features", "boosted_features"
WITH_CELL_SUM = "+cell_sum"  # of a frozen encoder whose head sees ln E_vis, too
BASELINES = (CELL_SUM, CORRECTED_SUM, FEATURES, BOOSTED)
SUBJECT_OF_BASELINES = "baselines"
LABEL = "incident_energy"  # of every task


class TaskSpec(Spec):
    """The incident energy, from a part of the shower; what is hidden reaches neither networks nor baselines."""

    layers: PositiveInt | None = Field(None, description="only the first layers, of the mesh behind the recipe")
    dead: Fraction | None = Field(None, description="share of dead blocks, drawn for each shower")
    block: Cells | None = Field(None, description="dead: cells of a block along (r, phi, z), behind the recipe")

    @model_validator(mode="after")
    def _one_way(self) -> TaskSpec:
        if (self.dead is None) != (self.block is None):
            raise ValueError(f"task: expected dead and block together, got {self.dead} and {self.block}")
        return self

    def errors_on(self, mesh: Cells) -> list[str]:
        """What is wrong with the task on a mesh of (r, phi, z) cells."""
        errors = []
        if self.layers is not None and self.layers >= mesh[2]:
            errors.append(f"layers: expected less than the {mesh[2]} behind the recipe, got {self.layers}")
        if self.block and any(m % b for m, b in zip(mesh, self.block, strict=True)):
            errors.append(f"block: expected divisors of the mesh {list(mesh)}, got {list(self.block)}")
        return errors


class PointSpec(Spec):
    """One place on the axis of a study."""

    label: str = Field("", description="in tables and figures; default: the point's name")
    value: float | None = Field(None, description="place on a numeric axis; left out: one place after the other")
    scale: dict[str, PositiveFloat] = Field({}, description="sizes, such as parameters: a power law of them is fitted")
    change: dict[str, Any] = Field({}, description="keys of `pretraining` that are other here")


class LabelTrainingSpec(Spec):
    """Networks trained on the labels alone: from scratch, and from the pre-trained encoder."""

    labels: tuple[PositiveInt, ...] = Field(min_length=1, description="some of study.labels")
    arms: tuple[Literal["scratch", "fine_tuned"], ...] = ("scratch", "fine_tuned")
    rates: tuple[PositiveFloat, ...] = Field((3e-4, 1e-3, 3e-3), min_length=1, description="learning rates tried")
    steps: PositiveInt = Field(600, description="of AdamW; the best step is chosen as the rate is, on validation")
    batch_size: PositiveInt = 50
    checks: PositiveInt = Field(20, description="how often the validation showers are looked at")


class ZeroShotSpec(Spec):
    """Heads of pre-trained encoders that were fitted on another data set, and see no label of the study's."""

    data: str = Field(description="data set of the labels; each data set goes through the recipe fitted to itself")
    labels: PositiveInt = Field(1000, description="labelled showers, at most study.pool")


class ClaimSpec(Spec):
    """A contestant's error is smaller than those of others, by a margin; `<arm>` or `<point>/<arm>` names one."""

    task: str
    labels: tuple[PositiveInt, ...] = Field(min_length=1)
    better: str = PRETRAINED
    than: tuple[str, ...] = Field(min_length=1)
    margin: Literal["summed_spreads", "larger_spread"] = "summed_spreads"
    factor: PositiveFloat = Field(1.0, description="times the margin")


class StudySpec(Spec):
    """Frozen encoders with linear heads, compared at few labels with baselines and with controls."""

    question: str
    axis: str = Field("", description="what the points differ in")
    data: str = Field(description="data set of the labelled showers")
    pretraining: dict[str, Any] = Field(description="a run (`runs.<name>`) of a masked_vit, without its seed")
    points: dict[str, PointSpec] = Field({"encoder": PointSpec()}, min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((1, 2, 3), min_length=1, description="of encoders")
    shuffled: bool = Field(True, description="pre-train each encoder on permuted cells, too: the control")
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    labels: tuple[PositiveInt, ...] = Field(min_length=1, description="numbers of labelled showers")
    subsets: PositiveInt = Field(5, description="of labelled showers, drawn from `pool` for each number below it")
    pool: PositiveInt = Field(1000, description="training showers that subsets are drawn from")
    validation: PositiveInt = Field(300, description="validation showers: they choose ridge, rates and steps")
    test: PositiveInt = Field(1000, description="test showers")
    from_labels: LabelTrainingSpec | None = None
    zero_shot: ZeroShotSpec | None = None
    claims: tuple[ClaimSpec, ...] = ()
    seed: int = 1
    version: int = 2

    @model_validator(mode="after")
    def _fits_together(self) -> StudySpec:
        errors = []
        if len({tuple(sorted(point.scale)) for point in self.points.values()}) > 1:
            errors.append("points: expected the same keys of scale at every point, got several; name all or none")
        if max(self.labels) > self.pool:
            errors.append(f"labels: expected at most the pool of {self.pool} showers, got {max(self.labels)}")
        if self.zero_shot and self.zero_shot.labels > self.pool:
            errors.append(
                f"zero_shot.labels: expected at most the pool of {self.pool} showers, got {self.zero_shot.labels}"
            )
        if self.from_labels and not set(self.from_labels.labels) <= set(self.labels):
            errors.append(
                f"from_labels.labels: expected some of {list(self.labels)}, got {list(self.from_labels.labels)}"
            )
        for i, claim in enumerate(self.claims):
            if claim.task not in self.tasks:
                errors.append(f"claims.{i}.task: expected one of {sorted(self.tasks)}, got '{claim.task}'")
            if not set(claim.labels) <= set(self.labels):
                errors.append(f"claims.{i}.labels: expected some of {list(self.labels)}, got {list(claim.labels)}")
            known = self.contestants
            errors += [
                f"claims.{i}: expected contestants among {known}, got '{name}'"
                for name in (claim.better, *claim.than)
                if name not in known
            ]
        if errors:
            raise ValueError("\n".join(errors))
        return self

    @property
    def contestants(self) -> list[str]:
        """What a claim may name: baselines, and each point's networks (by the arm alone where there is one point)."""
        arms = [PRETRAINED, *([SHUFFLED] if self.shuffled else []), RANDOM]
        arms += [f"{arm}{WITH_CELL_SUM}" for arm in arms]
        arms += self.from_labels.arms if self.from_labels else ()
        arms += [ZERO_SHOT] if self.zero_shot else []
        named = [f"{point}/{arm}" for point in self.points for arm in arms]
        return [*BASELINES, *named, *(arms if len(self.points) == 1 else [])]

    def encoders(self) -> dict[str, tuple[str, str, int]]:
        """Point, arm and seed of each training run, by the run's name."""
        kinds = {PRETRAINED: "", **({SHUFFLED: "_shuffled"} if self.shuffled else {})}
        return {
            f"{point}{ending}_seed{seed}": (point, arm, seed)
            for point in self.points
            for arm, ending in kinds.items()
            for seed in self.seeds
        }

    def runs(self) -> dict[str, dict[str, Any]]:
        """The training runs that the study writes, by name, as they would stand under `runs`."""
        written = {}
        for name, (point, arm, seed) in self.encoders().items():
            run = merged(self.pretraining, self.points[point].change)
            if arm == SHUFFLED:
                run = merged(run, {"model": {"shuffle_cells": True}})
            written[name] = run | {"seed": seed}
        return written

    def subsets_of(self, labels: int) -> int:
        """How many subsets of so many labelled showers there are: one where it is the whole pool."""
        return self.subsets if labels < self.pool else 1

    def label_of(self, point: str) -> str:
        """A point's name as a reader sees it."""
        return self.points[point].label or point.replace("_", " ")

    @property
    def labelled_data(self) -> list[str]:
        """Data sets whose labels are read."""
        return [self.data, *([self.zero_shot.data] if self.zero_shot else [])]

    def probe_content(self) -> dict[str, Any]:
        """All of the study that shapes a table of errors: not the question, the claims, or the other encoders."""
        kept = (
            "data",
            "tasks",
            "labels",
            "subsets",
            "pool",
            "validation",
            "test",
            "from_labels",
            "zero_shot",
            "seed",
            "version",
        )
        return self.model_dump(mode="json", include=set(kept))


def merged(content: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the keys of `change` replaced, those of mappings one by one."""
    out = dict(content)
    for key, value in change.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


Study = Annotated[StudySpec | None, Field(description="a study of pre-trained encoders; writes its own runs")]
