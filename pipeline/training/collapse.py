"""Bottlenecks that carry nothing: a VAE's collapsed posterior, a codebook of which few codes are used.

Neither can be seen in the marginals of the showers, which a decoder learns without its latent vector. In: a network
and its validation metrics. Out: what is wrong and what to change, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pipeline.models import ShowerGenerator, ShowerVAE, ShowerVQVAE

LEAST_NATS = 1.0
LEAST_SHARE = 0.01


def collapse(network: nn.Module, means: Mapping[str, float]) -> str:
    """A warning when the bottleneck of the network is hardly used, else ''."""
    showers = network.showers if isinstance(network, ShowerGenerator) else network
    if isinstance(showers, ShowerVAE) and means["kl_nats"] < LEAST_NATS:
        return (
            f"expected a latent vector of {LEAST_NATS:g} nat or more, got a KL of {means['kl_nats']:.2f} (collapsed); "
            "raise model.free_bits or model.kl_warmup_samples"
        )
    if isinstance(showers, ShowerVQVAE):
        size, used = showers.codebook.size, means["code_perplexity"]
        if used < max(2.0, LEAST_SHARE * size):
            return (
                f"expected codes of a perplexity of {max(2.0, LEAST_SHARE * size):g} or more out of {size}, got "
                f"{used:.1f} (collapsed); raise model.codebook.renew_below, or take fewer codes or finite_scalars"
            )
    return ""
