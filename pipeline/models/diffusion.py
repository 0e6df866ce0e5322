"""A diffusion transformer over patches, with a probabilistic or a plain pixel output.

In: showers in network space (B, r, phi, z) plus noise of level sigma, and their conditions. Out, by `output`:
- `probabilistic`: for each cell a hit logit, and the mean and log width of the standardised network value that it
  has if hit. `denoised` is the posterior mean that follows; an empty cell has the known value `empty`.
- `pixels`: the denoised cells, with the preconditioning of EDM, DDPM or flow matching (`formulations`).
Blocks are those of the DiT with adaLN-zero (arXiv:2212.09748). The recipe must end in a standardisation: noise
levels are in units of the network values' spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import DiffusionSpec
from pipeline.models.blocks import BlockStyle, ConditionedBlock, Modulation
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.formulations import preconditioning
from pipeline.models.layer_energies import edm_coefficients
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.tokens import Triple, layers_of_tokens, patch_grid, patchify, position_table, unpatchify

LOG_WIDTH = (-4.0, 1.5)
SIGMA_DATA = 1.0


@dataclass(frozen=True)
class CellDistribution:
    """What a cell is, given the noisy shower: hit logit; mean and log width of the standardised value of a hit."""

    logit: Tensor
    mean: Tensor
    log_width: Tensor


class DiffusionTransformer(ShowerNetwork):
    """B showers, N tokens, P cells of a patch, L layers of a patch, W width."""

    positions: Tensor

    def __init__(self, spec: DiffusionSpec, shape: Triple, conditions: ConditionEncoder, domains: int) -> None:
        super().__init__(shape, conditions, domains)
        self.spec, self.grid = spec, patch_grid(shape, spec.patch)
        cells, self.numbers = math.prod(spec.patch), 3 if spec.output == "probabilistic" else 1
        own_layers = spec.patch[2] if conditions.layers else 0
        self.embed = nn.Linear(cells + own_layers, spec.width)
        self.register_buffer("positions", position_table(self.grid, spec.width), persistent=False)
        style = BlockStyle(spec.norm, spec.qk_norm, spec.perceptron, spec.modulation == "adaln_zero")
        self.blocks = nn.ModuleList(
            ConditionedBlock(spec.width, spec.heads, spec.mlp_ratio, spec.width, style) for _ in range(spec.depth)
        )
        self.norm = style.new_norm(spec.width)
        self.modulation = Modulation(spec.width, spec.width, 2)
        self.out = nn.Linear(spec.width, self.numbers * cells)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, scaled: Tensor, log_sigma: Tensor, conditions: Conditions, dropped: Tensor | None = None
    ) -> Tensor:
        """(B, r, phi, z) of unit spread, (B,) -> (B, numbers, r, phi, z), zero at the start of training.

        Showers that are `dropped` (B,) are seen without their conditions.
        """
        condition = self.conditions(conditions, log_sigma, dropped)  # (B, W)
        x = patchify(scaled, self.spec.patch)  # (B, N, P)
        if self.conditions.layers:
            own = layers_of_tokens(self.conditions.log_layers(conditions), self.grid)  # (B, N, L)
            own = own if dropped is None else own.masked_fill(dropped[:, None, None], 0)  # (B, N, L)
            x = torch.cat([x, own], dim=2)  # (B, N, P + L)
        x = self.embed(x) + self.positions  # (B, N, W)
        for block in self.blocks:
            x = block(x, condition)  # (B, N, W)
        shift, scale = self.modulation(condition)  # 2 x (B, 1, W)
        x = self.out(self.norm(x) * (1 + scale) + shift).float()  # (B, N, numbers P)
        parts = x.reshape(len(x), -1, self.numbers, x.shape[2] // self.numbers).unbind(2)  # numbers x (B, N, P)
        return torch.stack([unpatchify(p, self.spec.patch, self.shape) for p in parts], 1)  # (B, numbers, r, phi, z)

    def distribution(
        self, noisy: Tensor, sigma: Tensor, conditions: Conditions, dropped: Tensor | None = None
    ) -> CellDistribution:
        """(B, r, phi, z) showers plus noise, (B,) its level -> the distribution of each cell (probabilistic output)."""
        scaled = noisy * edm_coefficients(_cells(sigma), SIGMA_DATA)[2]  # (B, r, phi, z)
        logit, mean, log_width = self(scaled, sigma.log(), conditions, dropped).unbind(1)  # 3 x (B, r, phi, z)
        return CellDistribution(self.hit_logit[conditions.domain] + logit, mean, log_width.clamp(*LOG_WIDTH))

    def denoised(self, noisy: Tensor, sigma: Tensor, conditions: Conditions, dropped: Tensor | None = None) -> Tensor:
        """(B, r, phi, z) showers plus noise, (B,) its level -> (B, r, phi, z) their expectation."""
        if self.spec.output == "pixels":
            by = preconditioning(self.spec, _cells(sigma))  # (B, 1, 1, 1) each
            network = self(by.scale * noisy, sigma.log(), conditions, dropped)[:, 0]  # (B, r, phi, z)
            denoised: Tensor = by.skip * noisy + by.out * network  # (B, r, phi, z)
            return denoised
        cell = self.distribution(noisy, sigma, conditions, dropped)
        probability = cell.logit.sigmoid()  # (B, r, phi, z)
        hit = self.hit_value(cell.mean, conditions)  # (B, r, phi, z)
        return probability * hit + (1 - probability) * self.empty[conditions.domain]  # (B, r, phi, z)


def _cells(sigma: Tensor) -> Tensor:
    return sigma[:, None, None, None]
