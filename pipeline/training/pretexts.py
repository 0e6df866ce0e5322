"""Pretext tasks: corrupt(mask sampler, fill) -> target -> loss, over one encoder.

In: a masked ViT, a batch in network space, a generator. Out: named terms, already multiplied with their weights, so
that they sum to the loss. Labels are read by `incident_energy` alone. Equations and sources: docs/pretraining.md.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config.pretraining import Jigsaw, Reconstruction, ReplacedTokens, SecondaryEnergy
from pipeline.models.conditions import PartlyUnknown
from pipeline.models.masked_vit import MaskedViT, gather
from pipeline.models.masking import Masking, masking
from pipeline.models.tokens import patchify
from pipeline.training.batches import Batch, with_unknown_detectors
from pipeline.training.reconstruction import masked_mean, reconstruction_loss

Terms = dict[str, Tensor]


def pretext_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Terms:
    """The terms of all tasks: `<task>_<loss>`, or `reconstruction` where a single task has a single loss."""
    assert isinstance(network, MaskedViT)  # the registry's key
    if network.spec.detector_embedding is not None:
        batch = with_unknown_detectors(network.spec.detector_embedding.dropout, batch, generator)
    if network.spec.shuffle_cells:
        batch = shuffled(batch, generator)
    terms: Terms = {}
    for task in network.spec.tasks:
        hidden = masking(task, len(batch), network.grid, generator)
        own: Terms
        if isinstance(task, ReplacedTokens):
            own = {task.name: replaced_tokens_loss(network, batch, hidden, generator)}
        elif isinstance(task, Jigsaw):
            own = {task.name: jigsaw_loss(network, batch, hidden)}
        elif isinstance(task, SecondaryEnergy):
            own = {task.name: energy_loss(network, batch, hidden)}
        else:
            own = reconstruction_terms(network, task, batch, hidden, generator)
        terms |= {name: task.weight * term for name, term in own.items()}
    single = len(terms) == 1 and not isinstance(network.spec.tasks[0], ReplacedTokens | Jigsaw | SecondaryEnergy)
    return {"reconstruction": next(iter(terms.values()))} if single else terms


def detectors_told(network: MaskedViT, batch: Batch) -> Tensor | None:
    """(B, E) what the network is told of the showers' detectors, None where nothing."""
    conditions = batch.conditions
    return network.told(conditions.domain, conditions.unknown if isinstance(conditions, PartlyUnknown) else None)


def shuffled(batch: Batch, generator: torch.Generator) -> Batch:
    """The control: the cells of each shower in a random order of their own."""
    values = batch.values.flatten(1)
    order = torch.rand(values.shape, generator=generator, device=generator.device).argsort(dim=1)
    moved = (cells.flatten(1).gather(1, order).reshape(cells.shape) for cells in (batch.values, batch.hit))
    values, hit = moved
    return replace(batch, values=values, hit=hit)


# --------------------------------------------------------------------------------- reconstruction


def reconstruction_terms(
    network: MaskedViT, task: Reconstruction, batch: Batch, hidden: Masking, generator: torch.Generator
) -> Terms:
    """Corrupt, predict, and compare by each of the task's losses."""
    target = patchify(batch.values, network.spec.patch)
    if task.fill == "drop":
        raw = network(batch.values, hidden.order, hidden.visible, detectors_told(network, batch))
    else:
        seen = filled(network, task, target, hidden, batch.conditions.domain, generator)
        raw = network.restore(*seen, detectors_told(network, batch))
    sigmoid = network.spec.output == "sigmoid"
    return {
        f"{task.name}_{loss.name}": loss.weight
        * reconstruction_loss(loss, raw, target, hidden.asked, network.grid, sigmoid)
        for loss in task.losses
    }


