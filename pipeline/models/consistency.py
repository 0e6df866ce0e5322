"""A consistency model distilled from a diffusion transformer: from any noise level to the end of the way in one step.

The student has the teacher's architecture and starts from its weights. With D its denoiser, its step from a shower at
noise level sigma to the level `sigma_stop` (epsilon) is f(x, sigma) = (epsilon / sigma) x + (1 - epsilon / sigma)
D(x, sigma): Euler's step there, so that f(x, epsilon) = x whatever the weights (arXiv:2303.01469, eq. 5, the boundary
condition). Trained, f is the same all along a way of the teacher's. For pixels epsilon is close to 0 and f is the
shower; with a probabilistic head epsilon is sigma*, where the teacher's head draws the cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.config import ConsistencySpec, DiffusionSpec
from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.diffusion import DiffusionTransformer
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.tokens import Triple


class ConsistencyTransformer(DiffusionTransformer):
    """The student, and the frozen teacher as its part `teacher`."""

    def __init__(
        self,
        own: ConsistencySpec,
        spec: DiffusionSpec,
        shape: Triple,
        conditions: ConditionEncoder,
        teachers_conditions: ConditionEncoder,
        domains: int,
    ) -> None:
        super().__init__(spec, shape, conditions, domains)
        self.own = own
        self.teacher = DiffusionTransformer(spec, shape, teachers_conditions, domains)
        self._average: tuple[ConsistencyTransformer, ...] = ()

    @property
    def average(self) -> ConsistencyTransformer:
        """The average of the weights while training, else the network itself."""
        return self._average[0] if self._average else self

    def follow(self, average: ShowerNetwork) -> None:
        """Compare with the average of the weights from now on."""
        assert isinstance(average, ConsistencyTransformer)
        self._average = (average,)  # in a tuple: no part of this network

    def take_over(self, parents: Mapping[str, ShowerNetwork]) -> None:
        """Keep the teacher, frozen, and start from its weights."""
        super().take_over(parents)
        own = {name: value for name, value in self.state_dict().items() if name.startswith("teacher.")}
        self.load_state_dict({**parents["teacher"].state_dict(), **own})

    def step(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """(B, r, phi, z) showers at noise levels (B,) -> (B, r, phi, z) at the level `sigma_stop`."""
        share = (self.own.sigma_stop / sigma)[:, None, None, None]  # (B, 1, 1, 1)
        return share * noisy + (1 - share) * self.denoised(noisy, sigma, conditions)  # (B, r, phi, z)

    @torch.no_grad()
    def teachers_step(self, noisy: Tensor, sigma: Tensor, lower: Tensor, conditions: Conditions) -> Tensor:
        """One step of Heun's along the teacher's way, from levels (B,) to lower ones (B,)."""
        high, low = sigma[:, None, None, None], lower[:, None, None, None]
        slope = (noisy - self.teacher.denoised(noisy, sigma, conditions)) / high
        proposed = noisy + (low - high) * slope
        corrected = (proposed - self.teacher.denoised(proposed, lower, conditions)) / low
        return noisy + (low - high) * 0.5 * (slope + corrected)
