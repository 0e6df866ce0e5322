"""Showers of an autoregressive prior: codes one after the other, first layers first, and then all cells at once.

In: the prior with its tokenizer, conditions, noise; for a completion the first codes, which are kept. Out: showers in
network space (B, r, phi, z). A code is drawn by the inverse of the cumulative probability at one uniform number, so
a shower's codes are its own whatever the batch. Top-p: nucleus sampling (arXiv:1904.09751, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.config import SamplingSpec
from pipeline.generation.cells import draw_cells
from pipeline.generation.drawn import Drawn
from pipeline.generation.noise import ShowerNoise
from pipeline.models import AutoregressivePrior, Conditions


def filtered(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """(B, K) logits over the temperature; -inf for all but the k likeliest, and then but the likeliest that make up p.

    The code that reaches p is kept, so at least one is; of equally likely codes the first ones count as likelier.
    """
    ordered, codes = (logits / temperature).sort(dim=1, descending=True, stable=True)  # 2 x (B, K)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    if top_p < 1:
        share = ordered.softmax(dim=1)  # (B, K)
        ordered = ordered.masked_fill(share.cumsum(dim=1) - share >= top_p, -torch.inf)  # (B, K)
    return torch.empty_like(ordered).scatter_(1, codes, ordered)  # (B, K)


def picked(logits: Tensor, uniform: Tensor) -> Tensor:
    """(B, K) logits, (B,) uniform in [0, 1) -> (B,) codes of these probabilities; never one of logit -inf."""
    share = logits.double().softmax(dim=1)  # (B, K)
    cumulative = share.cumsum(dim=1)  # (B, K)
    place = uniform.double() * cumulative[:, -1]  # (B,)
    found = torch.searchsorted(cumulative, place[:, None], right=True)[:, 0]  # (B,)
    last = share.shape[1] - 1 - (share > 0).int().flip(1).argmax(dim=1)  # (B,) where rounding may not lead beyond
    return torch.minimum(found, last)


@torch.no_grad()
def sample_codes(
    network: AutoregressivePrior,
    conditions: Conditions,
    uniform: Tensor,
    spec: SamplingSpec,
    first: Tensor | None = None,
) -> Tensor:
    """(B, T) uniform numbers -> codes (B, T); the codes (B, t) that are given come first and are kept."""
    sequence = network.begin(conditions)
    codes: list[Tensor] = [] if first is None else list(first.unbind(1))
    given = len(codes)
    for place in range(network.tokenizer.tokens):
        logits = network.following(sequence, place, codes[place - 1] if place else None)
        if place >= given:
            codes.append(picked(filtered(logits, spec.temperature, spec.top_k, spec.top_p), uniform[:, place]))
    return torch.stack(codes, dim=1)


def sample_autoregressive(
    network: AutoregressivePrior,
    conditions: Conditions,
    noise: ShowerNoise,
    spec: SamplingSpec,
    first: Tensor | None = None,
) -> Drawn:
    """Showers in network space for conditions that hold their layer energies already."""
    codes = sample_codes(network, conditions, noise.uniform(network.tokenizer.tokens), spec, first)
    with torch.no_grad():
        numbers = network.tokenizer.decode_codes(codes, conditions)
    return draw_cells(network.tokenizer, numbers, conditions, noise)
