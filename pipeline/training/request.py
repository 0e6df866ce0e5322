"""What one training job is: its configuration, its data and its identity.

In: a `TrainRequest` of manifest paths. Out: loaders of the training and validation split, fitted transforms,
the architecture, and the run's digest, which covers everything that decides the weights (and nothing else: not
the number of slices, not how often checkpoints are written).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calorimeter import RaggedShowers
from pipeline.config import AugmentSpec, Config, DiffusionSpec, RunSpec, digest_of
from pipeline.data.store import Part, SplitName, rows_of, training_set
from pipeline.data.transforms import Transform
from pipeline.models import Architecture
from pipeline.provenance import read_json
from pipeline.training.loading import Loader, PrefixSource, Source, StoreSource

VALIDATION_SHOWERS = 1024
_PERPENDICULAR_RAD = 1e-3


class TrainingError(RuntimeError):
    """A training that cannot start or go on; names the run and the key to change."""


@dataclass(frozen=True)
class TrainRequest:
    """One slice (`slice_index` of 1 ... n_slices) of a run.

    parts, prefix, transforms: for each data set of the run the manifests of its parts, those of the same parts
    behind the recipe's prefix, and the merged transform. manifest: the model's JSON, written by the last slice; a
    slice before it writes `<folder>/slice-<k>.json`. folder: metrics, timings and checkpoints.
    """

    run: str
    config: Config
    parts: Mapping[str, Sequence[Path]]
    prefix: Mapping[str, Sequence[Path]]
    transforms: Mapping[str, Path]
    parent: Path | None
    manifest: Path
    folder: Path
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
        if isinstance(model, DiffusionSpec) and transform.n_prefix == len(transform.steps):
            raise TrainingError(
                f"runs.{request.run}.recipe: expected a recipe that ends in standardise for a "
                f"diffusion, got '{request.spec.recipe}' ({name}); add the step standardise"
            )
    return transforms


def architecture_of(request: TrainRequest, transforms: Sequence[Transform]) -> Architecture:
    """The network that the configuration asks for, on the recipe's mesh."""
    config, spec = request.config, request.spec
    domains = tuple((name, config.datasets[name].detector) for name in spec.data)
    return Architecture(
        config.model_of(request.run),
        spec.head,
        transforms[0].mesh.shape,
        domains,
        tuple(dict.fromkeys(detector for _, detector in domains)),
        transforms[0].threshold_mev,
    )


def training_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Loader:
    """The training split: the materialised prefix, or the raw parts where symmetries are drawn."""
    augment = request.spec.training.augment
    raw = augment.rotate_phi or augment.reflect_phi
    sources = [
        _source(request, name, transform, "train", augment if raw else None)
        for name, transform in zip(request.spec.data, transforms, strict=True)
    ]
    return Loader(sources, request.spec.seed + 1000 * request.config.seed)


def validation_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Loader | None:
    """Up to `VALIDATION_SHOWERS` showers of the validation split, or None when a data set has none."""
    names = request.spec.data
    parts = {name: _opened(request.prefix.get(name) or request.parts[name]) for name in names}
    if not all(any(len(rows_of(p, request.config.splits, "validation")) for p in parts[name]) for name in names):
        return None
    sources = [
        _source(request, name, transform, "validation", None) for name, transform in zip(names, transforms, strict=True)
    ]
    return Loader(sources, 0)


def _source(
    request: TrainRequest, name: str, transform: Transform, split: SplitName, augment: AugmentSpec | None
) -> Source:
    prefix = request.prefix.get(name, ())
    if augment is None and prefix:
        parts = _opened(prefix)
        return PrefixSource(_showers(request, parts, split), parts[0].fill, transform)
    showers = _showers(request, _opened(request.parts[name]), split)
    if augment is not None and augment.rotate_phi:
        _check_perpendicular(request.run, name, showers)
    return StoreSource(showers, transform, augment or AugmentSpec())


def _check_perpendicular(run: str, name: str, showers: RaggedShowers) -> None:
    """Rotation in phi is a symmetry of perpendicular showers only."""
    away = np.abs(np.asarray(showers.theta, dtype=np.float64) - math.pi / 2)
    if away.max(initial=0.0) > _PERPENDICULAR_RAD:
        raise TrainingError(
            f"runs.{run}.training.augment.rotate_phi: expected showers at 90 degrees, found one at "
            f"{math.degrees(showers.theta[np.argmax(away)]):g} degrees in data set '{name}'; set rotate_phi: false, "
            "or leave the data set out of the run"
        )


def _opened(manifests: Sequence[Path]) -> list[Part]:
    return [Part.open(path) for path in manifests]


def _showers(request: TrainRequest, parts: Sequence[Part], split: SplitName) -> RaggedShowers:
    limit = request.spec.showers if split == "train" else None
    if split == "validation":
        available = sum(len(rows_of(part, request.config.splits, split)) for part in parts)
        limit = VALIDATION_SHOWERS if available > 2 * VALIDATION_SHOWERS else None
    return training_set(parts, request.config.splits, split, limit)


def lineage_of(request: TrainRequest) -> dict[str, Any]:
    """Digests of everything the weights come from: parts, transforms, parent."""
    parent = None
    if request.parent is not None:
        record = read_json(request.parent)
        parent = {"run": record["run"], "weights_digest": record["weights_digest"]}
    return {
        "parts": {name: [part.digest for part in _opened(request.parts[name])] for name in request.spec.data},
        "transforms": {name: digest_of(read_json(request.transforms[name])) for name in request.spec.data},
        "parent": parent,
    }


def record_of(request: TrainRequest) -> dict[str, Any]:
    """What the model's manifest says of the run: name, spec without the slices, splits, lineage."""
    spec = request.spec.model_dump(mode="json", exclude={"slices": True, "training": {"checkpoint_every"}})
    return {
        "run": request.run,
        "spec": spec,
        "seed": request.config.seed,
        "model": request.config.model_of(request.run).model_dump(mode="json"),
        "splits": request.config.splits.model_dump(mode="json"),
        "lineage": lineage_of(request),
    }
