"""The labelled showers of a task: what is visible of them, in MeV and in network space, and subsets of them.

In: the parts of the study's data set, the transform of a recipe, a task. Out: a `Pool` with training, validation and
test showers one after the other; subsets of the training ones. Hidden cells are empty before anything is computed of
a shower, so that neither networks nor baselines see them. The incident energy is the label and enters nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers, Showers
from pipeline.config import SplitSpec, StudySpec, TaskSpec
from pipeline.data.store import Part, held_out, training_set
from pipeline.data.transforms import Transform
from pipeline.studies.views import Mask, visible_cells

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Raw showers: the pool of training showers, then validation, then test showers."""

    showers: RaggedShowers
    train: int
    validation: int

    @classmethod
    def read(cls, parts: Sequence[Part], splits: SplitSpec, study: StudySpec) -> Labelled:
        """Those with the smallest hashes of each split; `StoreError` when there are too few."""
        pieces = [
            training_set(parts, splits, "train", study.pool),
            training_set(parts, splits, "validation", study.validation),
            held_out(parts, splits, "reference", study.test),
        ]
        return cls(RaggedShowers.concatenate(pieces), study.pool, study.validation)


@dataclass(frozen=True)
class Pool:
    """Showers as a task shows them.

    showers: hits on the mesh behind the recipe, visible MeV; values: (n, r, phi, z) float32 in network space, an empty
    cell where it is hidden; visible: (n, r, phi, z); incident_energy: (n,) MeV; expected: (n,) share of a mean training
    shower (of all that are whole and unlabelled) that lies in the visible cells.
    """

    showers: RaggedShowers
    values: NDArray[np.float32]
    visible: Mask
    incident_energy: Array
    expected: Array
    train: int
    validation: int

    @classmethod
    def of(cls, labelled: Labelled, transform: Transform, task: TaskSpec, seed: int) -> Pool:
        """Hide what the task hides, then take the rest through the recipe."""
        dense = transform.on_mesh(labelled.showers).dense()
        visible = visible_cells(task, dense.mesh.shape, len(dense), seed)
        seen: Showers = replace(dense, energy=np.where(visible, dense.energy, np.float32(0)))
        incident = np.asarray(dense.incident_energy, dtype=np.float64)
        values = transform.pointwise(seen.energy, incident).astype(np.float32)
        expected = expected_share(dense.energy[: labelled.train], visible)
        hits = RaggedShowers.from_dense(seen)
        return cls(hits, values, visible, incident, expected, labelled.train, labelled.validation)

    def __len__(self) -> int:
        return len(self.incident_energy)

    @property
    def validation_rows(self) -> Rows:
        """Showers that choose ridge, rates and steps."""
        return np.arange(self.train, self.train + self.validation)

    @property
    def test_rows(self) -> Rows:
        """Showers on which errors are measured."""
        return np.arange(self.train + self.validation, len(self))

    def subset(self, n: int, index: int, seed: int) -> Rows:
        """The index-th subset of n labelled training showers; the same for every arm."""
        return np.sort(np.random.default_rng([seed, n, index]).permutation(self.train)[:n])


def expected_share(whole: NDArray[np.floating], visible: Mask) -> Array:
    """(n,): what the mean of whole showers, each of energy one, has in the visible cells of each of n showers."""
    total = whole.sum(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
    mean = (whole / np.maximum(total, np.finfo(np.float64).tiny)).mean(axis=0)
    return np.asarray(visible.reshape(len(visible), -1) @ mean.reshape(-1))


def relative_error(predicted_mev: Array, incident_energy_mev: Array) -> float:
    """Root mean square of (predicted - true) / true: a bias counts."""
    return float(np.sqrt(np.mean((predicted_mev / incident_energy_mev - 1) ** 2)))
