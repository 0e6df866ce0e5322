"""What the shower networks of all families have in common: their conditions, and what a cell of the data is like.

In: training showers in network space (B, r, phi, z). Out: buffers with the network value of an empty cell, the hit
rate, and mean and spread of hits, by (r, z) and data set, so that a network starts from them. A family's network
may hold other runs' networks as parts that are named by their role and stay frozen (`take_over`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.tokens import Triple


class ShowerNetwork(nn.Module):
    """Base of a family's shower network; `domains` is the number of data sets."""

    empty: Tensor
    hit_logit: Tensor
    hit_mean: Tensor
    hit_spread: Tensor

    def __init__(self, shape: Triple, conditions: ConditionEncoder, domains: int) -> None:
        super().__init__()
        self.shape = shape
        self.conditions = conditions
        for name in ("empty", "hit_logit", "hit_mean", "hit_spread"):
            self.register_buffer(name, torch.full((domains, *shape), float(name == "hit_spread")))

    def take_over(self, parents: Mapping[str, ShowerNetwork]) -> None:
        """Copy other runs' networks into the parts named by their roles, and freeze these."""
        for role, parent in parents.items():
            part = cast(nn.Module, getattr(self, role))
            part.load_state_dict(parent.state_dict())
            part.requires_grad_(False)

    def follow(self, average: ShowerNetwork) -> None:
        """Told the average of the weights when training starts; only some losses look at it."""

    def hit_value(self, standardised: Tensor, conditions: Conditions) -> Tensor:
        """Standardised value of a hit -> network value; (B, r, phi, z) both."""
        return self.hit_mean[conditions.domain] + self.hit_spread[conditions.domain] * standardised

    def standardised_hit(self, values: Tensor, conditions: Conditions) -> Tensor:
        """Network value of a hit -> standardised value; (B, r, phi, z) both."""
        return (values - self.hit_mean[conditions.domain]) / self.hit_spread[conditions.domain]

    @torch.no_grad()
    def fit(self, domain: int, empty: Tensor, values: Tensor, hit: Tensor) -> None:
        """Hit rate, mean and spread of hits per (r, z) of one domain from training showers (B, r, phi, z).

        Rings with few hits lean on the mean and spread of all hits (weight 10 hits); `empty` is (r, phi, z).
        """
        count = hit.sum(dim=(0, 2), dtype=torch.float64)[:, None, :]  # (r, 1, z)
        x = torch.where(hit, values, 0).double()  # (B, r, phi, z)
        total = count.sum().clamp_min(1)
        mean = x.sum() / total
        variance = (x.square().sum() / total - mean.square()).clamp_min(1e-6)
        ring_mean = (x.sum(dim=(0, 2))[:, None, :] + 10 * mean) / (count + 10)  # (r, 1, z)
        squares = torch.where(hit, values.double() - ring_mean, 0).square().sum(dim=(0, 2))[:, None, :]  # (r, 1, z)
        rate = (count + 0.5) / (len(hit) * hit.shape[2] + 1)  # (r, 1, z)
        self.empty[domain] = empty
        self.hit_logit[domain] = (rate / (1 - rate)).log().float()
        self.hit_mean[domain] = ring_mean.float()
        self.hit_spread[domain] = ((squares + 10 * variance) / (count + 10)).sqrt().clamp_min(1e-3).float()
