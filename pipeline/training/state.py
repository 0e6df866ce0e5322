"""What a training consists of between two steps: network, average of its weights, optimiser, and what was measured.

A `State` of several processes is gathered into what one process would have, and each takes its share of that again: a
checkpoint knows nothing of processes.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pipeline.config import AdaptSpec, TrainingSpec
from pipeline.models import ShowerGenerator
from pipeline.training.determinism import device_of
from pipeline.training.distributed import (
    Loss,
    Ranks,
    load_network,
    load_optimiser,
    local,
    prepare_blocks,
    spread,
    whole,
)
from pipeline.training.fine_tuning import parameter_groups


@dataclass
class State:
    """All that the next step depends on, and what was measured so far.

    `loss` and `averaged_loss` are the losses of the two networks, spread over the processes `ranks`; `anchors` the
    weights that the network is pulled towards.
    """

    network: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    loss: nn.Module
    averaged_loss: nn.Module
    ranks: Ranks
    anchors: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """For a checkpoint: a copy, the same for any number of processes; all must ask, the first one gets it."""
        parts = (self.network.state_dict(), self.averaged.state_dict(), self.optimiser.state_dict())
        network, averaged, optimiser = whole(parts, keep=self.ranks.first)
        return {
            "network": network,
            "averaged": averaged,
            "optimiser": optimiser,
            "samples": self.samples,
            "sums": dict(self.sums),
            "rows": json.dumps(self.rows),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """From a checkpoint's content."""
        load_network(self.network, content["network"])
        load_network(self.averaged, content["averaged"])
        load_optimiser(self.optimiser, content["optimiser"])
        self.samples, self.sums, self.rows = content["samples"], content["sums"], json.loads(content["rows"])


def first_state(
    network: nn.Module, loss: Loss, spec: TrainingSpec, team: Ranks, unused: bool, adapt: AdaptSpec | None = None
) -> State:
    """Optimiser and average of a network on its device before its first step; only matrices decay."""
    network, device = network.train(), device_of(spec)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(network, ShowerGenerator):
        network.follow(averaged)
    prepare_blocks(network, spec.parallel)
    spread_loss = spread(network, loss, spec.parallel, team, device, unused)
    averaged_loss = spread(averaged, loss, spec.parallel, team, device)
    groups = parameter_groups(network, spec, adapt or AdaptSpec())
    optimiser = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=spec.betas, fused=True)
    return State(network, averaged, optimiser, spread_loss, averaged_loss, team)


@torch.no_grad()
def average(state: State, spec: TrainingSpec) -> None:
    """Exponential moving average of the weights, with a shorter memory at the start; buffers are the newest."""
    seen = state.samples / spec.batch_size
    decay = min(spec.ema, (1 + seen) / (10 + seen)) if spec.ema else 0.0
    torch._foreach_lerp_(local(state.averaged.parameters()), local(state.network.parameters()), 1 - decay)
    for kept, newest in zip(state.averaged.buffers(), state.network.buffers(), strict=True):
        kept.copy_(newest)
