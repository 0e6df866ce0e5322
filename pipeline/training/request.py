"""What one training job is: its configuration, its data and its identity.

In: a `TrainRequest` of manifest paths. Out: fitted transforms, the architecture, and the run's digest, which covers
everything that decides the weights (and nothing else: not the number of slices or processes, not how often
checkpoints are written). `datasets` opens the showers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Config, RunSpec, digest_of
from pipeline.data.store import Part
from pipeline.data.transforms import Transform
from pipeline.models import Architecture
from pipeline.models.detectors import Descriptor, descriptor
from pipeline.provenance import read_json


class TrainingError(RuntimeError):
    """A training that cannot start or go on; names the run and the key to change."""


@dataclass(frozen=True)
class TrainRequest:
    """One slice (`slice_index` of 1 ... n_slices) of a run.

    parts, prefix, transforms: for each data set of the run the manifests of its parts, those of the same parts
    behind the recipe's prefix, and the merged transform. manifest: the model's JSON, written by the last slice; a
    slice before it writes `<folder>/slice-<k>.json`. parent: the model to continue; model_parents: those that the
    network is built on, by role. folder: metrics, timings and checkpoints.
    """

    run: str
    config: Config
    parts: Mapping[str, Sequence[Path]]
    prefix: Mapping[str, Sequence[Path]]
    transforms: Mapping[str, Path]
    parent: Path | None
    manifest: Path
    folder: Path
    model_parents: Mapping[str, Path] = field(default_factory=dict)
    slice_index: int = 1
    n_slices: int = 1

    @property
    def spec(self) -> RunSpec:
        """The run's configuration."""
        return self.config.runs[self.run]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return -(-self.spec.training.samples // self.spec.training.batch_size)

    @property
    def stop_at(self) -> int:
        """Samples seen when this slice ends."""
        return self.steps * self.slice_index // self.n_slices * self.spec.training.batch_size


def fitted_transforms(request: TrainRequest) -> list[Transform]:
    """The transforms in the order of the run's data sets."""
    transforms = [Transform.from_state(read_json(request.transforms[name])) for name in request.spec.data]
    model = request.config.model_of(request.run)
    for name, transform in zip(request.spec.data, transforms, strict=True):
        if model.needs_standardised and not transform.standardises:
            raise TrainingError(
                f"runs.{request.run}.recipe: expected a recipe that ends in standardise for a "
                f"{model.name}, got '{request.spec.recipe}' ({name}); add the step standardise"
            )
    return transforms


def architecture_of(
    request: TrainRequest, transforms: Sequence[Transform], parents: Mapping[str, Architecture] | None = None
) -> Architecture:
    """The network that the configuration asks for, on the recipe's mesh; `parents` it is built on, by role."""
    config, spec = request.config, request.spec
    domains = tuple((name, config.datasets[name].detector) for name in spec.data)
    model = config.model_of(request.run)
    descriptors: tuple[Descriptor, ...] = ()
    embedding = getattr(model, "detector_embedding", None)
    if embedding is not None and not embedding.is_plain:
        recipe = config.preprocessing[spec.recipe]
        meshes = {name: recipe.mesh_after(config.raw_mesh(name)) for name in spec.data}
        descriptors = tuple(descriptor(config.detector(detector), meshes[name]) for name, detector in domains)
    tells_particles = spec.head is not None and spec.head.predict == "particle"
    reads_particles = tells_particles or "particle" in getattr(model, "conditions", ())
    return Architecture(
        model,
        spec.head,
        transforms[0].mesh.shape,
        domains,
        tuple(dict.fromkeys(detector for _, detector in domains)),
        transforms[0].threshold_mev,
        parents or {},
        tuple(config.particle(name) for name in spec.data) if reads_particles else (),
        descriptors,
    )


def lineage_of(request: TrainRequest) -> dict[str, Any]:
    """Digests of everything the weights come from: parts, transforms, parent."""

    def origin(path: Path) -> dict[str, str]:
        record = read_json(path)
        return {"run": record["run"], "weights_digest": record["weights_digest"]}

    parents = {role: origin(path) for role, path in request.model_parents.items()}
    return {
        "parts": {name: [part.digest for part in map(Part.open, request.parts[name])] for name in request.spec.data},
        "transforms": {name: digest_of(read_json(request.transforms[name])) for name in request.spec.data},
        "parent": origin(request.parent) if request.parent is not None else None,
        **({"model_parents": parents} if parents else {}),
    }


def record_of(request: TrainRequest, order: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's manifest says of the run: name, spec without the slices, order of the showers, lineage.

    `order` is the loader's: a budget that does not change the order does not change the run.
    """
    how = {"checkpoint_every", "keep_checkpoints", "loading", "memory_gb", "parallel"}
    left_out: Any = {"slices": True, "training": how}
    return {
        "run": request.run,
        "spec": request.spec.model_dump(mode="json", exclude=left_out),
        "loading": dict(order),
        "seed": request.config.seed,
        "model": request.config.model_of(request.run).model_dump(mode="json"),
        "splits": request.config.splits.model_dump(mode="json"),
        "lineage": lineage_of(request),
    }
