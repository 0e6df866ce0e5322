"""Fits a network's buffers (standardisations, hit rates, linear calibrations) on training showers.

In: a network and its loader. The buffers are part of the weights, so generation and prediction need no data.
At most `LIMIT` showers are looked at, always the same ones and without random symmetries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.transforms import Transform
from pipeline.models import Conditions, EnergyRegression, ShowerDiffusion
from pipeline.training.loading import Batch, Loader

LIMIT = 20_000
_BLOCK = 512


def fit_buffers(network: nn.Module, loader: Loader, transforms: Sequence[Transform], seed: int) -> None:
    """Fit in place; transform i belongs to source i of the loader."""
    if isinstance(network, EnergyRegression):
        batches = list(loader.in_order(_BLOCK, LIMIT))
        conditions = _conditions(batches)
        network.fit(conditions.layer_energy.sum(dim=1), conditions.incident_energy, conditions.domain)
    elif isinstance(network, ShowerDiffusion):
        for domain, transform in enumerate(transforms):
            only = list(Loader([loader.sources[domain]], loader.seed).in_order(_BLOCK, LIMIT))
            values, hit = (torch.cat([getattr(b, name) for b in only]) for name in ("values", "hit"))
            network.showers.fit(domain, empty_cells(transform), values, hit)
        _fit_conditions(network, _conditions(list(loader.in_order(_BLOCK, LIMIT))), seed)


def _fit_conditions(network: ShowerDiffusion, conditions: Conditions, seed: int) -> None:
    network.showers.conditions.fit(conditions)
    if network.energies is not None:
        generator = torch.Generator().manual_seed(seed)
        network.energies.conditions.fit(conditions)
        network.energies.fit(conditions, torch.rand(conditions.layer_energy.shape, generator=generator))


def _conditions(batches: Sequence[Batch]) -> Conditions:
    columns = zip(*(vars(batch.conditions).values() for batch in batches), strict=True)
    return Conditions(*(torch.cat(column) for column in columns))


def empty_cells(transform: Transform) -> Tensor:
    """(r, phi, z) network value of an empty cell."""
    values = transform.pointwise(np.zeros((1, *transform.mesh.shape)), np.ones(1))[0]
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
