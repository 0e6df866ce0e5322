"""Networks trained on the labels of a task alone: from scratch, or on from a pre-trained encoder, to their plateau.

In: a masked ViT, a `Pool`, the labelled rows. Out: the error on test showers at the learning rate and the step with the
smallest error on validation showers, and whether that step lies before the end (a plateau). The network is encoder,
mean of the visible tokens and a linear map; its last layer starts at the mean label. Random turns in phi by whole
patches stand in for augmentation. It is for small sets of labels: all rows are in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.study import LabelTrainingSpec
from pipeline.models.masked_vit import MaskedViT
from pipeline.studies.encoders import TokenBatch, encoded, token_batches
from pipeline.studies.pool import Pool, Rows, relative_error

_PLATEAU = 0.9  # a best step before this share of all steps is called a plateau
_WEIGHT_DECAY = 0.01
_CLIP = 1.0


@dataclass(frozen=True)
class Trained:
    """Error on test and validation showers at the chosen rate and step, and whether the step lies before the end."""

    error: float
    validation: float
    rate: float
    step: int
    plateau: bool


class Reader(nn.Module):
    """Encoder, mean of the visible tokens, linear map to ln E_inc."""

    def __init__(self, encoder: MaskedViT, centre: float, spread: float) -> None:
        super().__init__()
        self.encoder, self.centre, self.spread = encoder, centre, spread
        self.out = nn.Linear(encoder.spec.width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: TokenBatch) -> Tensor:
        """(B,) ln(E_inc / MeV)."""
        pooled = encoded(self.encoder, batch).mean(dim=1)  # (B, W)
        out: Tensor = self.centre + self.spread * self.out(pooled)[:, 0]  # (B,)
        return out


def train_from_labels(network: MaskedViT, pool: Pool, rows: Rows, spec: LabelTrainingSpec, seed: int) -> Trained:
    """Train a copy of the network at each rate; choose rate and step on validation showers."""
    tried = [_trained_at(rate, network, pool, rows, spec, seed) for rate in spec.rates]
    return min(tried, key=lambda trained: trained.validation)


def _trained_at(rate: float, network: MaskedViT, pool: Pool, rows: Rows, spec: LabelTrainingSpec, seed: int) -> Trained:
    log = np.log(pool.incident_energy[rows])
    reader = Reader(copy.deepcopy(network), float(log.mean()), float(max(log.std(), 1e-3))).train()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=_WEIGHT_DECAY)
    random = np.random.default_rng([seed, len(rows)])
    bounds = np.exp(log.min()), np.exp(log.max())
    looks, best, kept = _looks(spec), (float("inf"), 0), 0.0
    order: list[int] = []
    for step in range(1, spec.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, step / (0.05 * spec.steps)) * _cosine(step / spec.steps)
        size = min(spec.batch_size, len(rows))
        order = order if len(order) >= size else random.permutation(rows).tolist()
        own, order = np.sort(order[:size]), order[size:]
        optimiser.zero_grad(set_to_none=True)
        for batch in token_batches(pool, own, network, turn=int(random.integers(network.grid[1]))):
            target = torch.from_numpy(np.log(pool.incident_energy[batch.rows])).float()
            loss = ((reader(batch) - target) / reader.spread).square().sum() / size
            loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), _CLIP)
        optimiser.step()
        if step in looks:
            validation = _error(reader, pool, pool.validation_rows, bounds)
            if validation < best[0]:
                best, kept = (validation, step), _error(reader, pool, pool.test_rows, bounds)
    return Trained(kept, best[0], rate, best[1], best[1] <= _PLATEAU * spec.steps)


def _cosine(done: float) -> float:
    """From 1 to a tenth: late steps still count, so that a plateau can be told."""
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * done)))


def _looks(spec: LabelTrainingSpec) -> Sequence[int]:
    return sorted({round(spec.steps * i / spec.checks) for i in range(1, spec.checks + 1)} - {0})


@torch.no_grad()
def _error(reader: Reader, pool: Pool, rows: Rows, bounds: tuple[float, float]) -> float:
    """Predictions are held within the labels, as those of linear heads are."""
    reader.eval()
    predicted = np.full(len(rows), np.exp(reader.centre))
    place = {int(row): i for i, row in enumerate(rows)}
    for batch in token_batches(pool, rows, reader.encoder):
        where = [place[int(row)] for row in batch.rows]
        predicted[where] = np.clip(reader(batch).double().exp().numpy(), *bounds)
    reader.train()
    return relative_error(predicted, pool.incident_energy[rows])