def filled(
    network: MaskedViT,
    task: Reconstruction,
    patches: Tensor,
    masked: Masking,
    domain: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """(B, N, P) patches with the hidden ones filled, and (B, N) bool: those that become the learned token."""
    hidden = masked.hidden
    if task.fill == "token":
        return patches, hidden
    noise = climatology = token = torch.zeros_like(hidden)
    if task.fill == "mixture":
        place = torch.rand(hidden.shape, generator=generator, device=generator.device)
        of_token, of_noise, _ = task.shares
        token, noise = hidden & (place < of_token), hidden & (place >= of_token) & (place < of_token + of_noise)
        climatology = hidden & ~token & ~noise
    elif task.fill == "noise":
        noise = hidden
    elif task.fill == "climatology":
        climatology = hidden
    if task.fill == "zero":
        return patches.masked_fill(hidden[:, :, None], 0), None
    if task.fill == "empty":
        empty = patchify(network.empty[domain], network.spec.patch)
        return torch.where(hidden[:, :, None], empty, patches), None
    if task.fill in ("noise", "mixture"):
        drawn = torch.randn(patches.shape, generator=generator, device=generator.device)
        patches = torch.where(noise[:, :, None], patches + task.sigma * drawn, patches)
    if task.fill in ("climatology", "mixture"):
        mean = patchify(network.climatology[domain], network.spec.patch)
        patches = torch.where(climatology[:, :, None], mean, patches)
    return patches, token if task.fill == "mixture" else None


# ------------------------------------------------------------------------------- heads on the tokens


def replaced_tokens_loss(network: MaskedViT, batch: Batch, chosen: Masking, generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of "this token was replaced" over all tokens (arXiv:2003.10555, section 2).

    A chosen token takes the cells of another place of its shower; where these are the same it was not replaced.
    """
    patches = patchify(batch.values, network.spec.patch)
    n, tokens = patches.shape[:2]
    away = torch.randint(1, tokens, (n, tokens), generator=generator, device=generator.device)
    source = (torch.arange(tokens, device=away.device) + away) % tokens
    changed = torch.where(chosen.hidden[:, :, None], gather(patches, source), patches)
    replaced = (changed != patches).any(dim=2)
    logits = network.replaced(network.encode_patches(changed, told=detectors_told(network, batch)))[:, :, 0]
    return F.binary_cross_entropy_with_logits(logits.float(), replaced.float())


def exchanged(masked: Masking) -> Tensor:
    """(B, N) where the cells of each token come from: chosen tokens pass theirs on in a ring, others keep theirs."""
    chosen = masked.order[:, masked.visible :]
    source = torch.arange(masked.order.shape[1], device=chosen.device).expand_as(masked.order)
    return source.scatter(1, chosen, chosen.roll(1, dims=1))


def jigsaw_loss(network: MaskedViT, batch: Batch, chosen: Masking) -> Tensor:
    """Cross-entropy of the place an exchanged token came from (arXiv:1603.09246); patches without hits do not count."""
    patches, source = patchify(batch.values, network.spec.patch), exchanged(chosen)
    logits = network.jigsaw(network.encode_patches(gather(patches, source), told=detectors_told(network, batch)))
    told = patchify(batch.hit, network.spec.patch).any(dim=2).gather(1, source) & chosen.hidden
    error = F.cross_entropy(logits.float().transpose(1, 2), source, reduction="none")
    return (error * told).sum() / told.sum().clamp_min(1)


def energy_loss(network: MaskedViT, batch: Batch, hidden: Masking) -> Tensor:
    """Squared error of the standardised log incident energy, from the mean visible token."""
    centre, scale = network.log_energy
    visible = hidden.order[:, : hidden.visible]
    pooled = network.encode(batch.values, visible, detectors_told(network, batch)).mean(dim=1)
    predicted = network.energy(pooled)[:, 0].float()
    target = (batch.conditions.incident_energy.log() - centre) / scale
    ones = torch.ones_like(predicted[:, None], dtype=torch.bool)
    return masked_mean((predicted - target).square()[:, None, None], ones)
