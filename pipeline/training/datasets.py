"""From the manifests of a `TrainRequest` to the loaders of its training and validation split.

In: parts, the same parts behind the recipe's prefix, and the fitted transforms. Out: a loader in memory, or one that
streams. Which of them depends on the configuration and on the number of hits, never on the machine, for they give
the showers in another order; dense or as hits, they are the same in memory. Showers come from the prefix where the
random symmetries commute with the recipe, otherwise from the raw parts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentSpec
from pipeline.data.hitwise import commutes_with_phi
from pipeline.data.store import Part, SplitName, rows_of, training_rows
from pipeline.data.transforms import Transform
from pipeline.training.loading import Batches, Loader
from pipeline.training.replay import Replay
from pipeline.training.request import TrainingError, TrainRequest
from pipeline.training.stored import StoredShowers, total_bytes
from pipeline.training.streaming import StreamLoader

log = logging.getLogger(__name__)
VALIDATION_SHOWERS = 1024
_PERPENDICULAR_RAD = 1e-3
_REPLAY_SEED = 500  # between those of two experiments


def training_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Batches:
    """The training split: in memory if `training.loading` and `training.memory_gb` say so, else streamed."""
    spec, seed = request.spec.training, request.spec.seed + 1000 * request.config.seed
    stored = [stored_showers(request, name, t) for name, t in zip(request.spec.data, transforms, strict=True)]
    turned = spec.augment.rotate_phi or spec.augment.reflect_phi
    needed, budget = total_bytes(stored), spec.memory_gb * 1e9
    in_memory = spec.loading == "memory" or (spec.loading == "auto" and needed <= budget)
    dense = all(own.from_prefix or not turned for own in stored) and sum(own.dense_bytes for own in stored) <= budget
    log.info(
        "%s: %d showers, %.3g GB of a budget of %.3g GB: %s",
        request.run,
        sum(len(own) for own in stored),
        needed / 1e9,
        spec.memory_gb,
        ("in memory, dense" if dense else "in memory, as hits") if in_memory else "streamed",
    )

    def loader(some: Sequence[int], seed: int, memory_gb: float) -> Batches:
        chosen = [stored[i] for i in some]
        if in_memory:
            return Loader([own.in_memory(dense) for own in chosen], seed, spec.augment)
        return StreamLoader(chosen, seed, spec.augment, memory_gb=memory_gb)

    replay, replayed = request.spec.replay, request.config.replayed(request.run)
    if replay is None:
        return loader(range(len(stored)), seed, spec.memory_gb)
    old = tuple(i for i, name in enumerate(request.spec.data) if name in replayed)
    new = tuple(i for i in range(len(stored)) if i not in old)
    half = spec.memory_gb / 2
    return Replay(loader(new, seed, half), loader(old, seed + _REPLAY_SEED, half), replay.share, new, old)


def validation_loader(request: TrainRequest, transforms: Sequence[Transform]) -> Loader | None:
    """Up to `VALIDATION_SHOWERS` showers of the validation split, or None when a data set has none."""
    names = request.spec.data
    parts = {name: _opened(request.prefix.get(name) or request.parts[name]) for name in names}
    if not all(any(len(rows_of(p, request.config.splits, "validation")) for p in parts[name]) for name in names):
        return None
    stored = [stored_showers(request, name, t, "validation") for name, t in zip(names, transforms, strict=True)]
    return Loader([own.in_memory() for own in stored], 0)


def stored_showers(request: TrainRequest, name: str, transform: Transform, split: SplitName = "train") -> StoredShowers:
    """The run's showers of a data set; TrainingError when they lie at an angle and are to be turned in phi."""
    augment = request.spec.training.augment if split == "train" else AugmentSpec()
    turns = augment.rotate_phi or augment.reflect_phi
    prefix = request.prefix.get(name, ())
    from_prefix = bool(prefix) and (commutes_with_phi(transform) or not turns)
    parts = _opened(prefix if from_prefix else request.parts[name])
    choice = training_rows(parts, request.config.splits, split, _limit(request, name, parts, split))
    stored = StoredShowers(tuple(parts), choice, transform, from_prefix)
    if augment.rotate_phi:
        check_perpendicular(request.run, name, stored.theta)
    return stored


def check_perpendicular(run: str, name: str, theta: NDArray[np.floating]) -> None:
    """Rotation in phi is a symmetry of perpendicular showers only; TrainingError names the shower farthest off."""
    away = np.abs(np.asarray(theta, dtype=np.float64) - math.pi / 2)
    if away.max(initial=0.0) > _PERPENDICULAR_RAD:
        raise TrainingError(
            f"runs.{run}.training.augment.rotate_phi: expected showers at 90 degrees, found one at "
            f"{math.degrees(theta[np.argmax(away)]):g} degrees in data set '{name}'; set rotate_phi: false, "
            "or leave the data set out of the run"
        )


def _opened(manifests: Sequence[Path]) -> list[Part]:
    return [Part.open(path) for path in manifests]


def _limit(request: TrainRequest, name: str, parts: Sequence[Part], split: SplitName) -> int | None:
    """How many showers of a data set's split are taken, those with the smallest hashes; None: all."""
    if split == "train":
        replay = request.spec.replay if name in request.config.replayed(request.run) else None
        return replay.showers if replay else request.spec.showers
    available = sum(len(rows_of(part, request.config.splits, split)) for part in parts)
    return VALIDATION_SHOWERS if available > 2 * VALIDATION_SHOWERS else None
