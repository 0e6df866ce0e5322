"""Samplers: pure functions over a denoiser, a noisy start, the noise levels to pass, and a source of noise.

In: a denoiser (noisy (B, ...), level (B,)) -> expectation (B, ...); a start (B, ...) that is a clean sample plus noise
of the first level; levels that fall, to 0 for a clean sample. Out: the start carried to the last level. All work in
coordinates where the noise adds (x + sigma n); a variance-preserving process is the same in other units, so that DDPM's
ancestral sampling, DDIM and DPM-Solver++ stand beside Euler and Heun and serve every formulation and every head alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Normal = Callable[[], Tensor]
Sampler = Callable[[Denoiser, Tensor, list[float], Normal, float], Tensor]
"""(denoiser, start, levels, new standard normal noise of the start's shape, eta) -> the start at the last level."""


def at_level(x: Tensor, sigma: float) -> Tensor:
    """(B,) the level for each of B rows."""
    return torch.full((len(x),), sigma, device=x.device, dtype=x.dtype)


def heun(
    denoiser: Denoiser, start: Tensor, levels: list[float], normal: Normal | None = None, eta: float = 0
) -> Tensor:
    """Integrate dx/dsigma = (x - D(x, sigma)) / sigma, in second order (arXiv:2206.00364, algorithm 1)."""
    x = start
    for sigma, following in pairwise(levels):
        slope = (x - denoiser(x, at_level(x, sigma))) / sigma
        proposed = x + (following - sigma) * slope
        if following > 0:
            corrected = (proposed - denoiser(proposed, at_level(x, following))) / following
            proposed = x + (following - sigma) * 0.5 * (slope + corrected)
        x = proposed
    return x


def euler(
    denoiser: Denoiser, start: Tensor, levels: list[float], normal: Normal | None = None, eta: float = 0
) -> Tensor:
    """The same in first order."""
    x = start
    for sigma, following in pairwise(levels):
        clean = denoiser(x, at_level(x, sigma))
        x = clean + (following / sigma) * (x - clean)
    return x


def ddim(denoiser: Denoiser, start: Tensor, levels: list[float], normal: Normal, eta: float = 0) -> Tensor:
    """DDIM (arXiv:2010.02502, eq. 12 and 16); with eta 0 it is Euler in these coordinates, and needs no noise."""
    x = start
    for sigma, following in pairwise(levels):
        clean = denoiser(x, at_level(x, sigma))
        fresh = eta * following * math.sqrt(1 - (following / sigma) ** 2)
        kept = math.sqrt(following**2 - fresh**2)
        x = clean + (kept / sigma) * (x - clean)
        x = x + fresh * normal() if fresh else x
    return x


def ancestral(denoiser: Denoiser, start: Tensor, levels: list[float], normal: Normal, eta: float = 1) -> Tensor:
    """DDPM's posterior q(x_following | x_sigma, clean) at each step (arXiv:2006.11239, eq. 6 and 7)."""
    x = start
    for sigma, following in pairwise(levels):
        clean, share = denoiser(x, at_level(x, sigma)), (following / sigma) ** 2
        x = clean + share * (x - clean)
        x = x + following * math.sqrt(1 - share) * normal() if following else x
    return x


def dpm_solver(
    denoiser: Denoiser, start: Tensor, levels: list[float], normal: Normal | None = None, eta: float = 0
) -> Tensor:
    """DPM-Solver++(2M), data prediction of second order from two evaluations in a row (arXiv:2211.01095, alg. 2)."""
    x, before, step_before = start, start, 0.0
    for i, (sigma, following) in enumerate(pairwise(levels)):
        clean = denoiser(x, at_level(x, sigma))
        guess = clean
        step = math.log(sigma / following) if following else math.inf
        if i and following:
            weight = step / (2 * step_before)
            guess = (1 + weight) * clean - weight * before
        x = guess + (following / sigma) * (x - guess)
        before, step_before = clean, step
    return x


SAMPLERS: dict[str, Sampler] = {
    "heun": heun,
    "euler": euler,
    "ddim": ddim,
    "ancestral": ancestral,
    "dpm_solver": dpm_solver,
}
