"""From the manifests of a `TrainRequest` to the loaders of its training and validation split.

In: parts, the same parts behind the recipe's prefix, and the fitted transforms. Out: loaders in memory. Showers come
from the prefix where the random symmetries commute with the recipe, otherwise from the raw parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentSpec
from pipeline.data.hitwise import commutes_with_phi
from pipeline.data.store import Part, SplitName, rows_of, training_set
from pipeline.data.transforms import Transform
from pipeline.training.loading import Loader
from pipeline.training.request import TrainingError, TrainRequest
from pipeline.training.sources import Source, StoreSource, prefix_source

VALIDATION_SHOWERS = 1024
_PERPENDICULAR_RAD = 1e-3


def training_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Loader:
    """The training split, in memory."""
    augment = request.spec.training.augment
    sources = [_source(request, name, t, "train") for name, t in zip(request.spec.data, transforms, strict=True)]
    return Loader(sources, request.spec.seed + 1000 * request.config.seed, augment)


def validation_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Loader | None:
    """Up to `VALIDATION_SHOWERS` showers of the validation split, or None when a data set has none."""
    names = request.spec.data
    parts = {name: _opened(request.prefix.get(name) or request.parts[name]) for name in names}
    if not all(any(len(rows_of(p, request.config.splits, "validation")) for p in parts[name]) for name in names):
        return None
    sources = [_source(request, name, t, "validation") for name, t in zip(names, transforms, strict=True)]
    return Loader(sources, 0)


def _source(request: TrainRequest, name: str, transform: Transform, split: SplitName) -> Source:
    augment = request.spec.training.augment if split == "train" else AugmentSpec()
    turns = augment.rotate_phi or augment.reflect_phi
    prefix = request.prefix.get(name, ())
    from_prefix = bool(prefix) and (commutes_with_phi(transform) or not turns)
    parts = _opened(prefix if from_prefix else request.parts[name])
    showers = training_set(parts, request.config.splits, split, _limit(request, parts, split))
    if augment.rotate_phi:
        _check_perpendicular(request.run, name, showers.theta)
    return prefix_source(showers, parts[0].fill, transform) if from_prefix else StoreSource(showers, transform)


def _check_perpendicular(run: str, name: str, theta: NDArray[np.floating]) -> None:
    """Rotation in phi is a symmetry of perpendicular showers only."""
    away = np.abs(np.asarray(theta, dtype=np.float64) - math.pi / 2)
    if away.max(initial=0.0) > _PERPENDICULAR_RAD:
        raise TrainingError(
            f"runs.{run}.training.augment.rotate_phi: expected showers at 90 degrees, found one at "
            f"{math.degrees(theta[np.argmax(away)]):g} degrees in data set '{name}'; set rotate_phi: false, "
            "or leave the data set out of the run"
        )


def _opened(manifests: Sequence[Path]) -> list[Part]:
    return [Part.open(path) for path in manifests]


def _limit(request: TrainRequest, parts: Sequence[Part], split: SplitName) -> int | None:
    """How many showers of a split are taken, those with the smallest hashes; None: all."""
    if split == "train":
        return request.spec.showers
    available = sum(len(rows_of(part, request.config.splits, split)) for part in parts)
    return VALIDATION_SHOWERS if available > 2 * VALIDATION_SHOWERS else None
