"""How far predicted cells are from the true ones: the losses of a reconstruction, pure functions.

Tokens are (B, N, P): showers, tokens, cells of a patch, in network space. `asked` (B, N) says which tokens count.
Every loss is a mean over showers. Sources: binary cross-entropy and its scale, docs/pretraining.md; Huber 1964,
eq. 2.4; Sinkhorn divergence, arXiv:1810.08278, eq. 3, by geomloss.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.pretraining import LossSpec
from pipeline.models.tokens import Triple


def masked_error(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden tokens (arXiv:2111.06377, section 3); tokens (B, N, P), (B, N) bool."""
    return masked_mean(F.mse_loss(prediction, target, reduction="none"), hidden)


def masked_mean(error: Tensor, asked: Tensor) -> Tensor:
    """Mean of (B, N, P) over the tokens (B, N) asked for, equally many in each shower."""
    return (error.sum(dim=2) * asked).sum() / (asked.sum() * error.shape[2])


def reconstruction_loss(
    spec: LossSpec, raw: Tensor, target: Tensor, asked: Tensor, grid: Triple, sigmoid: bool
) -> Tensor:
    """One loss of the decoder's raw output (logits with `sigmoid`) against the target, (B, N, P)."""
    if spec.name == "bce":
        return masked_mean(F.binary_cross_entropy_with_logits(raw.float(), target, reduction="none"), asked)
    prediction = (raw.sigmoid() if sigmoid else raw).float()
    if spec.name == "sinkhorn":
        return sinkhorn(torch.where(asked[:, :, None], prediction, target), target, grid, spec.blur)
    if spec.name == "mse":  # units of the scale: taken from the mean, not from every cell
        return masked_error(prediction, target, asked) / spec.scale**2
    if spec.name == "mae":
        return masked_mean(F.l1_loss(prediction, target, reduction="none"), asked) / spec.scale
    error = F.huber_loss(prediction, target, reduction="none", delta=spec.delta * spec.scale)
    return masked_mean(error, asked) / spec.scale**2


def sinkhorn(prediction: Tensor, target: Tensor, grid: Triple, blur: float, scaling: float = 0.7) -> Tensor:
    """Debiased Sinkhorn divergence between token sums of non-negative (B, N, P), each made to sum to one.

    Half the squared Wasserstein-2 distance as `blur` goes to 0; the mesh's radius and its depth have length one.
    `scaling` is the factor between two iterations' blurs: nearer to 1 is slower and more exact.
    """
    from geomloss import SamplesLoss

    n = len(prediction)
    points = token_points(grid).to(prediction.device).expand(n, -1, -1)
    sides = [tokens.sum(dim=2).clamp_min(0) + 1e-12 for tokens in (prediction, target)]
    weights = [energy / energy.sum(dim=1, keepdim=True) for energy in sides]
    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")
    distance: Tensor = loss(weights[0], points, weights[1], points)
    return distance.mean()


@lru_cache(maxsize=8)
def token_points(grid: Triple) -> Tensor:
    """(N, 3) centres of the tokens: x and y in units of the mesh's radius, z in units of its depth."""
    r, phi, z = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    angle = 2 * math.pi * phi
    return torch.stack([r * angle.cos(), r * angle.sin(), z], dim=3).reshape(-1, 3)
