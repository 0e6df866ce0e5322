"""Fine-tuning is another initial state: the parent's averaged weights, with parts dropped, kept or frozen.

In: a new network and the parent's. What fits by name and shape is taken over; buffers (standardisations, hit
rates, calibrations) stay those of the new data. Detectors are matched by name, and a detector that the parent
never saw starts at the mean of those it did, or as an unknown one where the parent was trained with such. Out: the
names of the parameters that start afresh.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models import HEADS, Architecture, MaskedViT, ShowerGenerator, ShowerVAE, ShowerVQVAE, build_network
from pipeline.training.checkpoint import TrainedModel
from pipeline.training.fine_tuning import resized


class AdaptationError(ValueError):
    """A parent that the run cannot start from."""


def architecture_from(
    parent: Architecture, own: Architecture, patch_embedder: Literal["keep", "interpolate", "fresh"] = "keep"
) -> Architecture:
    """The run's architecture with the parent's detectors first, so that their embeddings stay in place.

    Another mesh or patch needs a `patch_embedder` that is not kept.
    """
    same = own.model == parent.model and own.shape == parent.shape
    if patch_embedder != "keep" and hasattr(parent.model, "patch"):
        same = own.model.model_copy(update={"patch": parent.model.patch}) == parent.model
    if not same:
        raise AdaptationError(
            f"start_from: expected the parent's network ({parent.model.name} on {parent.shape}), got "
            f"{own.model.name} on {own.shape} or other sizes; leave `model` out and use its recipe, "
            "or set adapt.patch_embedder for another patch or mesh"
        )
    detectors = (*parent.detectors, *(d for d in own.detectors if d not in parent.detectors))
    return replace(own, detectors=detectors)


def start_from(
    network: nn.Module, parent: TrainedModel, patch_embedder: Literal["keep", "interpolate", "fresh"] = "keep"
) -> list[str]:
    """Take the parent's weights over in place; returns the parameters that keep their fresh start."""
    weights: dict[str, Tensor] = dict(parent.network.named_parameters())
    own_encoder = network.backbone if isinstance(network, HEADS) else network
    encoder = parent.network.backbone if isinstance(parent.network, HEADS) else parent.network
    if patch_embedder == "interpolate" and isinstance(own_encoder, MaskedViT) and isinstance(encoder, MaskedViT):
        prefix = "backbone." if isinstance(parent.network, HEADS) else ""
        weights |= {prefix + name: value for name, value in interpolated(encoder, own_encoder).items()}
    if patch_embedder == "fresh":
        weights = {name: value for name, value in weights.items() if not re.search(r"\b(embed|to_cells)\.", name)}
    if isinstance(network, HEADS) and isinstance(parent.network, MaskedViT):
        weights = {f"backbone.{name}": value for name, value in weights.items()}
    fresh = []
    with torch.no_grad():
        for name, own in network.named_parameters():
            given: Tensor | None = weights.get(name)
            if given is not None and name.endswith(("detector.weight", "detector.rows.weight")):
                given = _with_new_rows(given, len(own), unseen=_knows_unseen(network))
            if given is None or given.shape != own.shape:
                fresh.append(name)
            else:
                own.copy_(given)
    if isinstance(network, ShowerVQVAE) and isinstance(parent.network, ShowerVQVAE):
        network.codebook.load_state_dict(parent.network.codebook.state_dict())  # the codes keep their meaning
    if len(fresh) == len(list(network.parameters())):
        raise AdaptationError(
            f"start_from: expected a parent with weights for {type(network).__name__}, got "
            f"{type(parent.network).__name__}, which shares none; start from another run"
        )
    return fresh


def in_the_place_of(parent: TrainedModel, child: TrainedModel) -> nn.Module:
    """A network of the child's weights with the parent's data sets, standardisations and calibrations.

    The child must have the parent's architecture, but for data sets and detectors.
    """
    network = build_network(replace(parent.architecture, detectors=child.architecture.detectors))
    learned = {name for name, _ in network.named_parameters()}
    weights = {n: v for n, v in child.network.state_dict().items() if n in learned or "codebook." in n}
    network.load_state_dict({**parent.network.state_dict(), **weights})
    return network


def interpolated(parent: MaskedViT, own: MaskedViT) -> dict[str, Tensor]:
    """What depends on patch and mesh: embedding, prediction of cells, learned positions, carried over by overlap."""
    old, new = parent.spec.patch, own.spec.patch
    weights = {"embed.weight": resized(parent.embed.weight.detach(), old, new, mean=False)}
    weights["to_cells.weight"] = resized(parent.to_cells.weight.detach().T, old, new, mean=True).T
    weights["to_cells.bias"] = resized(parent.to_cells.bias.detach(), old, new, mean=True)
    if parent.spec.positions == "learned":
        for name in ("positions", "decoder_positions"):
            table = getattr(parent, name).detach().T
            weights[name] = resized(table, parent.grid, own.grid, mean=True).T
    return weights


def take_parents(network: nn.Module, own: Architecture, parents: Mapping[str, TrainedModel]) -> None:
    """Build the networks of other runs into this one, by their roles; they stay as they are."""
    for role, parent in parents.items():
        found = parent.architecture
        if (found.shape, found.domains, found.threshold_mev) != (own.shape, own.domains, own.threshold_mev):
            raise AdaptationError(
                f"model.{role}: expected a run on the same data and mesh ({list(own.datasets)}, {own.shape}), got "
                f"'{parent.manifest['run']}' on {list(found.datasets)}, {found.shape}; use its `data` and `recipe`"
            )
    assert isinstance(network, ShowerGenerator)  # only these have parents
    network.take_over({role: parent.network for role, parent in parents.items()})


def _knows_unseen(network: nn.Module) -> bool:
    """Whether the network was trained with showers whose detector has no row of its own."""
    spec = getattr(network.backbone if isinstance(network, HEADS) else network, "spec", None)
    embedding = getattr(spec, "detector_embedding", None)
    return embedding is not None and embedding.dropout > 0


def _with_new_rows(embedding: Tensor, rows: int, unseen: bool) -> Tensor:
    new = torch.zeros_like(embedding[:1]) if unseen else embedding.mean(dim=0, keepdim=True)
    return torch.cat([embedding, new.expand(rows - len(embedding), -1)])


def freeze_encoder(network: nn.Module) -> None:
    """Train the head alone: the encoder (where there is one) or the blocks (of a generator) keep their weights."""
    if isinstance(network, HEADS):
        network.backbone.requires_grad_(False)
    elif isinstance(network, MaskedViT):
        for part in (network.embed, network.encoder, network.norm):
            part.requires_grad_(False)
    elif isinstance(network, ShowerVQVAE):
        network.encoder.requires_grad_(False)
    elif isinstance(network, ShowerGenerator) and isinstance(network.showers, ShowerVAE):
        network.showers.encoder.requires_grad_(False)
    elif isinstance(network, ShowerGenerator):
        for blocks in network.showers.children():
            if isinstance(blocks, nn.ModuleList):
                blocks.requires_grad_(False)
