"""Frozen features of a pool of showers: the mean visible token of a masked ViT.

In: a masked ViT, a `Pool`. Out: features (n, width). The encoder runs on the tokens that a task shows and on no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.masked_vit import MaskedViT
from pipeline.studies.pool import Array, Pool, Rows
from pipeline.studies.views import groups, visible_tokens

_BATCH = 256


@dataclass(frozen=True)
class TokenBatch:
    """Showers with equally many visible tokens: rows of the pool (B,), values (B, r, phi, z), tokens (B, V)."""

    rows: NDArray[np.int64]
    values: Tensor
    tokens: Tensor


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
        features[batch.rows] = network.encode(batch.values, batch.tokens).mean(dim=1).double().numpy()
    return features
