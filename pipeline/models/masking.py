"""Which tokens of a shower are hidden: samplers for every pretext task.

A sampler gives each token a score; the tokens with the highest scores are hidden, and always equally many in all
showers of a batch, so that the encoder can run on the visible ones alone.
In: a task, the token grid (r, phi, z), a generator whose draws have the showers first or no size at all (one number for
the batch). Out: a `Masking`. It sees no cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.pretraining import Blocks, Inpainting, NextLayer, Pretext
from pipeline.models.tokens import Triple

Sampler = Callable[[Any, int, Triple, torch.Generator], Tensor]


@dataclass(frozen=True)
class Masking:
    """B showers, N tokens: `order` (B, N) puts the `visible` ones first; `asked` (B, N): those that the loss counts."""

    order: Tensor
    visible: int
    asked: Tensor

    @property
    def hidden(self) -> Tensor:
        """(B, N) bool."""
        return self.order.argsort(dim=1) >= self.visible


def random_order(showers: int, tokens: int, generator: torch.Generator) -> Tensor:
    """(shower, token) a random order of the tokens of each shower."""
    return _uniform(showers, tokens, generator).argsort(dim=1)


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """How many tokens the encoder sees: at least one, and at least one stays hidden."""
    return min(max(1, round(tokens * (1 - mask_ratio))), max(1, tokens - 1))


def masking(task: Pretext, showers: int, grid: Triple, generator: torch.Generator) -> Masking:
    """The tokens that a task hides in each shower."""
    tokens = math.prod(grid)
    visible = _visible(task, grid, generator)
    order = SAMPLERS.get(task.name, _random)(task, showers, grid, generator).argsort(dim=1, stable=True)
    hidden = order.argsort(dim=1) >= visible
    if isinstance(task, NextLayer):  # of the hidden depths, the first alone is asked for
        asked = (torch.arange(tokens, device=order.device) % grid[2] == visible * grid[2] // tokens) & hidden
    else:
        asked = hidden if getattr(task, "on", "hidden") == "hidden" else torch.ones_like(hidden)
    return Masking(order, visible, asked)


def _visible(task: Pretext, grid: Triple, generator: torch.Generator) -> int:
    tokens = math.prod(grid)
    if isinstance(task, Inpainting):
        return tokens - math.prod(task.size)
    if isinstance(task, NextLayer):
        depth = torch.randint(1, grid[2], (), generator=generator, device=generator.device)
        return tokens // grid[2] * int(depth)
    ratio = getattr(task, "ratio", None)
    if ratio is None:  # denoising: every token is asked for
        return 0
    if isinstance(ratio, tuple):
        place = torch.rand((), generator=generator, device=generator.device)
        ratio = ratio[0] + (ratio[1] - ratio[0]) * float(place)
    return visible_tokens(tokens, ratio)


# ------------------------------------------------------------------ scores (B, N), high ones are hidden


def _random(task: Pretext, showers: int, grid: Triple, generator: torch.Generator) -> Tensor:
    return _uniform(showers, math.prod(grid), generator)


def _blocks(task: Blocks, showers: int, grid: Triple, generator: torch.Generator) -> Tensor:
    """All tokens of a block have the block's rank; the grid of blocks lies anywhere, in phi also across the seam."""
    index, counts = torch.zeros(showers, 1, dtype=torch.int64, device=generator.device), 1
    for axis, (places, n, size) in enumerate(zip(_places(grid, generator), grid, task.size, strict=True)):
        shift = torch.randint(size if axis != 1 else n, (showers,), generator=generator, device=generator.device)
        moved = places + shift[:, None]
        block = (moved % n if axis == 1 else moved) // size
        along = -(-n // size) + (axis != 1)
        index, counts = index * along + block, counts * along
    rank = _uniform(showers, counts, generator).argsort(dim=1).argsort(dim=1)
    return rank.gather(1, index) + 0.5 * _uniform(showers, math.prod(grid), generator)


def _neighbourhoods(task: Pretext, showers: int, grid: Triple, generator: torch.Generator) -> Tensor:
    """Minus the squared distance, in tokens and around phi, from a random token."""
    centre = torch.randint(math.prod(grid), (showers, 1), generator=generator, device=generator.device)
    r, phi, z = _places(grid, generator)
    away = (phi - phi[centre]).abs()
    distance = (r - r[centre]) ** 2 + torch.minimum(away, grid[1] - away) ** 2 + (z - z[centre]) ** 2
    return -distance - 0.5 * _uniform(showers, math.prod(grid), generator)


def _box(task: Inpainting, showers: int, grid: Triple, generator: torch.Generator) -> Tensor:
    inside = torch.ones(showers, math.prod(grid), dtype=torch.bool, device=generator.device)
    for axis, (places, n, size) in enumerate(zip(_places(grid, generator), grid, task.size, strict=True)):
        if task.first is None:
            most = n if axis == 1 else n - size + 1
            first = torch.randint(most, (showers, 1), generator=generator, device=generator.device)
        else:
            first = torch.full((showers, 1), task.first[axis], device=generator.device)
        inside &= (places - first) % n < size
    return inside + 0.5 * _uniform(showers, math.prod(grid), generator)


def _depth(task: NextLayer, showers: int, grid: Triple, generator: torch.Generator) -> Tensor:
    return _places(grid, generator)[2].expand(showers, -1)


SAMPLERS: dict[str, Sampler] = {
    "blocks": _blocks,
    "neighbourhoods": _neighbourhoods,
    "inpainting": _box,
    "next_layer": _depth,
}


def _uniform(showers: int, tokens: int, generator: torch.Generator) -> Tensor:
    return torch.rand(showers, tokens, generator=generator, device=generator.device)


def _places(grid: Triple, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) r, phi and z of each token."""
    r, phi, z = torch.meshgrid(*(torch.arange(n, device=generator.device) for n in grid), indexing="ij")
    return r.flatten(), phi.flatten(), z.flatten()
