"""A head that predicts the incident energy, with its uncertainty, from the encoder's tokens.

The mean of log E_inc is a *correction* to the calibrated visible energy, log E_inc ~ a + b log E_vis, whose
two numbers are buffers fitted on the training split. The last layer starts at zero, so training starts at the
linear calibration and can only be asked to improve on it. The label enters nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import HeadSpec, MaskedViTSpec
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.tokens import Triple


class EnergyRegression(nn.Module):
    """Encoder and head: B showers -> mean and log variance of log(E_inc / MeV)."""

    offset: Tensor
    slope: Tensor
    log_variance: Tensor
    visible_centre: Tensor
    visible_scale: Tensor

    def __init__(self, spec: MaskedViTSpec, head: HeadSpec, shape: Triple, domains: int) -> None:
        super().__init__()
        self.backbone = MaskedViT(spec, shape)
        self.norm = nn.LayerNorm(spec.width)
        self.hidden = nn.Linear(spec.width + 1, head.width)
        self.out = nn.Linear(head.width, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        for name, value in (
            ("offset", 0.0),
            ("slope", 1.0),
            ("log_variance", 0.0),
            ("visible_centre", 0.0),
            ("visible_scale", 1.0),
        ):
            self.register_buffer(name, torch.full((domains,), value))

    def forward(self, cells: Tensor, visible_energy: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """(B, r, phi, z) in network space, (B,) visible MeV, (B,) -> (B,) mean, (B,) log variance of log E_inc."""
        log_visible = visible_energy.clamp_min(1e-6).log()  # (B,)
        pooled = self.norm(self.backbone.encode(cells).mean(dim=1))  # (B, W)
        visible = (log_visible - self.visible_centre[domain]) / self.visible_scale[domain]  # (B,)
        hidden = nn.functional.gelu(self.hidden(torch.cat([pooled, visible[:, None]], dim=1)))  # (B, head)
        correction, log_ratio = self.out(hidden).float().unbind(dim=1)  # 2 x (B,)
        width = self.log_variance[domain].exp().sqrt()  # (B,)
        mean = self.offset[domain] + self.slope[domain] * log_visible + width * correction  # (B,)
        return mean, self.log_variance[domain] + log_ratio.clamp(-4, 4)  # 2 x (B,)

    @torch.no_grad()
    def fit(self, visible_energy: Tensor, incident_energy: Tensor, domain: Tensor) -> None:
        """The linear calibration and its spread from training showers, for each domain."""
        for d in sorted(set(domain.tolist())):
            x = visible_energy[domain == d].double().clamp_min(1e-6).log()
            y = incident_energy[domain == d].double().log()
            variance = x.var(correction=0).clamp_min(1e-12)
            slope = ((x - x.mean()) * (y - y.mean())).mean() / variance if len(x) > 1 else torch.ones(())
            residual = y - y.mean() - slope * (x - x.mean())
            self.slope[d] = slope
            self.offset[d] = y.mean() - slope * x.mean()
            self.log_variance[d] = residual.square().mean().clamp_min(1e-6).log()
            self.visible_centre[d] = x.mean()
            self.visible_scale[d] = variance.sqrt().clamp_min(1e-3)
