"""A transformer VAE: a shower as one latent vector, a standard normal given the conditions.

In: showers in network space (B, r, phi, z) and their conditions. Out: mean and log variance of the posterior
q(latent | shower, conditions), (B, latent); from a latent vector, what each cell is (`CellNetwork`). Two ways from
the latent to tokens: `dense`, a matrix for each token; `broadcast`, the same vector for all tokens, told apart by
their positions alone (the spatial broadcast decoder, arXiv:1901.07017). Source: arXiv:1312.6114.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config import VAESpec
from pipeline.models.autoencoder import ShowerDecoder, ShowerEncoder, condition_of
from pipeline.models.cell_network import CellNetwork
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.tokens import Triple, patch_grid

LOG_VARIANCE = (-10.0, 4.0)


class ShowerVAE(CellNetwork):
    """Encoder and decoder; B showers, N tokens, W width."""

    samples_seen: Tensor

    def __init__(self, spec: VAESpec, shape: Triple, conditions: ConditionEncoder, domains: int) -> None:
        super().__init__(spec.output, shape, conditions, domains)
        self.spec = spec
        self.tokens = math.prod(patch_grid(shape, spec.patch))
        self.encoder = ShowerEncoder(spec, shape, conditions.layers)
        self.to_posterior = nn.Linear(self.tokens * spec.width, 2 * spec.latent)
        nn.init.zeros_(self.to_posterior.bias)
        wide = spec.width * (self.tokens if spec.decoder == "dense" else 1)
        self.from_latent = nn.Linear(spec.latent, wide)
        self.latent_condition = nn.Linear(spec.latent, spec.width)
        self.decoder = ShowerDecoder(spec, shape, conditions.layers, self.numbers)
        self.register_buffer("samples_seen", torch.zeros((), dtype=torch.int64))  # for the schedule of the KL

    def posterior(self, values: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """(B, r, phi, z) -> mean and log variance of the latent vector, 2 x (B, latent)."""
        tokens = self.encoder(values, *condition_of(self.conditions, conditions))  # (B, N, W)
        mean, log_variance = self.to_posterior(tokens.flatten(1)).float().chunk(2, dim=1)  # 2 x (B, latent)
        return mean, log_variance.clamp(*LOG_VARIANCE)  # 2 x (B, latent)

    def decode(self, latent: Tensor, conditions: Conditions) -> Tensor:
        """(B, latent) -> the numbers of each cell, (B, numbers, r, phi, z)."""
        condition, log_layers = condition_of(self.conditions, conditions)  # (B, W), (B, z)
        wide: Tensor = self.from_latent(latent)  # (B, N W) or (B, W)
        tokens = wide.reshape(len(latent), -1, self.spec.width).expand(-1, self.tokens, -1)  # (B, N, W)
        decoded: Tensor = self.decoder(tokens, condition + self.latent_condition(latent), log_layers)
        return decoded  # (B, numbers, r, phi, z)

    @property
    def kl_weight(self) -> Tensor:
        """The KL's weight: grows linearly over the first `kl_warmup_samples` showers."""
        warm = (self.samples_seen / max(self.spec.kl_warmup_samples, 1)).clamp(max=1.0)
        return self.spec.kl_weight * (warm if self.spec.kl_warmup_samples else torch.ones_like(warm))
