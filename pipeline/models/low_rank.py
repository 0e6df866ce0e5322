"""Low-rank adaptation (LoRA, arXiv:2106.09685): W + (alpha / rank) up down, with W fixed.

`up` starts at zero, so the network starts unchanged. `merged_low_rank` turns trained weights back into those of the
plain network: nothing of this is in a saved model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """A fixed linear map and a trained change of it."""

    scale: Tensor

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        rows = torch.randn(rank, base.in_features, generator=generator) / math.sqrt(base.in_features)
        self.down = nn.Parameter(rows)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.register_buffer("scale", torch.tensor(alpha / rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        changed: Tensor = self.base(x) + self.scale * ((x @ self.down.T) @ self.up.T)
        return changed


def add_low_rank(network: nn.Module, names: tuple[str, ...], rank: int, alpha: float, seed: int) -> None:
    """Replace every linear layer whose last name is one of `names`, in place."""
    generator = torch.Generator().manual_seed(seed)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if name in names and isinstance(child, nn.Linear):
                setattr(module, name, LowRankLinear(child, rank, alpha, generator))


def merged_low_rank(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the plain network, by name; those of a network without low-rank layers come back as they are."""
    layers = [name.removesuffix(".base.weight") for name in weights if name.endswith(".base.weight")]
    merged = dict(weights)
    for layer in layers:
        base, bias = merged.pop(f"{layer}.base.weight"), merged.pop(f"{layer}.base.bias", None)
        up, down, scale = (merged.pop(f"{layer}.{name}") for name in ("up", "down", "scale"))
        merged[f"{layer}.weight"] = base + scale * (up @ down)
        if bias is not None:
            merged[f"{layer}.bias"] = bias
    return merged
