"""Random numbers of showers, each shower with a stream of its own.

A shower's numbers depend on the sample's seed and on the shower's place in the sample alone, so they are the same in
whatever batch it is made. Every draw continues the streams: a family draws as often as it needs to, always alike.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.determinism import seeded


class ShowerNoise:
    """The streams of the showers at `rows` of a sample."""

    def __init__(self, seed: int, rows: NDArray[np.integer], device: torch.device | None = None) -> None:
        cpu = torch.device("cpu")
        self.device = device or cpu
        self._streams = [seeded(cpu, f"shower {seed} {row}") for row in rows.tolist()]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        return torch.stack([torch.randn(shape, generator=own) for own in self._streams]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) uniform in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=own) for own in self._streams]).to(self.device)
