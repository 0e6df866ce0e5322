"""The energy network: a small diffusion of the layer energies given the incident energy.

A shower's layer energies (B, Z) in visible MeV become 1 + Z features: E_tot / E_inc and the logarithms of the
layer fractions, each minus a quadratic in log E_inc, and mapped by a monotone table to a standard normal. A
perceptron with EDM preconditioning (arXiv:2206.00364, table 1) learns their joint distribution. Layers below the
threshold are empty: their logarithm is spread evenly over a band below the threshold's, so that there is no spike.
No feature leaves the range of the training showers: an error in a logarithm would be a large one in energy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import LayerEnergiesSpec
from pipeline.models.conditions import ConditionEncoder, Conditions

EMPTY_BAND = 1.5
KNOTS, KNOT_RANGE = 41, 3.5
SIGMA_DATA = 1.0


def edm_coefficients(sigma: Tensor, sigma_data: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of arXiv:2206.00364, table 1."""
    total = sigma.square() + sigma_data**2
    return (sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = x + self.layers(self.norm(x) + condition)  # (B, W)
        return x


class LayerEnergyDiffusion(nn.Module):
    """Denoiser of the 1 + Z features, and the map between them and layer energies."""

    coefficients: Tensor
    knots: Tensor
    scores: Tensor

    def __init__(
        self, spec: LayerEnergiesSpec, conditions: ConditionEncoder, n_layers: int, domains: int, threshold_mev: float
    ) -> None:
        super().__init__()
        self.spec = spec
        self.threshold_mev = threshold_mev
        self.n_features = 1 + n_layers
        self.conditions = conditions
        self.embed = nn.Linear(self.n_features, spec.width)
        self.blocks = nn.ModuleList(_Residual(spec.width) for _ in range(spec.depth))
        self.out = nn.Linear(spec.width, self.n_features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("coefficients", torch.zeros(domains, 3, self.n_features))
        self.register_buffer("scores", torch.linspace(-KNOT_RANGE, KNOT_RANGE, KNOTS))
        self.register_buffer("knots", self.scores.repeat(domains, self.n_features, 1))

    def forward(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """(B, 1 + Z) features plus noise of level (B,) -> (B, 1 + Z) their expectation."""
        skip, out, scale, log_sigma = edm_coefficients(sigma[:, None], SIGMA_DATA)  # 4 x (B, 1)
        condition = self.conditions(conditions, 4 * log_sigma[:, 0])  # (B, W)
        x = self.embed(scale * noisy)  # (B, W)
        for block in self.blocks:
            x = block(x, condition)  # (B, W)
        denoised: Tensor = skip * noisy + out * self.out(F.silu(x)).float()  # (B, 1 + Z)
        return denoised

    def features(self, conditions: Conditions, uniform: Tensor) -> Tensor:
        """Layer energies (B, Z), (B, Z) uniform in [0, 1) for empty layers -> (B, 1 + Z) normal features."""
        residual = self._raw(conditions, uniform) - self._trend(conditions)  # (B, 1 + Z)
        knots = self.knots[conditions.domain]  # (B, 1 + Z, K)
        return interpolated(residual, knots, self.scores.expand_as(knots))  # (B, 1 + Z)

    def layer_energies(self, features: Tensor, conditions: Conditions) -> Tensor:
        """(B, 1 + Z) features -> (B, Z) MeV; every layer is empty or at the threshold or above it."""
        knots = self.knots[conditions.domain]  # (B, 1 + Z, K)
        residual = interpolated(features, self.scores.expand_as(knots), knots)  # (B, 1 + Z)
        raw = residual + self._trend(conditions)  # (B, 1 + Z)
        total = (raw[:, 0] * conditions.incident_energy).clamp_min(self.threshold_mev)[:, None]  # (B, 1)
        energy = raw[:, 1:].clamp(-30, 5).exp() * total  # (B, Z)
        energy = torch.where(energy < self.threshold_mev, 0, energy)  # (B, Z)
        strongest = F.one_hot(raw[:, 1:].argmax(dim=1), energy.shape[1]).bool()  # (B, Z)
        energy = torch.where(strongest, energy.clamp_min(self.threshold_mev), energy)  # (B, Z)
        for _ in range(energy.shape[1]):  # a layer that normalising pushed below the threshold is empty
            energy = energy * (total / energy.sum(dim=1, keepdim=True))  # (B, Z)
            low = (energy > 0) & (energy < self.threshold_mev) & ~strongest  # (B, Z)
            if not low.any():
                break
            energy = torch.where(low, 0, energy)  # (B, Z)
        return energy  # (B, Z)

    def _raw(self, conditions: Conditions, uniform: Tensor) -> Tensor:
        energy = conditions.layer_energy  # (B, Z)
        total = energy.sum(dim=1, keepdim=True).clamp_min(self.threshold_mev)  # (B, 1)
        empty = self.threshold_mev * torch.exp(-EMPTY_BAND * (1 - uniform))  # (B, Z)
        log_fraction = torch.where(energy < self.threshold_mev, empty, energy).log() - total.log()  # (B, Z)
        return torch.cat([total / conditions.incident_energy[:, None], log_fraction], dim=1)  # (B, 1 + Z)

    def _trend(self, conditions: Conditions) -> Tensor:
        log_energy = self.conditions.log_energy(conditions)  # (B,)
        powers = torch.stack([torch.ones_like(log_energy), log_energy, log_energy.square()], dim=1)  # (B, 3)
        return torch.einsum("bk,bkf->bf", powers, self.coefficients[conditions.domain])  # (B, 1 + Z)

    @torch.no_grad()
    def fit(self, conditions: Conditions, uniform: Tensor) -> None:
        """The quadratics in log E_inc and the quantiles about them, for each domain, from training showers."""
        probability = torch.special.ndtr(self.scores.double())
        probability[0], probability[-1] = 0, 1
        raw = self._raw(conditions, uniform).double()
        log_energy = self.conditions.log_energy(conditions).double()
        powers = torch.stack([torch.ones_like(log_energy), log_energy, log_energy.square()], dim=1)
        for domain in sorted(set(conditions.domain.tolist())):
            rows = conditions.domain == domain
            normal = powers[rows].T @ powers[rows] / rows.sum() + 1e-6 * torch.eye(3, dtype=torch.float64)
            solution = torch.linalg.solve(normal, powers[rows].T @ raw[rows] / rows.sum())
            residual = raw[rows] - powers[rows] @ solution
            self.coefficients[domain] = solution.float()
            knots = torch.quantile(residual, probability, dim=0).T
            span = (knots[:, -1:] - knots[:, :1]).clamp_min(1e-3)
            apart = 1e-5 * span * torch.arange(KNOTS, dtype=torch.float64)  # equal quantiles must not coincide
            self.knots[domain] = (knots + apart).float()


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """(B, F) mapped through the increasing tables (B, F, K), linearly between the knots and constant outside."""
    x = x.clamp(knots[..., 0], knots[..., -1])  # (B, F)
    right = torch.searchsorted(knots.contiguous(), x[..., None].contiguous()).clamp(1, knots.shape[-1] - 1)  # (B, F, 1)
    low, high = knots.gather(2, right - 1)[..., 0], knots.gather(2, right)[..., 0]  # 2 x (B, F)
    first, last = values.gather(2, right - 1)[..., 0], values.gather(2, right)[..., 0]  # 2 x (B, F)
    return first + (last - first) * (x - low) / (high - low)  # (B, F)
