"""Showers as sequences: patches of (r, phi, z) cells become tokens with fixed positions.

In: (shower, r, phi, z) in any unit. Out: (shower, token, cell of the patch), tokens in the order (r, phi, z)
of the patches. Positions are sine-cosine tables with a third of the width for each direction and amplitude
one; phi is periodic (arXiv:2010.11929 for the patches). Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Triple = tuple[int, int, int]


def patch_grid(shape: Triple, patch: Triple) -> Triple:
    """Number of patches along (r, phi, z); ValueError when the patch does not divide the mesh."""
    if any(n % p for n, p in zip(shape, patch, strict=True)):
        raise ValueError(f"patch: expected a divisor of the mesh {shape}, got {patch}")
    r, phi, z = (n // p for n, p in zip(shape, patch, strict=True))
    return (r, phi, z)


def patchify(cells: Tensor, patch: Triple) -> Tensor:
    """(shower, r, phi, z) -> (shower, token, cell of the patch)."""
    n, *shape = cells.shape
    grid = patch_grid((shape[0], shape[1], shape[2]), patch)
    split = cells.reshape(n, grid[0], patch[0], grid[1], patch[1], grid[2], patch[2])
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(n, math.prod(grid), math.prod(patch))


def unpatchify(tokens: Tensor, patch: Triple, shape: Triple) -> Tensor:
    """(shower, token, cell of the patch) -> (shower, r, phi, z); the inverse of `patchify`."""
    grid = patch_grid(shape, patch)
    split = tokens.reshape(tokens.shape[0], *grid, *patch)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(tokens.shape[0], *shape)


def layers_of_tokens(layer_values: Tensor, grid: Triple) -> Tensor:
    """(shower, z) values of layers -> (shower, token, layer of the patch): each token's own layers."""
    n, n_z = layer_values.shape
    blocks = layer_values.reshape(n, 1, grid[2], n_z // grid[2])
    return blocks.expand(n, grid[0] * grid[1], grid[2], -1).reshape(n, math.prod(grid), -1)


def position_table(grid: Triple, width: int, periodic_phi: bool = True) -> Tensor:
    """(token, width) fixed positions; what a width not divisible by 6 leaves over is zero.

    Along r and z the wavelengths run geometrically from 2 to 4 x the grid; along phi they are whole
    fractions of the circle, so that the last sector is the neighbour of the first; not so without `periodic_phi`.
    """
    k = width // 6
    if k < 1:
        raise ValueError(f"width: expected at least 6 for three directions, got {width}")
    table = torch.cat([f(a) for a in _angles(grid, k, periodic_phi) for f in (torch.sin, torch.cos)], dim=1)
    return torch.nn.functional.pad(table, (0, width - 6 * k)).float()


def rotary_angles(grid: Triple, width: int, periodic_phi: bool = True) -> Tensor:
    """(token, width / 2) angles by which attention turns pairs of a head's values (RoPE, arXiv:2104.09864, axial).

    A third of the pairs for each direction, with the wave numbers of `position_table`; pairs left over do not turn.
    """
    if width % 2 or width < 6:
        raise ValueError(f"rotary: expected an even number of at least 6 values per head, got {width}; use fewer heads")
    k = width // 6
    table = torch.cat(_angles(grid, k, periodic_phi), dim=1)
    return torch.nn.functional.pad(table, (0, width // 2 - 3 * k)).float()


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """(shower, head, token, D), pairs (d, d + D / 2) turned by angles (token, D / 2) or (shower, 1, token, D / 2)."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def _angles(grid: Triple, k: int, periodic_phi: bool) -> list[Tensor]:
    """Three times (token, k): place along a direction times k wave numbers."""
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    waves = [_wave_numbers(n, k) for n in grid]
    if periodic_phi:
        waves[1] = torch.arange(1, k + 1, dtype=torch.float64) * 2 * math.pi / grid[1]
    return [place.reshape(-1, 1) * wave for place, wave in zip(places, waves, strict=True)]


def _wave_numbers(n: int, k: int) -> Tensor:
    shortest, longest = 2.0, 4.0 * max(n, 2)
    steps = torch.linspace(0, 1, k, dtype=torch.float64)
    return 2 * math.pi / (shortest * (longest / shortest) ** steps)
