"""A VQ-VAE (arXiv:1711.00937): a shower as codes on a grid along (r, phi, z), in the order of depth.

In: showers in network space (B, r, phi, z) and their conditions. Out: codes (B, T), those of the first layers
first, and from codes what each cell is (`CellNetwork`). The encoder sees the whole shower, so a code is not its
patch's alone; with `sees: layers_before` a code knows nothing of the layers behind its own, and a shower's first
codes are those of its first layers. A grid of codes other than that of the patches (64 codes, say) is reached by a
cross-attention on either side. Depth: a token's layers are [j Z / n, (j + 1) Z / n) for place j of n along z.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import VQVAESpec
from pipeline.models.autoencoder import ShowerDecoder, ShowerEncoder, condition_of
from pipeline.models.blocks import feed_forward
from pipeline.models.cell_network import CellNetwork
from pipeline.models.codebook import Quantised, build_codebook
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.tokens import Triple, patch_grid, position_table


def depth_order(grid: Triple) -> Tensor:
    """(token,) places on the grid in the order (z, r, phi), first layers first; tokens count as (r, phi, z)."""
    return torch.arange(math.prod(grid)).reshape(grid).permute(2, 0, 1).reshape(-1)


def last_layer(grid: Triple, layers: int) -> Tensor:
    """(token,) how many layers there are down to the end of each token's own, in the order (r, phi, z)."""
    ends = torch.arange(1, grid[2] + 1) * layers / grid[2]  # (z,)
    return ends.expand(grid).reshape(-1)


