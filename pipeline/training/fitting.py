"""Fits a network's buffers (standardisations, hit rates, linear calibrations) on training showers.

In: a network and its loader. The buffers are part of the weights, so generation and prediction need no data.
At most `LIMIT` showers of a data set, and `CELLS` cells, are looked at: always the same, without random symmetries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.transforms import Transform
from pipeline.models import Conditions, EnergyRegression, ShowerDiffusion
from pipeline.training.loading import Loader

LIMIT = 20_000
CELLS = 20_000_000
_BLOCK = 128


def fit_buffers(network: nn.Module, loader: Loader, transforms: Sequence[Transform], seed: int) -> None:
    """Fit in place; transform i belongs to source i of the loader."""
    if isinstance(network, EnergyRegression):
        conditions = _conditions(loader)
        network.fit(conditions.layer_energy.sum(dim=1), conditions.incident_energy, conditions.domain)
    elif isinstance(network, ShowerDiffusion):
        for domain, transform in enumerate(transforms):
            n = max(_BLOCK, CELLS // transform.mesh.n_cells)
            some = list(Loader([loader.sources[domain]], loader.seed).in_order(_BLOCK, min(n, LIMIT)))
            values, hit = (torch.cat([getattr(batch, name) for batch in some]) for name in ("values", "hit"))
            network.showers.fit(domain, empty_cells(transform), values, hit)
        _fit_conditions(network, _conditions(loader), seed)


def _fit_conditions(network: ShowerDiffusion, conditions: Conditions, seed: int) -> None:
    network.showers.conditions.fit(conditions)
    if network.energies is not None:
        generator = torch.Generator().manual_seed(seed)
        network.energies.conditions.fit(conditions)
        network.energies.fit(conditions, torch.rand(conditions.layer_energy.shape, generator=generator))


def _conditions(loader: Loader) -> Conditions:
    """Conditions of the first `LIMIT` showers of each data set; their cells are not kept."""
    found = []
    for domain, source in enumerate(loader.sources):
        for batch in Loader([source], loader.seed).in_order(_BLOCK, LIMIT):
            found.append(replace(batch.conditions, domain=torch.full((len(batch),), domain)))
    columns = zip(*(vars(conditions).values() for conditions in found), strict=True)
    return Conditions(*(torch.cat(column) for column in columns))


def empty_cells(transform: Transform) -> Tensor:
    """(r, phi, z) network value of an empty cell."""
    values = transform.pointwise(np.zeros((1, *transform.mesh.shape)), np.ones(1))[0]
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
