"""`Batch`: what a network is trained on, and the buffers it is written into.

A batch holds B showers of one or several data sets in network space, (B, r, phi, z), with their conditions. Its
tensors share memory with `Buffers`, which can be written again for a later batch. `Turns` are the random
symmetries of B showers: they are drawn for the whole batch of all ranks, so that each rank turns its own alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import AugmentSpec
from pipeline.models.conditions import Conditions, PartlyUnknown

_NUMPY = {torch.float32: np.float32, torch.bool: np.bool_, torch.int64: np.int64}


@dataclass(frozen=True)
class Batch:
    """B showers: values and hit (B, r, phi, z) in network space, and their conditions."""

    values: Tensor
    hit: Tensor
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.values)

    @property
    def visible_energy(self) -> Tensor:
        """(B,) visible MeV on the network's mesh, behind the recipe's cut."""
        return self.conditions.layer_energy.sum(dim=1)

    def take(self, own: slice) -> Batch:
        """Some of the showers; shares memory."""
        columns = (value[own] for value in vars(self.conditions).values())
        return Batch(self.values[own], self.hit[own], Conditions(*columns))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.values.to(device), self.hit.to(device), self.conditions.to(device))


def with_unknown_detectors(share: float, batch: Batch, generator: torch.Generator) -> Batch:
    """A share of the showers, drawn one by one, with a detector that counts as unseen."""
    if not share:
        return batch
    unknown = torch.rand(len(batch), generator=generator, device=generator.device) < share
    return replace(batch, conditions=PartlyUnknown(**vars(batch.conditions), unknown=unknown))


@dataclass(frozen=True)
class Turns:
    """For each of B showers: mirrored in phi (bool), and then turned by `shift` cells of the raw mesh."""

    mirror: NDArray[np.bool_]
    shift: NDArray[np.int64]

    def take(self, places: NDArray[np.integer] | slice) -> Turns:
        """Those of some showers."""
        return Turns(self.mirror[places], self.shift[places])

    @classmethod
    def draw(
        cls, augment: AugmentSpec, domain: NDArray[np.integer], n_phi: Sequence[int], seed: Sequence[int]
    ) -> Turns:
        """Those of a batch: `domain` (B,) is the data set of each shower, `n_phi` each data set's cells in phi."""
        random = np.random.default_rng(seed)
        mirror, shift = np.zeros(len(domain), dtype=bool), np.zeros(len(domain), dtype=np.int64)
        for index, cells in enumerate(n_phi):
            places = np.flatnonzero(domain == index)
            if augment.reflect_phi and len(places):
                mirror[places] = random.integers(2, size=len(places)) == 1
            if augment.rotate_phi and len(places):
                shift[places] = random.integers(cells, size=len(places))
        return cls(mirror, shift)


@dataclass(frozen=True)
class Buffers:
    """Memory of one batch: values (B, r, phi, z), hit, layer_energy (B, z), incident_energy, theta, domain (B,)."""

    values: Tensor
    hit: Tensor
    layer_energy: Tensor
    incident_energy: Tensor
    theta: Tensor
    domain: Tensor

    @classmethod
    def empty(cls, n: int, shape: Sequence[int], pinned: bool = False) -> Buffers:
        """Memory for n showers of (r, phi, z) cells, page-locked where a GPU is to copy from it."""

        def tensor(dtype: torch.dtype, *sizes: int) -> Tensor:
            if pinned:
                return torch.empty(n, *sizes, dtype=dtype, pin_memory=True)
            return torch.from_numpy(np.empty((n, *sizes), _NUMPY[dtype]))  # NumPy asks for huge pages

        real = torch.float32
        return cls(
            tensor(real, *shape),
            tensor(torch.bool, *shape),
            tensor(real, shape[-1]),
            tensor(real),
            tensor(real),
            tensor(torch.int64),
        )

    def put(self, places: NDArray[np.integer], batch: Batch, domains: Sequence[int]) -> None:
        """Copy a batch to some places; `domains` renumbers its data sets."""
        rows = torch.from_numpy(places)
        self.values[rows], self.hit[rows] = batch.values, batch.hit
        for name in ("layer_energy", "incident_energy", "theta"):
            getattr(self, name)[rows] = getattr(batch.conditions, name)
        self.domain[rows] = torch.tensor(domains)[batch.conditions.domain]

    def batch(self) -> Batch:
        """The batch that was written; it changes when the buffers are written again."""
        conditions = Conditions(self.incident_energy, self.theta, self.domain, self.layer_energy)
        return Batch(self.values, self.hit, conditions)
