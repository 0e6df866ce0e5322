"""Diffusion formulations as one: each is a preconditioning of the same denoiser, and a law of noise levels.

A noisy shower is x + sigma n, with n of unit spread. DDPM (arXiv:2006.11239) sees it scaled by alpha = 1/sqrt(1 +
sigma^2), flow matching (arXiv:2210.02747) by 1 - t with sigma = t/(1 - t); EDM (arXiv:2206.00364) by c_in. What the
network is trained to give (its target: the noise, the clean shower, the velocity) is linear in both, so each
formulation is D = skip noisy + out F(scale noisy) as in EDM, table 1, and the network's own squared error is that of
D over out^2. Data have unit spread: the recipe ends in standardise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import DiffusionSpec
from pipeline.models.draws import evenly
from pipeline.models.layer_energies import edm_coefficients

LOG_NORMAL = (-0.5, 1.2)
BETA = (0.1, 20.0)
COSINE_OFFSET = 0.008


@dataclass(frozen=True)
class Preconditioning:
    """D(noisy) = skip noisy + out F(scale noisy)."""

    skip: Tensor
    out: Tensor
    scale: Tensor

    def target(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """What the network F should give: that with which D is the clean shower."""
        return (clean - self.skip * noisy) / self.out


def preconditioning(spec: DiffusionSpec, sigma: Tensor) -> Preconditioning:
    """Coefficients of the spec's formulation and target at noise levels of any shape."""
    if spec.formulation == "edm":
        return Preconditioning(*edm_coefficients(sigma)[:3])
    if spec.formulation == "ddpm":
        scale = (1 + sigma.square()).rsqrt()  # alpha of the variance-preserving process
        velocity = scale.square(), -sigma * scale  # v = alpha n - sigma alpha x (arXiv:2202.00512, eq. 10)
    else:
        scale = 1 / (1 + sigma)  # 1 - t
        velocity = scale, -sigma * scale  # u = n - x, so that x = x_t - t u
    one = torch.ones_like(sigma)
    skip, out = {"x": (0 * one, one), "eps": (one, -sigma), "v": velocity}[spec.target]
    return Preconditioning(skip, out, scale)


def noise_levels(steps: int, high: float, low: float, rho: float) -> list[float]:
    """`steps` + 1 levels from high to low, even in sigma^(1/rho) (arXiv:2206.00364, eq. 5)."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return [float((ends[0] + (ends[1] - ends[0]) * i / steps) ** rho) for i in range(steps + 1)]


def linear_sigma(time: Tensor) -> Tensor:
    """Noise level at time 0 ... 1 of DDPM's linear schedule (arXiv:2011.13456, eq. 33)."""
    low, high = BETA
    return torch.expm1(low * time + 0.5 * (high - low) * time.square()).sqrt()


def cosine_sigma(time: Tensor) -> Tensor:
    """Noise level at time 0 ... 1 of the cosine schedule (arXiv:2102.09672, eq. 17)."""
    angle = (time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (math.pi / 2)
    start = math.cos(COSINE_OFFSET / (1 + COSINE_OFFSET) * (math.pi / 2))
    signal = (angle.cos() / start).clamp(1e-4, 1)
    return (1 - signal.square()).sqrt() / signal


def log_uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(n,) noise levels, uniform in log sigma and spread evenly over the batch."""
    return low * (high / low) ** evenly(n, generator)


def log_normal(n: int, generator: torch.Generator) -> Tensor:
    """(n,) noise levels of arXiv:2206.00364, table 1, for data of unit spread."""
    mean, spread = LOG_NORMAL
    return (mean + spread * torch.randn(n, generator=generator, device=generator.device)).exp()


def training_levels(spec: DiffusionSpec, n: int, generator: torch.Generator) -> Tensor:
    """(n,) noise levels to train at: log-uniform for a likelihood, else the law of the formulation."""
    if spec.output == "probabilistic":
        return log_uniform(n, spec.sigma_min, spec.sigma_max, generator)
    if spec.formulation == "edm":
        return log_normal(n, generator)
    time = evenly(n, generator)
    if spec.formulation == "flow":
        sigma = time / (1 - time).clamp_min(1e-6)
    else:
        sigma = {"linear": linear_sigma, "cosine": cosine_sigma}[spec.schedule](time)
    return sigma.clamp(spec.sigma_min, spec.sigma_max)