class Resample(nn.Module):
    """Tokens on one grid from those on another: cross-attention that prefers near layers, and a perceptron.

    Far layers are discounted linearly, by each head at its own rate (arXiv:2108.12409). Attention alone can only choose
    among tokens, and one token may hold a whole layer: so each place in (r, phi), on either grid, has a matrix.
    """

    bias: Tensor
    source_positions: Tensor
    positions: Tensor

    def __init__(self, source: Triple, grid: Triple, layers: int, spec: VQVAESpec, behind: bool) -> None:
        super().__init__()
        width, self.heads = spec.width, spec.heads
        self.source, self.grid = source, grid
        self.register_buffer("source_positions", position_table(source, width), persistent=False)
        self.register_buffer("positions", position_table(grid, width), persistent=False)
        ends, own = last_layer(source, layers), last_layer(grid, layers)  # (N,), (M,)
        distance = ((own - layers / grid[2] / 2)[:, None] - (ends - layers / source[2] / 2)).abs()  # (M, N)
        rates = 2.0 ** (1 - torch.arange(spec.heads))[:, None, None]  # (H, 1, 1)
        seen = own[:, None] + (layers if behind else 1e-6) >= ends  # (M, N)
        self.register_buffer("bias", (-rates * distance).masked_fill(~seen, -torch.inf), persistent=False)
        self.leave = nn.Parameter(torch.randn(source[0] * source[1], width, width) / width**0.5)
        self.arrive = nn.Parameter(torch.randn(grid[0] * grid[1], width, width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.norm_perceptron = nn.LayerNorm(width)
        self.perceptron = feed_forward(width, spec.mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, W) on the source's grid -> (B, M, W) on the own one."""
        value = by_place(self.norm(tokens), self.leave, self.source[2])  # (B, N, W)
        query = self.query(self.positions).expand(len(tokens), -1, -1)  # (B, M, W)
        key = self.key(self.source_positions + tokens)  # (B, N, W)
        q, k, v = (self._heads(t) for t in (query, key, value))  # 3 x (B, H, ., W/H)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.to(q.dtype))  # (B, H, M, W/H)
        x: Tensor = by_place(mixed.transpose(1, 2).flatten(2), self.arrive, self.grid[2])  # (B, M, W)
        x = x + self.perceptron(self.norm_perceptron(x))  # (B, M, W)
        return x

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, ., W/H)


def by_place(tokens: Tensor, matrices: Tensor, along_z: int) -> Tensor:
    """(B, N, W) in the order (r, phi, z), each through the matrix (r phi, W, W) of its place -> (B, N, W)."""
    places = tokens.reshape(len(tokens), -1, along_z, tokens.shape[2])  # (B, r phi, z, W)
    out: Tensor = torch.einsum("bpzw,pwv->bpzv", places, matrices).flatten(1, 2)  # (B, N, W)
    return out


class ShowerVQVAE(CellNetwork):
    """The tokenizer; B showers, N patches, T codes of D dimensions, W width."""

    order: Tensor
    depths: Tensor

    def __init__(self, spec: VQVAESpec, shape: Triple, conditions: ConditionEncoder, domains: int) -> None:
        super().__init__(spec.output, shape, conditions, domains)
        self.spec, patches = spec, patch_grid(shape, spec.patch)
        self.grid: Triple = spec.grid or patches
        ends, code_ends = last_layer(patches, shape[2]), last_layer(self.grid, shape[2])  # (N,), (T,)
        self.register_buffer("order", depth_order(self.grid), persistent=False)
        self.register_buffer("depths", code_ends[self.order], persistent=False)  # (T,) in the order of depth
        before = spec.sees == "layers_before"
        self.encoder = ShowerEncoder(spec, shape, conditions.layers, ends[:, None] >= ends if before else None)
        self.decoder = ShowerDecoder(spec, shape, conditions.layers, self.numbers)
        self.to_codes: Resample | None = None
        self.from_codes: Resample | None = None
        if self.grid != patches:
            self.to_codes = Resample(patches, self.grid, shape[2], spec, behind=not before)
            self.from_codes = Resample(self.grid, patches, shape[2], spec, behind=True)
        self.codebook = build_codebook(spec.codebook)
        self.to_codebook = nn.Linear(spec.width, self.codebook.width)
        self.from_codebook = nn.Linear(self.codebook.width, spec.width)

    @property
    def tokens(self) -> int:
        """Codes of a shower."""
        return len(self.order)

    def vectors(self, values: Tensor, conditions: Conditions) -> Tensor:
        """(B, r, phi, z) -> (B, T, D), in the order of depth, before they become codes."""
        x = self.encoder(values, *condition_of(self.conditions, conditions))  # (B, N, W)
        if self.to_codes is not None:
            x = self.to_codes(x)  # (B, T, W)
        vectors: Tensor = self.to_codebook(x[:, self.order])  # (B, T, D)
        return vectors.float()

    def quantised(self, values: Tensor, conditions: Conditions) -> tuple[Tensor, Quantised]:
        """(B, r, phi, z) -> the vectors (B, T, D), and what they become."""
        vectors = self.vectors(values, conditions)  # (B, T, D)
        return vectors, self.codebook(vectors)

    @torch.no_grad()
    def encode(self, values: Tensor, conditions: Conditions) -> Tensor:
        """(B, r, phi, z) -> codes (B, T), first layers first."""
        return self.quantised(values, conditions)[1].codes

    def decode(self, vectors: Tensor, conditions: Conditions) -> Tensor:
        """Vectors of the codes (B, T, D) -> the numbers of each cell, (B, numbers, r, phi, z)."""
        x = self.from_codebook(vectors)[:, self.order.argsort()]  # (B, T, W) in the order (r, phi, z)
        if self.from_codes is not None:
            x = self.from_codes(x)  # (B, N, W)
        decoded: Tensor = self.decoder(x, *condition_of(self.conditions, conditions))
        return decoded  # (B, numbers, r, phi, z)

    def decode_codes(self, codes: Tensor, conditions: Conditions) -> Tensor:
        """(B, T) codes -> the numbers of each cell, (B, numbers, r, phi, z)."""
        return self.decode(self.codebook.lookup(codes), conditions)

    def codes_within(self, layers: int) -> int:
        """How many codes of the sequence lie wholly within the first layers."""
        return int((self.depths <= layers + 1e-6).sum())
