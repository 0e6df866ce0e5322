"""Predicted incident energies of the held-out showers, with their uncertainty.

In: a model with an energy head, the reference data set's parts. Out: a JSON table with the columns
incident_energy, predicted, sigma, visible_energy (all MeV), a row per shower in the order of the held-out set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.config import Config, TrainingSpec
from pipeline.data.store import Part, held_out
from pipeline.models import EnergyRegression
from pipeline.provenance import write_json
from pipeline.training.checkpoint import load_model
from pipeline.training.determinism import device_of, reproducible
from pipeline.training.loading import Loader
from pipeline.training.sources import StoreSource

_BATCH = 128


class PredictionError(RuntimeError):
    """A model that predicts nothing."""


@torch.no_grad()
def predict(config: Config, run: str, model: Path, parts: Sequence[Path], output: Path) -> None:
    """Write the table of `runs.<run>`; sigma is the spread of the predicted energy itself."""
    trained = load_model(model)
    network = trained.network
    if config.evaluation is None or not isinstance(network, EnergyRegression):
        raise PredictionError(
            f"{model}: expected an 'evaluation' section and a run with a head, got run '{run}' "
            f"of {type(network).__name__}"
        )
    dataset = config.evaluation.reference
    truth = held_out([Part.open(part) for part in parts], config.splits, "reference", config.evaluation.showers)
    training = TrainingSpec.model_validate(trained.manifest["spec"]["training"])
    device, domain = device_of(training), trained.domain(dataset)
    columns: dict[str, list[float]] = {"predicted": [], "sigma": [], "visible_energy": []}
    with reproducible(training.threads, device):
        network.to(device)
        for batch in Loader([StoreSource(truth, trained.transforms[dataset])], 0).in_order(_BATCH):
            own = batch.to(device)
            mean, log_variance = network(own.values, own.visible_energy, torch.full_like(own.conditions.domain, domain))
            predicted = mean.double().exp()
            columns["predicted"] += predicted.tolist()
            columns["sigma"] += (predicted * (0.5 * log_variance.double()).exp()).tolist()
            columns["visible_energy"] += own.visible_energy.double().tolist()
    write_json(output, {"incident_energy": truth.incident_energy.astype(float).tolist(), **columns})
