"""Predicted labels of the held-out showers: energies and angles with their uncertainty, or probabilities of classes.

In: a model with a head; the parts of the reference data set, or of all the run's where a head tells them apart. Out: a
JSON table, a row per shower in the order of the held-out set: incident_energy, predicted, sigma, visible_energy (all
MeV); or kind angle: theta, predicted, sigma (rad); or kind classes: target, probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Config, TrainingSpec
from pipeline.data.store import Part, held_out
from pipeline.models import HEADS, AngleRegression, Classification
from pipeline.provenance import write_json
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import load_model
from pipeline.training.determinism import device_of, reproducible
from pipeline.training.loading import Loader
from pipeline.training.sources import StoreSource

_BATCH = 128
Columns = dict[str, list[Any]]


class PredictionError(RuntimeError):
    """A model that predicts nothing."""


@torch.no_grad()
def predict(
    config: Config, run: str, model: Path, parts: Sequence[Path] | Mapping[str, Sequence[Path]], output: Path
) -> None:
    """Write the table of `runs.<run>`; sigma is the spread of the predicted number itself.

    `parts` are those of the reference, or by data set: their held-out showers follow each other.
    """
    trained = load_model(model)
    network, head = trained.network, trained.architecture.head
    if config.evaluation is None or head is None or not isinstance(network, HEADS):
        raise PredictionError(
            f"{model}: expected an 'evaluation' section and a run with a head, got run '{run}' "
            f"of {type(network).__name__}"
        )
    named = parts if isinstance(parts, Mapping) else {config.evaluation.reference: parts}
    training = TrainingSpec.model_validate(trained.manifest["spec"]["training"])
    device, energies = device_of(training), []
    columns: Columns = {}
    with reproducible(training.threads, device):
        network.to(device)
        for dataset, own_parts in named.items():
            opened, domain = [Part.open(part) for part in own_parts], trained.domain(dataset)
            truth = held_out(opened, config.splits, "reference", config.evaluation.showers)
            energies += truth.incident_energy.astype(float).tolist()
            for batch in Loader([StoreSource(truth, trained.transforms[dataset])], 0).in_order(_BATCH):
                own = batch.to(device)
                for name, values in predicted(network, own, torch.full_like(own.conditions.domain, domain)).items():
                    columns.setdefault(name, []).extend(values.tolist())
    asked = {"datasets": list(named)} if len(named) > 1 else {}
    write_json(output, {**_known(network, head.predict, energies), **asked, **columns})


def predicted(network: torch.nn.Module, batch: Batch, domain: torch.Tensor) -> dict[str, torch.Tensor]:
    """The columns of one batch, double precision; `domain` (B,) is the index of the data set in the model."""
    conditions = batch.conditions
    if isinstance(network, Classification):
        logits = network(batch.values, batch.visible_energy, domain).double()
        target = network.targets(conditions.incident_energy, domain)
        return {"target": target, "probability": logits.softmax(dim=1)}
    if isinstance(network, AngleRegression):
        mean, log_variance = network(batch.values, batch.visible_energy, domain)
        sigma = (0.5 * log_variance.double()).exp()
        return {"theta": conditions.theta.double(), "predicted": mean.double(), "sigma": sigma}
    mean, log_variance = network(batch.values, batch.visible_energy, domain)
    energy = mean.double().exp()
    sigma = energy * (0.5 * log_variance.double()).exp()
    return {"predicted": energy, "sigma": sigma, "visible_energy": batch.visible_energy.double()}


def _known(network: torch.nn.Module, predict: str, incident_energy: list[float]) -> dict[str, Any]:
    """What the table says beside the predictions."""
    if isinstance(network, Classification):
        frequencies = network.prior.double().exp().tolist()
        return {
            "kind": "classes",
            "predict": predict,
            "classes": network.classes,
            "training_frequencies": frequencies,
        }
    if isinstance(network, AngleRegression):
        return {"kind": "angle", "predict": predict, "training_mean": float(network.theta[0])}
    return {"incident_energy": incident_energy}
