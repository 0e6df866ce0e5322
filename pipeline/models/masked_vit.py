"""A ViT that learns by predicting patches it did not see (masked autoencoder, arXiv:2111.06377).

In: (B, r, phi, z) in network space. The encoder runs on the visible tokens alone; a small decoder fills
mask tokens in and predicts every patch. Out: (B, token, cell of the patch) in network space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.config import MaskedViTSpec
from pipeline.models.blocks import Block
from pipeline.models.tokens import Triple, patch_grid, patchify, position_table


def random_order(showers: int, tokens: int, generator: torch.Generator) -> Tensor:
    """(shower, token) a random order of the tokens of each shower."""
    noise = torch.rand(showers, tokens, generator=generator, device=generator.device)
    return noise.argsort(dim=1)


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """How many tokens the encoder sees: at least one, and at least one stays hidden."""
    return min(max(1, round(tokens * (1 - mask_ratio))), max(1, tokens - 1))


class MaskedViT(nn.Module):
    """Encoder and decoder; B showers, N tokens, V visible tokens, P cells of a patch, W width, D decoder width."""

    positions: Tensor
    decoder_positions: Tensor

    def __init__(self, spec: MaskedViTSpec, shape: Triple) -> None:
        super().__init__()
        self.spec = spec
        grid = patch_grid(shape, spec.patch)
        cells = math.prod(spec.patch)
        self.tokens = math.prod(grid)
        self.register_buffer("positions", position_table(grid, spec.width), persistent=False)
        self.register_buffer("decoder_positions", position_table(grid, spec.decoder_width), persistent=False)
        self.embed = nn.Linear(cells, spec.width)
        self.encoder = nn.ModuleList(Block(spec.width, spec.heads, spec.mlp_ratio) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        self.to_decoder = nn.Linear(spec.width, spec.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(spec.decoder_width))
        self.decoder = nn.ModuleList(
            Block(spec.decoder_width, spec.heads, spec.mlp_ratio) for _ in range(spec.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(spec.decoder_width)
        self.to_cells = nn.Linear(spec.decoder_width, cells)

    def encode(self, cells: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, r, phi, z), (B, V) token indices or None for all -> (B, V, W)."""
        patches = patchify(cells, self.spec.patch)  # (B, N, P)
        positions = self.positions.expand(len(cells), -1, -1)  # (B, N, W)
        if visible is not None:
            patches = _gather(patches, visible)  # (B, V, P)
            positions = _gather(positions, visible)  # (B, V, W)
        x: Tensor = self.embed(patches) + positions  # (B, V, W)
        for block in self.encoder:
            x = block(x)  # (B, V, W)
        x = self.norm(x)  # (B, V, W)
        return x

    def forward(self, cells: Tensor, order: Tensor, visible: int) -> Tensor:
        """(B, r, phi, z), (B, N) order of the tokens, the first `visible` of which are seen -> (B, N, P)."""
        encoded = self.to_decoder(self.encode(cells, order[:, :visible]))  # (B, V, D)
        hidden = self.mask_token.to(encoded.dtype).expand(len(cells), self.tokens - visible, -1)  # (B, N - V, D)
        shuffled = torch.cat([encoded, hidden], dim=1)  # (B, N, D)
        x = _gather(shuffled, order.argsort(dim=1)) + self.decoder_positions  # (B, N, D)
        for block in self.decoder:
            x = block(x)  # (B, N, D)
        cells_of_patches: Tensor = self.to_cells(self.decoder_norm(x))  # (B, N, P)
        return cells_of_patches


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, F), (B, V) -> (B, V, F)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))
