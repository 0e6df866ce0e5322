"""Samplers: pure functions over a denoiser and given noise.

In: a denoiser (noisy (B, ...), level (B,)) -> expectation (B, ...), a noisy start, and the noise levels to pass. Out:
the start carried to the last level. Heun's method in sigma^(1/rho) (arXiv:2206.00364, eq. 5 and algorithm 1) serves
the EDM denoisers and the posterior mean of the probabilistic head alike.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]


def noise_levels(steps: int, high: float, low: float, rho: float) -> list[float]:
    """`steps` + 1 levels from high to low, even in sigma^(1/rho) (arXiv:2206.00364, eq. 5)."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return [float((ends[0] + (ends[1] - ends[0]) * i / steps) ** rho) for i in range(steps + 1)]


def heun(denoiser: Denoiser, start: Tensor, levels: list[float]) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma through the levels (arXiv:2206.00364, algorithm 1)."""
    x = start
    for sigma, following in pairwise(levels):
        slope = (x - denoiser(x, at_level(x, sigma))) / sigma
        proposed = x + (following - sigma) * slope
        if following > 0:
            corrected = (proposed - denoiser(proposed, at_level(x, following))) / following
            proposed = x + (following - sigma) * 0.5 * (slope + corrected)
        x = proposed
    return x


def at_level(x: Tensor, sigma: float) -> Tensor:
    """(B,) the level for each of B rows."""
    return torch.full((len(x),), sigma, device=x.device)
