"""A transformer that predicts a shower's codes one after the other, first layers first, given its conditions.

In: codes (B, T) of its tokenizer, and conditions. Out: logits (B, T, K), those of place t from the codes before t.
At the start of training these are the frequencies of the codes at each place, which are buffers. `begin` and
`following` give the same logits one place at a time from kept keys and values. The tokenizer is part of the model and
frozen. Sources: GPT-2's decoder-only transformer, with the conditions through adaLN-zero (arXiv:2212.09748).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import AutoregressiveSpec
from pipeline.models.autoencoder import condition_of
from pipeline.models.blocks import ConditionedBlock, Memory, Modulation
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.tokens import Triple, position_table
from pipeline.models.vqvae import ShowerVQVAE

FREQUENCY_WEIGHT = 20.0


@dataclass
class Sequence:
    """A sequence that grows: the condition (B, W), what each place adds (B, T, W), keys and values of each block."""

    condition: Tensor
    places: Tensor
    memories: list[Memory]


class AutoregressivePrior(ShowerNetwork):
    """The prior, and its tokenizer as a part; B showers, T codes, K values of a code, W width."""

    positions: Tensor
    frequency: Tensor
    mask: Tensor
    own: Tensor

    def __init__(
        self,
        spec: AutoregressiveSpec,
        shape: Triple,
        conditions: ConditionEncoder,
        domains: int,
        tokenizer: ShowerVQVAE,
    ) -> None:
        super().__init__(shape, conditions, domains)
        self.spec, self.tokenizer = spec, tokenizer.requires_grad_(False)
        tokens, size, layers = tokenizer.tokens, tokenizer.codebook.size, shape[2]
        self.embed = nn.Embedding(size + 1, spec.width)  # the last one opens a sequence
        table = position_table(self.tokenizer.grid, spec.width)[self.tokenizer.order]  # (T, W)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, spec.width))
        self.register_buffer("positions", table, persistent=False)
        self.register_buffer("own", own_layers(self.tokenizer.depths, self.tokenizer.grid[2], layers), persistent=False)
        self.register_buffer("mask", torch.ones(tokens, tokens).tril().bool(), persistent=False)
        self.own_layers = nn.Linear(1, spec.width) if conditions.layers else None
        self.blocks = nn.ModuleList(
            ConditionedBlock(spec.width, spec.heads, spec.mlp_ratio, spec.width) for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.width, elementwise_affine=False)
        self.modulation = Modulation(spec.width, spec.width, 2)
        self.out = nn.Linear(spec.width, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("frequency", torch.zeros(tokens, size))

    def forward(self, codes: Tensor, conditions: Conditions) -> Tensor:
        """(B, T) codes -> (B, T, K) logits of each place, from the codes before it."""
        sequence = self.begin(conditions, remember=False)
        first = torch.full_like(codes[:, :1], self.tokenizer.codebook.size)  # (B, 1)
        x = self.embed(torch.cat([first, codes[:, :-1]], dim=1)) + sequence.places  # (B, T, W)
        for block in self.blocks:
            x = block(x, sequence.condition, self.mask)  # (B, T, W)
        return self._logits(x, sequence.condition, slice(None))  # (B, T, K)

    def begin(self, conditions: Conditions, remember: bool = True) -> Sequence:
        """An empty sequence for B showers."""
        condition, log_layers = condition_of(self.conditions, conditions)  # (B, W), (B, z)
        places = (self.positions + self.places).expand(len(condition), -1, -1)  # (B, T, W)
        if self.own_layers is not None:
            assert log_layers is not None  # conditions that read layers give them
            places = places + self.own_layers((log_layers @ self.own.T)[:, :, None])  # (B, T, W)
        kept = [block for block in self.blocks if isinstance(block, ConditionedBlock) and remember]
        n, tokens = len(condition), self.tokenizer.tokens
        return Sequence(condition, places, [block.attention.memory(n, tokens, condition) for block in kept])

    def following(self, sequence: Sequence, place: int, before: Tensor | None) -> Tensor:
        """The code (B,) at the place before, None at the first -> (B, K) logits of this place."""
        if before is None:
            before = sequence.condition.new_full((len(sequence.condition),), self.tokenizer.codebook.size).long()
        x = (self.embed(before) + sequence.places[:, place])[:, None]  # (B, 1, W)
        for block, memory in zip(self.blocks, sequence.memories, strict=True):
            x = block(x, sequence.condition, memory=memory)  # (B, 1, W)
        return self._logits(x, sequence.condition, slice(place, place + 1))[:, 0]  # (B, K)

    def _logits(self, x: Tensor, condition: Tensor, places: slice) -> Tensor:
        shift, scale = self.modulation(condition)  # 2 x (B, 1, W)
        logits: Tensor = self.out(self.norm(x) * (1 + scale) + shift).float()  # (B, n, K)
        return self.frequency[places] + logits  # (B, n, K)

    @torch.no_grad()
    def fit_codes(self, codes: Tensor) -> None:
        """Log frequencies of the codes at each place from those of training showers (B, T).

        A place leans on the frequencies of all places (weight 20 showers), and these on equal ones (one code each).
        """
        size = self.tokenizer.codebook.size
        counts = torch.stack([torch.bincount(column, minlength=size) for column in codes.unbind(1)]).double()  # (T, K)
        overall = (counts.sum(dim=0) + 1) / (counts.sum() + size)  # (K,)
        self.frequency.copy_(((counts + FREQUENCY_WEIGHT * overall) / (len(codes) + FREQUENCY_WEIGHT)).log())


def own_layers(depths: Tensor, codes_along_z: int, layers: int) -> Tensor:
    """(T, Z) the weights of the layers in each code's own, summing to one; `depths` (T,) is where these end."""
    length = layers / codes_along_z
    edges = torch.arange(layers)  # (Z,)
    begin, end = (depths - length)[:, None], depths[:, None]  # 2 x (T, 1)
    overlap = (torch.minimum(end, edges + 1.0) - torch.maximum(begin, edges.float())).clamp_min(0)  # (T, Z)
    return overlap / length
