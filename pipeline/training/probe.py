"""One forward and backward pass of two showers before a training: what it costs, and which parameters it never uses.

In: a copy of the network that may be spoilt. Out: floating-point operations of a training step per shower (forward and
backward, matrix products and attention; recomputed activations are not counted twice), by `torch.utils.flop_counter`,
and whether parameters take no part in the loss. No random number of the training is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.draws import BatchGenerator
from pipeline.training.batches import Batch
from pipeline.training.distributed import Loss

SHOWERS = 2


@dataclass(frozen=True)
class Probe:
    """Floating-point operations of a training step per shower, and whether some parameters stay without a gradient."""

    flop_per_shower: float
    unused: bool


def probe(network: nn.Module, loss: Loss, batch: Batch, device: torch.device) -> Probe:
    """Of a network that has not been spread over processes; it is used up."""
    few = batch.take(slice(0, SHOWERS)).to(device)
    network = network.to(device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on a CPU
        terms = loss(network, few, BatchGenerator.seeded(device, 0, len(few)))
        sum(terms.values(), torch.zeros((), device=device)).backward()  # type: ignore[no-untyped-call]
    unused = any(p.requires_grad and p.grad is None for p in network.parameters())
    return Probe(counter.get_total_flops() / len(few), unused)
