"""What attention looks at: its weights per block and head, and what they say of one shower.

In: a network's blocks while it runs, and the energy of each token. Out: weights (B, H, N, N), a row for each token that
asks, which sums to one; from them maps over the patches. B showers, H heads, N tokens. The number of tokens that a row
looks at is the exponential of its entropy (1: one token, N: all alike). Weights are computed beside the network's own
attention, which does not form them. Attention is not an explanation (arXiv:1902.10186): it says what is mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.blocks import Attention
from pipeline.models.tokens import Triple


@contextmanager
def recorded(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Each call of a block's attention inside the context adds its weights (B, H, N, N) to the list."""
    maps: list[Tensor] = []

    def record(attention: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        assert isinstance(attention, Attention)  # only these are hooked
        x, mask, *_ = (*args, None)
        maps.append(attention.weights(x, given.get("mask", mask), given.get("angles")).detach().float())

    layers = [module for block in blocks for module in block.modules() if isinstance(module, Attention)]
    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def looked_at(weights: Tensor) -> Tensor:
    """(..., N) rows that sum to one -> (...) number of tokens they look at, 1 to N."""
    entropy: Tensor = torch.special.entr(weights.double()).sum(dim=-1)
    return entropy.exp()


def attention_table(maps: list[Tensor], energy: Tensor, grid: Triple) -> dict[str, Any]:
    """Of one shower: maps (1, H, N, N) of L blocks, (N,) energies of its tokens -> JSON-able numbers.

    asking: place (r, phi, z) of the token of most energy. from_asking, (L, H, r, z): what it looks at, summed over
    phi. received, (L, H, r, z): what tokens with energy look at on average. from_asking_tokens, received_tokens:
    (L, H), how many tokens these rows look at, of `tokens`.
    """
    weights = torch.cat(maps).double()  # (L, H, N, N)
    asking = int(energy.argmax())
    own, lit = weights[:, :, asking], weights[:, :, energy > 0]  # (L, H, N), (L, H, lit, N)
    r, rest = divmod(asking, grid[1] * grid[2])
    return {
        "grid": list(grid),
        "tokens": math.prod(grid),
        "asking": [r, *divmod(rest, grid[2])],
        "from_asking": _map(own, grid),
        "received": _map(lit.mean(dim=2), grid),
        "from_asking_tokens": _rounded(looked_at(own)),
        "received_tokens": _rounded(looked_at(lit).mean(dim=2)),
    }


def _map(rows: Tensor, grid: Triple) -> list[Any]:
    """(L, H, N) -> (L, H, r, z)."""
    return _rounded(rows.reshape(*rows.shape[:2], *grid).sum(dim=3))


def _rounded(values: Tensor) -> list[Any]:
    numbers: list[Any] = torch.round(values, decimals=6).tolist()
    return numbers
