"""A shower network that says once, from its bottleneck, what each cell is: likelihoods or plain pixels.

In: a decoder's numbers (B, numbers, r, phi, z), zero at the start of training. Out, by `output`:
- `probabilistic`: for each cell a hit logit, and mean and log width of the standardised network value of a hit;
- `pixels`: the network value.
Both start from the fitted hit rates and means of `ShowerNetwork`, so that an untrained decoder knows the marginals.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.models.conditions import ConditionEncoder, Conditions
from pipeline.models.diffusion import LOG_WIDTH, CellDistribution
from pipeline.models.shower_network import ShowerNetwork
from pipeline.models.tokens import Triple


class CellNetwork(ShowerNetwork):
    """The map from `numbers` of a cell to what it is."""

    def __init__(
        self, output: Literal["probabilistic", "pixels"], shape: Triple, conditions: ConditionEncoder, domains: int
    ) -> None:
        super().__init__(shape, conditions, domains)
        self.output, self.numbers = output, 3 if output == "probabilistic" else 1

    def distribution(self, numbers: Tensor, conditions: Conditions) -> CellDistribution:
        """(B, 3, r, phi, z) -> the distribution of each cell (probabilistic output)."""
        logit, mean, log_width = numbers.unbind(1)  # 3 x (B, r, phi, z)
        return CellDistribution(self.hit_logit[conditions.domain] + logit, mean, log_width.clamp(*LOG_WIDTH))

    def pixels(self, numbers: Tensor, conditions: Conditions) -> Tensor:
        """(B, 1, r, phi, z) -> (B, r, phi, z) network values: corrections to the mean shower."""
        domain = conditions.domain
        rate = self.hit_logit[domain].sigmoid()  # (B, r, phi, z)
        mean = rate * self.hit_mean[domain] + (1 - rate) * self.empty[domain]  # (B, r, phi, z)
        return mean + numbers[:, 0]  # (B, r, phi, z)
