"""Losses: pure functions of a network, a batch and a generator; each cites the equation it implements.

Every loss is a mean over the batch's showers, which may be a part of a larger batch (see `draws`): draw random numbers
for each shower from the given generator. `LOSSES` maps a network's class to the function that gives its named terms;
the sum of those that are not in `WATCHED` is what is minimised. A generator's are those of its family's shower network,
which has a line of its own, and those of the energy network. What a network counts or follows by itself (showers seen,
the use of codes) moves with a training batch, and never in validation. No optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.autoregressive import AutoregressivePrior
from pipeline.models.cell_network import CellNetwork
from pipeline.models.codebook import perplexity
from pipeline.models.conditions import Conditions
from pipeline.models.consistency import ConsistencyTransformer
from pipeline.models.diffusion import DiffusionTransformer
from pipeline.models.formulations import log_normal, noise_levels, preconditioning, training_levels
from pipeline.models.generator import ShowerGenerator
from pipeline.models.heads import AngleRegression, Classification, EnergyRegression
from pipeline.models.layer_energies import LayerEnergyDiffusion
from pipeline.models.masked_vit import MaskedViT
from pipeline.models.processes import summed
from pipeline.models.vae import ShowerVAE
from pipeline.models.vqvae import ShowerVQVAE
from pipeline.training.batches import Batch, with_unknown_detectors
from pipeline.training.pretexts import Terms as Terms
from pipeline.training.pretexts import pretext_loss

WATCHED = ("kl_nats", "active_dimensions", "code_perplexity", "codes_used")  # logged, not minimised
ACTIVE_NATS = 0.01


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """-log N(target; mean, variance) without the constant (arXiv:1703.04977, eq. 5), shape kept."""
    return 0.5 * (log_variance + (target - mean).square() * (-log_variance).exp())


def hit_nll(logit: Tensor, mean: Tensor, log_width: Tensor, hit: Tensor, value: Tensor) -> Tensor:
    """Likelihood of a cell that is empty or a hit of a standardised value: BCE + hit (l + ((t - m) / e^l)^2 / 2)."""
    occupied = F.binary_cross_entropy_with_logits(logit, hit.to(logit.dtype), reduction="none")
    return occupied + torch.where(hit, gaussian_nll(mean, 2 * log_width, value), 0)


def denoising_error(denoised: Tensor, clean: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of a denoiser (arXiv:2206.00364, eq. 2), weights (B,), mean over everything.

    With 1 / out^2 of the preconditioning it is the plain squared error of the network's own target; for EDM that is
    lambda of table 1.
    """
    return (weight * (denoised - clean).square().flatten(1).mean(dim=1)).mean()


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, each dimension by itself (arXiv:1312.6114, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def free_bits(kl: Tensor, free: float) -> Tensor:
    """(B, latent) KL of showers -> sum over dimensions of max(free, mean KL), nats (arXiv:1606.04934, eq. 15)."""
    return kl.mean(dim=0).clamp_min(free).sum()


def _normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=generator.device)


# ------------------------------------------------------------------------- the networks' losses


def energy_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Likelihood of the log incident energy, in units of the calibration's spread."""
    assert isinstance(network, EnergyRegression)  # the registry's key
    mean, log_variance = network(batch.values, batch.visible_energy, batch.conditions.domain)
    reference = network.log_variance[batch.conditions.domain]
    nll = gaussian_nll(mean, log_variance, batch.conditions.incident_energy.log()) - 0.5 * reference
    return {"energy_nll": nll.mean()}


def angle_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Likelihood of theta, in units of the training showers' spread."""
    assert isinstance(network, AngleRegression)  # the registry's key
    mean, log_variance = network(batch.values, batch.visible_energy, batch.conditions.domain)
    nll = gaussian_nll(mean, log_variance, batch.conditions.theta) - network.theta[1].log()
    return {"angle_nll": nll.mean()}


def class_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Cross-entropy of each shower's class."""
    assert isinstance(network, Classification)  # the registry's key
    logits = network(batch.values, batch.visible_energy, batch.conditions.domain)
    target = network.targets(batch.conditions.incident_energy, batch.conditions.domain)
    return {"cross_entropy": F.cross_entropy(logits, target)}


def generator_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """The terms of the family's shower network, and the energy network's EDM error."""
    assert isinstance(network, ShowerGenerator)  # the registry's key
    batch = with_unknown_detectors(network.spec.detector_embedding.dropout, batch, generator)
    terms = LOSSES[type(network.showers)](network.showers, batch, generator)
    if network.energies is not None and network.trains_energies:
        terms["layer_energies"] = layer_energies_loss(network.energies, batch.conditions, generator)
    return terms


