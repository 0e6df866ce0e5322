"""How inherited weights are trained on: which of them, at which rate, and how far from where they started.

In: a network that holds its parent's weights, and the run's `adapt`. The backbone is a head's encoder, or the whole
network where there is no head; what a head adds is always trained at the full rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import AdaptSpec, TrainingSpec
from pipeline.models.heads import HEADS
from pipeline.models.low_rank import add_low_rank
from pipeline.models.tokens import Triple

ATTENTION = ("query_key_value", "out")
_BLOCK = re.compile(r"(?:^|\.)(?:encoder|blocks)\.(\d+)\.")
_FIRST = re.compile(r"(?:^|\.)(?:embed\.|positions$|hidden_token$|conditions\.|detector\.|tell\.)")


def choose_trained(network: nn.Module, adapt: AdaptSpec, seed: int) -> None:
    """Fix the inherited weights that `adapt.train` leaves out, in place."""
    backbone = network.backbone if isinstance(network, HEADS) else network
    if adapt.train == "all":
        return
    if adapt.train == "low_rank":
        backbone.requires_grad_(False)
        add_low_rank(backbone, ATTENTION, adapt.rank, adapt.alpha, seed)
        return
    depth = n_blocks(backbone)
    for name, parameter in backbone.named_parameters():
        if adapt.train == "biases":
            chosen = name.endswith(".bias")
        else:
            chosen = adapt.train == "last_blocks" and level(name, depth) > depth - adapt.blocks
        if not chosen:
            parameter.requires_grad_(False)


def n_blocks(network: nn.Module) -> int:
    """How many transformer blocks the longest chain of the network's encoder has."""
    found = (_BLOCK.search(name) for name, _ in network.named_parameters())
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def level(name: str, depth: int) -> int:
    """Where a parameter stands: 0 the embedding, 1 ... depth the blocks, depth + 1 all behind them."""
    if match := _BLOCK.search(name):
        return int(match.group(1)) + 1
    return 0 if _FIRST.search(name) else depth + 1


def parameter_groups(network: nn.Module, spec: TrainingSpec, adapt: AdaptSpec) -> list[dict[str, Any]]:
    """The optimiser's groups: only matrices decay; `factor` is the group's share of the learning rate.

    An inherited weight's is rate * layer_decay ** (blocks behind it), as in the MAE's fine-tuning.
    """
    depth, has_head = n_blocks(network), isinstance(network, HEADS)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            inherited = name.startswith("backbone.") or not has_head
            factor = adapt.rate * adapt.layer_decay ** (depth + 1 - level(name, depth)) if inherited else 1.0
            groups.setdefault((factor, parameter.ndim >= 2), []).append(parameter)
    for matrices in (True, False):  # a network has both, and groups keep their places
        groups.setdefault((1.0, matrices), [])
    ordered = sorted(groups.items(), key=lambda item: (-item[0][0], not item[0][1]))
    return [
        {"params": own, "weight_decay": spec.weight_decay if matrices else 0.0, "factor": factor}
        for (factor, matrices), own in ordered
    ]


def anchors(network: nn.Module, adapt: AdaptSpec, fresh: list[str]) -> dict[str, Tensor]:
    """The inherited weights that a run is pulled towards; none without `l2_sp`."""
    if not adapt.l2_sp:
        return {}
    named = network.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad and name not in fresh}


@torch.no_grad()
def pull_back(network: nn.Module, start: Mapping[str, Tensor], strength: float) -> Tensor:
    """Add the gradient of strength / 2 |w - w0|^2 (arXiv:1802.01483, eq. 2) in place; returns that penalty."""
    penalty = torch.zeros(())
    for name, parameter in network.named_parameters():
        if name in start and parameter.grad is not None:
            away = parameter - start[name].to(parameter.device)
            parameter.grad.add_(away, alpha=strength)
            penalty = penalty + 0.5 * strength * away.square().sum().cpu()
    return penalty


# -------------------------------------------------------------------------------- another patch or mesh


def overlap(old: int, new: int) -> Tensor:
    """(new, old) lengths that `new` equal intervals share with `old` unit ones; each column sums to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    ends = torch.arange(old + 1, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], ends[None, 1:]) - torch.maximum(edges[:-1, None], ends[None, :-1])
    return shared.clamp_min(0)


def resized(values: Tensor, old: Triple, new: Triple, mean: bool) -> Tensor:
    """(..., cells of the old patch) -> (..., cells of the new one) by overlap: sums are kept, or means of cells.

    A shower whose cells are split into equal values has the same embedding (sums), and is predicted as before (means).
    """
    x = values.double().reshape(-1, *old)
    shares = [overlap(o, n) for o, n in zip(old, new, strict=True)]
    if mean:
        shares = [s / s.sum(dim=1, keepdim=True) for s in shares]
    out = torch.einsum("abcd,xb,yc,zd->axyz", x, *shares)
    return out.reshape(*values.shape[:-1], -1).to(values.dtype)
