"""Fits a network's buffers (standardisations, hit rates, linear calibrations) on training showers.

In: a network and its loader. The buffers are part of the weights, so generation and prediction need no data.
At most `LIMIT` showers of a data set, and `CELLS` cells, are looked at: always the same, without random symmetries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.data import hitwise
from pipeline.data.transforms import Transform
from pipeline.models import (
    AngleRegression,
    AutoregressivePrior,
    Classification,
    Conditions,
    EnergyRegression,
    LayerEnergyDiffusion,
    MaskedViT,
    ShowerGenerator,
    ShowerNetwork,
    ShowerVQVAE,
)
from pipeline.training.loading import Batches

LIMIT = 20_000
CELLS = 20_000_000
VECTORS = 50_000
_BLOCK = 128


def fit_buffers(network: nn.Module, loader: Batches, transforms: Sequence[Transform], seed: int) -> None:
    """Fit in place; transform i belongs to source i of the loader."""
    if isinstance(network, EnergyRegression):
        conditions = _conditions(loader, len(transforms))
        network.fit(conditions.layer_energy.sum(dim=1), conditions.incident_energy, conditions.domain)
        return
    if isinstance(network, Classification | AngleRegression):
        conditions = _conditions(loader, len(transforms))
        visible = conditions.layer_energy.sum(dim=1)
        if isinstance(network, AngleRegression):
            network.fit(visible, conditions.theta)
        else:
            network.fit(visible, conditions.incident_energy, conditions.domain)
        return
    if isinstance(network, MaskedViT):
        fit_tasks(network, loader, transforms)
        return
    energies = network.energies if isinstance(network, ShowerGenerator) else None
    showers = network.showers if isinstance(network, ShowerGenerator) else network
    if isinstance(showers, ShowerNetwork):
        for domain, transform in enumerate(transforms):
            n = max(_BLOCK, CELLS // transform.mesh.n_cells)
            some = list(loader.in_order(_BLOCK, min(n, LIMIT), domain))
            values, hit = (torch.cat([getattr(batch, name) for batch in some]) for name in ("values", "hit"))
            showers.fit(domain, empty_cells(transform), values, hit)
        conditions = _conditions(loader, len(transforms))
        showers.conditions.fit(conditions)
        if energies is not None:
            _fit_energies(energies, conditions, seed)


@torch.no_grad()
def fit_codes(network: nn.Module, loader: Batches, seed: int) -> None:
    """Fit in place where a codebook starts, and the code frequencies that a prior starts from (with its tokenizer)."""
    network = network.showers if isinstance(network, ShowerGenerator) else network
    tokenizer = network.tokenizer if isinstance(network, AutoregressivePrior) else network
    if not isinstance(tokenizer, ShowerVQVAE):
        return
    domains = len(tokenizer.empty)
    each = max(1, VECTORS // tokenizer.tokens // domains)
    batches = (batch for domain in range(domains) for batch in loader.in_order(_BLOCK, each, domain))
    if isinstance(network, AutoregressivePrior):
        network.fit_codes(torch.cat([tokenizer.encode(batch.values, batch.conditions) for batch in batches]))
    else:
        vectors = torch.cat([tokenizer.vectors(batch.values, batch.conditions).flatten(0, 1) for batch in batches])
        tokenizer.codebook.start(vectors, torch.Generator().manual_seed(seed))


def fit_tasks(network: MaskedViT, loader: Batches, transforms: Sequence[Transform]) -> None:
    """What pretext tasks know of the data: empty cells, the mean shower, the energies, where they are asked for."""
    if hasattr(network, "climatology") or hasattr(network, "empty"):
        for domain, transform in enumerate(transforms):
            sums, n = torch.zeros(transform.mesh.shape, dtype=torch.float64), 0
            for batch in loader.in_order(_BLOCK, min(max(_BLOCK, CELLS // transform.mesh.n_cells), LIMIT), domain):
                sums, n = sums + batch.values.double().sum(dim=0), n + len(batch)
            network.fit(domain, empty_cells(transform), (sums / max(n, 1)).float())
    if hasattr(network, "log_energy"):
        network.fit_energy(_conditions(loader, len(transforms)).incident_energy)


def _fit_energies(network: LayerEnergyDiffusion, conditions: Conditions, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    network.conditions.fit(conditions)
    network.fit(conditions, torch.rand(conditions.layer_energy.shape, generator=generator))


def _conditions(loader: Batches, n_domains: int) -> Conditions:
    """Conditions of the first `LIMIT` showers of each data set; their cells are not kept."""
    domains = range(n_domains)
    found = [batch.conditions for domain in domains for batch in loader.in_order(_BLOCK, LIMIT, domain)]
    columns = zip(*(vars(conditions).values() for conditions in found), strict=True)
    return Conditions(*(torch.cat(column) for column in columns))


def empty_cells(transform: Transform) -> Tensor:
    """(r, phi, z) network value of an empty cell."""
    return torch.from_numpy(hitwise.empty_cells(transform))
