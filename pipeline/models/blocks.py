"""Transformer blocks: attention, and the same conditioned by adaptive layer norms.

Shapes: B showers, N tokens, W width, H heads, C width of the condition. Sources: pre-norm blocks of the ViT
(arXiv:2010.11929), adaLN-zero of the DiT (arXiv:2212.09748, section 3.2); options: RMSNorm (arXiv:1910.07467),
SwiGLU (arXiv:2002.05202), normalised queries and keys (arXiv:2302.05442). No positions; masks are
given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.tokens import rotated


@dataclass
class Memory:
    """Keys and values (B, H, capacity, W/H) of the tokens seen so far: what a later token attends to."""

    keys: Tensor
    values: Tensor
    seen: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of the next tokens (B, H, n, W/H); returns all so far."""
        end = self.seen + keys.shape[2]
        self.keys[:, :, self.seen : end], self.values[:, :, self.seen : end] = keys, values
        self.seen = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.query_norm = nn.RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def memory(self, showers: int, tokens: int, like: Tensor) -> Memory:
        """An empty memory for B showers of up to N tokens."""
        width = self.out.in_features // self.heads
        keys, values = like.new_zeros(2, showers, self.heads, tokens, width).unbind(0)
        return Memory(keys, values)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, memory: Memory | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """(B, N, W), (N, N) True where a row's token sees a column's, tokens before x, rotary angles -> (B, N, W)."""
        n, tokens, width = x.shape
        query, key, value = self._split(x, angles)  # 3 x (B, H, N, W/H)
        if memory is not None:
            key, value = memory.append(key, value)  # 2 x (B, H, M, W/H)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, H, N, W/H)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, tokens, width))  # (B, N, W)
        return out

    def weights(self, x: Tensor, mask: Tensor | None = None, angles: Tensor | None = None) -> Tensor:
        """(B, N, W), (N, N) who sees whom, rotary angles -> (B, H, N, N) shares that a row's token takes of each."""
        query, key, _ = self._split(x, angles)  # 3 x (B, H, N, W/H)
        products = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])  # (B, H, N, N)
        if mask is not None:
            products = products.masked_fill(~mask, -math.inf)  # (B, H, N, N)
        return products.softmax(dim=3)  # (B, H, N, N)

    def _split(self, x: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, W), rotary angles -> queries, keys and values of the heads."""
        n, tokens, width = x.shape
        each = (n, tokens, self.heads, width // self.heads)
        query, key, value = (  # 3 x (B, H, N, W/H)
            part.reshape(each).transpose(1, 2) for part in self.query_key_value(x).chunk(3, dim=2)
        )
        query, key = self.query_norm(query), self.key_norm(key)  # 2 x (B, H, N, W/H)
        if angles is not None:
            query, key = rotated(query, angles), rotated(key, angles)  # 2 x (B, H, N, W/H)
        return query, key, value


def feed_forward(width: int, ratio: float) -> nn.Sequential:
    """The block's perceptron, with the exact GELU, as in the ViT; the DiT approximates it by tanh."""
    hidden = int(width * ratio)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class SwiGLU(nn.Module):
    """A gated perceptron with as many weights as `feed_forward`."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio * 2 / 3)
        self.gate_and_value = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)  # 2 x (..., hidden)
        out: Tensor = self.out(F.silu(gate) * value)  # (..., W)
        return out


@dataclass(frozen=True)
class BlockStyle:
    """Options of a conditioned block; `gated`: the condition gates both branches, which are shut at the start."""

    norm: str = "layer"
    qk_norm: bool = False
    perceptron: str = "gelu"
    gated: bool = True

    def new_norm(self, width: int) -> nn.Module:
        """A norm without weights of its own."""
        kind = nn.LayerNorm if self.norm == "layer" else nn.RMSNorm
        return kind(width, elementwise_affine=False)

    def new_perceptron(self, width: int, ratio: float) -> nn.Module:
        """The perceptron."""
        return feed_forward(width, ratio) if self.perceptron == "gelu" else SwiGLU(width, ratio)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_perceptron = nn.LayerNorm(width)
        self.perceptron = feed_forward(width, mlp_ratio)

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """(B, N, W), rotary angles of the tokens or None -> (B, N, W)."""
        x = x + self.attention(self.norm_attention(x), angles=angles)  # (B, N, W)
        x = x + self.perceptron(self.norm_perceptron(x))  # (B, N, W)
        return x


class Modulation(nn.Module):
    """`count` shifts, scales and gates from the condition; zero at the start (adaLN-zero)."""

    def __init__(self, condition_width: int, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(condition_width, count * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(B, C) -> count x (B, 1, W)."""
        all_of_them: Tensor = self.linear(F.silu(condition)).unsqueeze(1)  # (B, 1, count W)
        return all_of_them.chunk(self.count, dim=-1)  # count x (B, 1, W)


class ConditionedBlock(nn.Module):
    """A transformer block whose norms are shifted and scaled, and its branches gated, by the condition."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, condition_width: int, style: BlockStyle | None = None
    ) -> None:
        super().__init__()
        self.style = style or BlockStyle()
        self.norm = self.style.new_norm(width)
        self.attention = Attention(width, heads, self.style.qk_norm)
        self.perceptron = self.style.new_perceptron(width, mlp_ratio)
        self.modulation = Modulation(condition_width, width, 6 if self.style.gated else 4)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None = None, memory: Memory | None = None) -> Tensor:
        """(B, N, W), (B, C), who sees whom, tokens before x -> (B, N, W)."""
        modulated = self.modulation(condition)  # 4 or 6 x (B, 1, W)
        if not self.style.gated:
            shift_a, scale_a, shift_p, scale_p = modulated  # 4 x (B, 1, W)
            x = x + self.attention(self.norm(x) * (1 + scale_a) + shift_a, mask, memory)  # (B, N, W)
            x = x + self.perceptron(self.norm(x) * (1 + scale_p) + shift_p)  # (B, N, W)
            return x
        shift_a, scale_a, gate_a, shift_p, scale_p, gate_p = modulated  # 6 x (B, 1, W)
        x = x + gate_a * self.attention(self.norm(x) * (1 + scale_a) + shift_a, mask, memory)  # (B, N, W)
        x = x + gate_p * self.perceptron(self.norm(x) * (1 + scale_p) + shift_p)  # (B, N, W)
        return x


def fourier_features(x: Tensor, count: int) -> Tensor:
    """(B,) -> (B, 2 count): sine and cosine at wave numbers 1/4 ... 4, for inputs of order one."""
    wave_numbers = torch.logspace(-2, 2, count, base=2.0, device=x.device, dtype=x.dtype) * (math.pi / 2)
    angles = x[:, None] * wave_numbers  # (B, count)
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # (B, 2 count)
