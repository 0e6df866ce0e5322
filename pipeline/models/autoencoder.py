"""The two halves that the VAE and the VQ-VAE share: cells to tokens, and tokens to cells.

In and out of the encoder: showers in network space (B, r, phi, z) and their condition vector -> tokens (B, N, W), in
the order of the patches. The decoder goes back, to `numbers` for each cell. Blocks are those of the DiT with
adaLN-zero (arXiv:2212.09748); each token is told the energies of its own layers where these are a condition.
No bottleneck: what lies between the halves is the models' own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config import VAESpec, VQVAESpec
from pipeline.models.blocks import ConditionedBlock, Modulation
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.tokens import Triple, layers_of_tokens, patch_grid, patchify, position_table, unpatchify

BottleneckSpec = VAESpec | VQVAESpec


def blocks(spec: BottleneckSpec) -> nn.ModuleList:
    """The blocks of one half."""
    return nn.ModuleList(
        ConditionedBlock(spec.width, spec.heads, spec.mlp_ratio, spec.width) for _ in range(spec.depth)
    )


class ShowerEncoder(nn.Module):
    """B showers, N tokens, P cells and L layers of a patch, W width."""

    positions: Tensor

    def __init__(self, spec: BottleneckSpec, shape: Triple, layers: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.patch, self.grid, self.layers = spec.patch, patch_grid(shape, spec.patch), layers
        self.embed = nn.Linear(math.prod(spec.patch) + (spec.patch[2] if layers else 0), spec.width)
        self.register_buffer("positions", position_table(self.grid, spec.width), persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.blocks = blocks(spec)
        self.norm = nn.LayerNorm(spec.width)

    def forward(self, cells: Tensor, condition: Tensor, log_layers: Tensor | None) -> Tensor:
        """(B, r, phi, z), (B, W), (B, z) standardised log layer energies or None -> (B, N, W)."""
        x = patchify(cells, self.patch)  # (B, N, P)
        if self.layers:
            assert log_layers is not None  # conditions that read layers give them
            x = torch.cat([x, layers_of_tokens(log_layers, self.grid)], dim=2)  # (B, N, P + L)
        x = self.embed(x) + self.positions  # (B, N, W)
        for block in self.blocks:
            x = block(x, condition, self.mask)  # (B, N, W)
        out: Tensor = self.norm(x)  # (B, N, W)
        return out


class ShowerDecoder(nn.Module):
    """B showers, N tokens, P cells and L layers of a patch, W width."""

    positions: Tensor

    def __init__(self, spec: BottleneckSpec, shape: Triple, layers: int, numbers: int) -> None:
        super().__init__()
        self.patch, self.shape, self.grid = spec.patch, shape, patch_grid(shape, spec.patch)
        self.numbers = numbers
        self.own_layers = nn.Linear(spec.patch[2], spec.width) if layers else None
        self.register_buffer("positions", position_table(self.grid, spec.width), persistent=False)
        self.blocks = blocks(spec)
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.modulation = Modulation(spec.width, spec.width, 2)
        self.out = nn.Linear(spec.width, numbers * math.prod(spec.patch))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, condition: Tensor, log_layers: Tensor | None) -> Tensor:
        """(B, N, W), (B, W), (B, z) or None -> (B, numbers, r, phi, z), zero at the start of training."""
        x = tokens + self.positions  # (B, N, W)
        if self.own_layers is not None:
            assert log_layers is not None  # conditions that read layers give them
            x = x + self.own_layers(layers_of_tokens(log_layers, self.grid))  # (B, N, W)
        for block in self.blocks:
            x = block(x, condition)  # (B, N, W)
        shift, scale = self.modulation(condition)  # 2 x (B, 1, W)
        x = self.out(self.norm(x) * (1 + scale) + shift).float()  # (B, N, numbers P)
        parts = x.reshape(len(x), -1, self.numbers, x.shape[2] // self.numbers).unbind(2)  # numbers x (B, N, P)
        return torch.stack([unpatchify(p, self.patch, self.shape) for p in parts], 1)  # (B, numbers, r, phi, z)


def condition_of(encoder: ConditionEncoder, conditions: Conditions) -> tuple[Tensor, Tensor | None]:
    """The condition vector (B, W), and the standardised log layer energies (B, z) where they are read."""
    return encoder(conditions), encoder.log_layers(conditions) if encoder.layers else None