def diffusion_loss(showers: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Likelihood of the cells, or EDM error of the pixels."""
    assert isinstance(showers, DiffusionTransformer)  # the registry's key
    spec = showers.spec
    sigma = training_levels(spec, len(batch), generator)
    noisy = batch.values + sigma[:, None, None, None] * _normal_like(batch.values, generator)
    dropped = None
    if spec.condition_dropout:
        dropped = torch.rand(len(batch), generator=generator, device=generator.device) < spec.condition_dropout
    if spec.output == "probabilistic":
        cell = showers.distribution(noisy, sigma, batch.conditions, dropped)
        value = showers.standardised_hit(batch.values, batch.conditions)
        return {"cells_nll": hit_nll(cell.logit, cell.mean, cell.log_width, batch.hit, value).mean()}
    denoised = showers.denoised(noisy, sigma, batch.conditions, dropped)
    return {"pixels": denoising_error(denoised, batch.values, 1 / preconditioning(spec, sigma).out.square())}


def consistency_loss(student: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Consistency distillation (arXiv:2303.01469, eq. 7) with the pseudo-Huber distance of arXiv:2310.14189, eq. 7."""
    assert isinstance(student, ConsistencyTransformer)  # the registry's key
    own, conditions = student.own, batch.conditions
    ends = noise_levels(own.sub_intervals, student.spec.sigma_max, own.sigma_stop, own.rho)
    levels = torch.tensor(ends, device=batch.values.device)
    upper = torch.randint(own.sub_intervals, (len(batch),), generator=generator, device=generator.device)
    sigma, lower = levels[upper], levels[upper + 1]
    noisy = batch.values + sigma[:, None, None, None] * _normal_like(batch.values, generator)
    with torch.no_grad():
        nearer = student.teachers_step(noisy, sigma, lower, conditions)
        goal = student.average.step(nearer, lower, conditions)
    return {"consistency": pseudo_huber(student.step(noisy, sigma, conditions), goal, own.huber)}


def pseudo_huber(made: Tensor, goal: Tensor, size: float) -> Tensor:
    """sqrt(mean square + size^2) - size for each shower, mean over the batch; mean square with size 0."""
    square = (made - goal).square().flatten(1).mean(dim=1)
    return square.mean() if size == 0 else ((square + size**2).sqrt() - size).mean()


def layer_energies_loss(network: LayerEnergyDiffusion, conditions: Conditions, generator: torch.Generator) -> Tensor:
    """EDM error of the energy network, at several noise levels per shower."""
    repeated = conditions.repeat(network.spec.repeats)
    uniform = torch.rand(repeated.layer_energy.shape, generator=generator, device=generator.device)
    clean = network.features(repeated, uniform)
    sigma = log_normal(len(repeated), generator)
    noisy = clean + sigma[:, None] * _normal_like(clean, generator)
    return denoising_error(network(noisy, sigma, repeated), clean, (sigma.square() + 1) / sigma.square())


def cells_terms(showers: CellNetwork, numbers: Tensor, batch: Batch) -> Terms:
    """Mean over the cells of their likelihood, or of half the squared error of pixels."""
    if showers.output == "pixels":
        return {"pixels": 0.5 * (showers.pixels(numbers, batch.conditions) - batch.values).square().mean()}
    cell = showers.distribution(numbers, batch.conditions)
    value = showers.standardised_hit(batch.values, batch.conditions)
    return {"cells_nll": hit_nll(cell.logit, cell.mean, cell.log_width, batch.hit, value).mean()}


def vae_loss(showers: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Minus the evidence lower bound with free bits, per cell (arXiv:1312.6114, eq. 3); the KL in nats per shower."""
    assert isinstance(showers, ShowerVAE)  # the registry's key
    mean, log_variance = showers.posterior(batch.values, batch.conditions)
    latent = mean + (0.5 * log_variance).exp() * _normal_like(mean, generator)
    kl, cells = normal_kl(mean, log_variance), math.prod(showers.shape)
    terms = cells_terms(showers, showers.decode(latent, batch.conditions), batch)
    terms["kl"] = showers.kl_weight * free_bits(kl, showers.spec.free_bits) / cells
    if showers.training:
        showers.samples_seen += summed(torch.full_like(showers.samples_seen, len(batch)))
    kl = kl.detach()
    active = (kl.mean(dim=0) > ACTIVE_NATS).sum().float()
    return terms | {"kl_nats": kl.sum(dim=1).mean(), "active_dimensions": active}


def vqvae_loss(showers: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Likelihood of the cells and commitment (arXiv:1711.00937, eq. 3); the codebook follows by itself."""
    assert isinstance(showers, ShowerVQVAE)  # the registry's key
    vectors, quantised = showers.quantised(batch.values, batch.conditions)
    terms = cells_terms(showers, showers.decode(quantised.vectors, batch.conditions), batch)
    terms["commitment"] = quantised.commitment
    terms["code_perplexity"] = perplexity(quantised.codes, showers.codebook.size)
    terms["codes_used"] = (torch.bincount(quantised.codes.flatten()) > 0).sum().float()
    if showers.training:
        showers.codebook.update(vectors, quantised.codes)
    return terms


def autoregressive_loss(showers: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """Cross-entropy of the codes, in nats per code."""
    assert isinstance(showers, AutoregressivePrior)  # the registry's key
    codes = showers.tokenizer.encode(batch.values, batch.conditions)
    logits = showers(codes, batch.conditions)
    return {"codes_nll": F.cross_entropy(logits.flatten(0, 1), codes.flatten())}


LOSSES: dict[type[nn.Module], Callable[[nn.Module, Batch, torch.Generator], Terms]] = {
    MaskedViT: pretext_loss,
    EnergyRegression: energy_loss,
    AngleRegression: angle_loss,
    Classification: class_loss,
    ShowerGenerator: generator_loss,
    DiffusionTransformer: diffusion_loss,
    ConsistencyTransformer: consistency_loss,
    ShowerVAE: vae_loss,
    ShowerVQVAE: vqvae_loss,
    AutoregressivePrior: autoregressive_loss,
}


def total(terms: Terms) -> Tensor:
    """The sum of the terms that are minimised."""
    return torch.stack([term for name, term in terms.items() if name not in WATCHED]).sum()


def is_finite(terms: dict[str, float]) -> bool:
    """Whether every term is a number."""
    return all(math.isfinite(value) for value in terms.values())
