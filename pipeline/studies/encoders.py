"""Frozen features of a pool of showers: the mean visible token of a masked ViT.

In: a masked ViT, a `Pool`. Out: features (n, width). The encoder runs on the tokens that a task shows and on no others.
One that is told detectors is first `placed` on the data set, as a run that starts from it would be: an unseen detector
is a free slot, the mean of the known rows, or its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Config
from pipeline.models import build_network
from pipeline.models.architecture import Architecture
from pipeline.models.detectors import descriptor
from pipeline.models.masked_vit import MaskedViT
from pipeline.studies.pool import Array, Pool, Rows
from pipeline.studies.views import groups, visible_tokens
from pipeline.training.adaptation import architecture_from, start_from
from pipeline.training.checkpoint import TrainedModel

_BATCH = 256


@dataclass(frozen=True)
class TokenBatch:
    """Showers with equally many visible tokens: rows of the pool (B,), values (B, r, phi, z), tokens (B, V)."""

    rows: NDArray[np.int64]
    values: Tensor
    tokens: Tensor


def placed(trained: TrainedModel, config: Config, dataset: str, recipe: str) -> MaskedViT:
    """The encoder, told the detector of a data set, which it may never have seen, as data set 0."""
    network, parent = trained.network, trained.architecture
    assert isinstance(network, MaskedViT)  # the caller's condition
    if network.spec.detector_embedding is None:
        return network
    detector = config.datasets[dataset].detector
    mesh = config.preprocessing[recipe].mesh_after(config.raw_mesh(dataset))
    own = Architecture(
        parent.model,
        None,
        parent.shape,
        ((dataset, detector),),
        (detector,),
        parent.threshold_mev,
        descriptors=(descriptor(config.detector(detector), mesh),),
    )
    there = build_network(architecture_from(parent, own))
    start_from(there, trained)
    assert isinstance(there, MaskedViT)  # of the parent's spec
    return there.eval()


def encoded(network: MaskedViT, batch: TokenBatch) -> Tensor:
    """(B, V, W) tokens of a batch of the data set that the network is placed on."""
    told = network.told(torch.zeros(len(batch.values), dtype=torch.int64))
    return network.encode(batch.values, batch.tokens, told)


def token_batches(pool: Pool, rows: Rows, network: MaskedViT, turn: int = 0) -> Iterator[TokenBatch]:
    """The showers at `rows`, turned in phi by `turn` patches, in batches of one number of visible tokens."""
    shift = turn * network.spec.patch[1]
    visible = np.roll(pool.visible[rows], shift, axis=2) if shift else pool.visible[rows]
    values = np.roll(pool.values[rows], shift, axis=2) if shift else pool.values[rows]
    for own, tokens in groups(visible_tokens(visible, network.spec.patch)):
        for start in range(0, len(own), _BATCH):
            part = slice(start, start + _BATCH)
            yield TokenBatch(rows[own[part]], torch.from_numpy(values[own[part]]), torch.from_numpy(tokens[part]))


@torch.no_grad()
def frozen_features(network: MaskedViT, pool: Pool) -> Array:
    """(n, width): the mean visible token of each shower, 0 where nothing is visible."""
    features = np.zeros((len(pool), network.spec.width))
    for batch in token_batches(pool, np.arange(len(pool)), network):
        features[batch.rows] = encoded(network, batch).mean(dim=1).double().numpy()
    return features
