"""Heads: the incident energy or the angle with its uncertainty, or classes, from the encoder's tokens.

The energy's mean of log E_inc is a *correction* to the calibrated visible energy, log E_inc ~ a + b log E_vis, whose
two numbers are buffers fitted on the training split. The last layer starts at zero, so training starts at the
linear calibration and can only be asked to improve on it. The label enters nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import HeadSpec
from pipeline.models.masked_vit import MaskedViT


class EnergyRegression(nn.Module):
    """Encoder and head: B showers -> mean and log variance of log(E_inc / MeV)."""

    offset: Tensor
    slope: Tensor
    log_variance: Tensor
    visible_centre: Tensor
    visible_scale: Tensor

    def __init__(self, backbone: MaskedViT, head: HeadSpec, domains: int) -> None:
        super().__init__()
        self.backbone, width = backbone, backbone.spec.width
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width + 1, head.width) if head.width else None
        self.out = nn.Linear(head.width or width + 1, 2)
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
        pooled = self.norm(self.backbone.encode(cells, told=self.backbone.told(domain)).mean(dim=1))  # (B, W)
        visible = (log_visible - self.visible_centre[domain]) / self.visible_scale[domain]  # (B,)
        hidden = torch.cat([pooled, visible[:, None]], dim=1)  # (B, W + 1)
        if self.hidden is not None:
            hidden = nn.functional.gelu(self.hidden(hidden))  # (B, head)
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


class Classification(nn.Module):
    """Encoder and head: B showers -> logits of K classes, which start at the frequencies of the training showers.

    `classes` names them. A shower's class is that of its data set (`class_of_domain`: particle, detector), or where its
    incident energy lies between the inner `edges_mev`. The data set enters only an encoder that is told the detector.
    """

    prior: Tensor
    visible: Tensor
    edges: Tensor
    class_of_domain: Tensor

    def __init__(
        self,
        backbone: MaskedViT,
        head: HeadSpec,
        classes: list[str],
        class_of_domain: list[int],
        edges_mev: list[float],
    ) -> None:
        super().__init__()
        self.backbone, width = backbone, backbone.spec.width
        self.norm = nn.LayerNorm(width)
        self.readout = Readout(width + 1, head.width, len(classes))
        self.classes = classes
        self.register_buffer("prior", torch.zeros(len(classes)))
        self.register_buffer("visible", torch.tensor([0.0, 1.0]))
        self.register_buffer("edges", torch.tensor(edges_mev), persistent=False)
        self.register_buffer("class_of_domain", torch.tensor(class_of_domain, dtype=torch.int64), persistent=False)

    def forward(self, cells: Tensor, visible_energy: Tensor, domain: Tensor | None = None) -> Tensor:
        """(B, r, phi, z) in network space, (B,) visible MeV, (B,) data set -> (B, K) logits."""
        pooled = _pooled(self, cells, visible_energy, self.visible, domain)  # (B, W + 1)
        logits: Tensor = self.prior + self.readout(pooled)  # (B, K)
        return logits

    def targets(self, incident_energy: Tensor, domain: Tensor) -> Tensor:
        """(B,) MeV, (B,) -> (B,) class of each shower."""
        if len(self.edges):
            return torch.bucketize(incident_energy, self.edges)
        return self.class_of_domain[domain]

    @torch.no_grad()
    def fit(self, visible_energy: Tensor, incident_energy: Tensor, domain: Tensor) -> None:
        """Frequencies of the classes, and the standardisation of log E_vis, from training showers."""
        counts = torch.bincount(self.targets(incident_energy, domain), minlength=len(self.classes))
        self.prior.copy_(((counts + 0.5) / (counts + 0.5).sum()).log())
        self.visible.copy_(_log_moments(visible_energy))


class AngleRegression(nn.Module):
    """Encoder and head: B showers -> mean and log variance of theta in rad; starts at those of the training showers."""

    visible: Tensor
    theta: Tensor

    def __init__(self, backbone: MaskedViT, head: HeadSpec) -> None:
        super().__init__()
        self.backbone, width = backbone, backbone.spec.width
        self.norm = nn.LayerNorm(width)
        self.readout = Readout(width + 1, head.width, 2)
        self.register_buffer("visible", torch.tensor([0.0, 1.0]))
        self.register_buffer("theta", torch.tensor([0.0, 1.0]))

    def forward(self, cells: Tensor, visible_energy: Tensor, domain: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, r, phi, z) in network space, (B,) visible MeV, (B,) data set -> (B,) mean, (B,) log variance of theta."""
        pooled = _pooled(self, cells, visible_energy, self.visible, domain)  # (B, W + 1)
        change, log_ratio = self.readout(pooled).unbind(dim=1)  # 2 x (B,)
        centre, width = self.theta
        return centre + width * change, 2 * width.log() + log_ratio.clamp(-8, 4)  # 2 x (B,)

    @torch.no_grad()
    def fit(self, visible_energy: Tensor, theta: Tensor) -> None:
        """Mean and spread of theta (rad) and the standardisation of log E_vis, from training showers."""
        angle = theta.double()
        self.theta.copy_(torch.stack([angle.mean(), angle.std(correction=0).clamp_min(1e-3)]))
        self.visible.copy_(_log_moments(visible_energy))


class Readout(nn.Module):
    """A perceptron with one hidden layer, or a linear map where `hidden` is 0; zero at the start."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(hidden or width, out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, out)."""
        if self.hidden is not None:
            x = nn.functional.gelu(self.hidden(x))  # (B, hidden)
        out: Tensor = self.out(x).float()  # (B, out)
        return out


HEADS = (EnergyRegression, Classification, AngleRegression)


def _pooled(
    head: Classification | AngleRegression,
    cells: Tensor,
    visible_energy: Tensor,
    moments: Tensor,
    domain: Tensor | None,
) -> Tensor:
    """(B, W + 1): the mean token and the standardised log visible energy."""
    told = None if domain is None else head.backbone.told(domain)  # (B, E)
    pooled = head.norm(head.backbone.encode(cells, told=told).mean(dim=1))  # (B, W)
    visible = (visible_energy.clamp_min(1e-6).log() - moments[0]) / moments[1]  # (B,)
    return torch.cat([pooled, visible[:, None]], dim=1)  # (B, W + 1)


def _log_moments(energy: Tensor) -> Tensor:
    log = energy.double().clamp_min(1e-6).log()
    return torch.stack([log.mean(), log.std(correction=0).clamp_min(1e-3)]).float()
