"""What a trained network does with held-out showers: where its attention looks, and what it forgot.

In: a run's model, those of the runs before it, parts of their data sets. Out: rows and tables in one JSON. Forgetting
is measured with the weights of the run in the place of the parent's: the parent's data sets, standardisations and
calibrations, the same showers and the same random numbers, so that the difference of the two losses is paired. Rows
have the observable `old_data` and the data set as selection; definitions: docs/metrics.md. It draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.config import Config, TrainingSpec
from pipeline.config.adaptation import OLD_DATA
from pipeline.data.store import Part, held_out
from pipeline.evaluation.comparisons import Row, finite
from pipeline.evaluation.evaluate import complete, evaluation_of
from pipeline.evaluation.metrics import bootstrap_error, generator_for
from pipeline.evaluation.predictions import resolution
from pipeline.generation.predict import predicted
from pipeline.models import DiffusionTransformer, EnergyRegression, MaskedViT, ShowerGenerator
from pipeline.models.attention_maps import attention_table, recorded
from pipeline.models.draws import BatchGenerator
from pipeline.models.tokens import patchify
from pipeline.provenance import write_json
from pipeline.training.adaptation import in_the_place_of
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import TrainedModel, load_model
from pipeline.training.determinism import device_of, reproducible, seed_of
from pipeline.training.loading import Loader
from pipeline.training.objectives import LOSSES, total
from pipeline.training.sources import StoreSource

BLOCK, DRAWS = 8, 4  # showers in a block whose mean loss is one value; draws of random numbers for each
SIGMA = 1.0  # noise level of the shower that a diffusion's attention is shown for
Array = NDArray[np.float64]


class ExaminationError(RuntimeError):
    """A run that there is nothing to see of."""


@torch.no_grad()
def examine(
    config: Config, run: str, models: Mapping[str, Path], parts: Mapping[str, Sequence[Path]], output: Path
) -> None:
    """Write attention and forgetting of `runs.<run>`, as far as the configuration asks; `models` by run."""
    own, old = load_model(models[run]), config.old_data(run) if evaluation_of(config).forgetting else {}
    if run not in config.attended() and not old:
        raise ExaminationError(
            f"runs.{run}: expected a run with attention to draw or data of its parents to remember, got neither; "
            "see figures.draw and evaluation.forgetting"
        )
    training = TrainingSpec.model_validate(own.manifest["spec"]["training"])
    device, rows = device_of(training), []
    tables: dict[str, Any] = {"kind": "examination", "run": run, "reference": evaluation_of(config).reference}
    with reproducible(training.threads, device):
        if run in config.attended():
            name = config.shown_data(run)
            tables["attention"] = attention(config, own, name, parts[name], device) | {"dataset": name}
        for dataset, before in old.items():
            parent = load_model(models[before])
            made = forgotten(config, own, parent, dataset, parts[dataset], device)
            rows += [complete(row | {"reference": dataset}, config, run) for row in made]
            tables.setdefault("old_data", []).append(
                {"dataset": dataset, "parent": before}
                | {row["metric"]: {"value": row["value"], "error": row["error"]} for row in made}
            )
    write_json(output, {"rows": rows, "tables": tables})


# -------------------------------------------------------------------------------------- forgetting


@torch.no_grad()
def forgotten(
    config: Config, own: TrainedModel, parent: TrainedModel, dataset: str, parts: Sequence[Path], device: torch.device
) -> list[Row]:
    """Losses of parent and run on the held-out showers of a data set of the parent, and their paired difference."""
    spec = evaluation_of(config)
    truth = held_out([Part.open(part) for part in parts], config.splits, "reference", spec.showers)
    loader = Loader([StoreSource(truth, parent.transforms[dataset])], 0)
    networks = {"parent": parent.network, "own": in_the_place_of(parent, own)}
    domain, losses, energies = parent.domain(dataset), {}, {}
    for name, network in networks.items():
        network.to(device).eval()
        losses[name] = block_losses(network, loader, domain, device)
        if isinstance(network, EnergyRegression):
            energies[name] = _energies(network, loader, domain, device)
    difference = losses["own"] - losses["parent"]
    found = [("loss_of_parent", *_mean(losses["parent"])), ("loss", *_mean(losses["own"]))]
    found.append(("forgetting", *_mean(difference)))
    true = np.asarray(truth.incident_energy, dtype=np.float64)
    for metric, name in (("resolution_of_parent", "parent"), ("resolution", "own")):
        if name in energies:
            generator = generator_for(config.seed, dataset, OLD_DATA, metric)
            error = bootstrap_error(resolution, true, energies[name], spec.bootstrap, generator, paired=True)
            found.append((metric, resolution(true, energies[name]), error))
    common = {"selection": dataset, "observable": OLD_DATA, "n": len(truth), "bins": None, "seed": config.seed}
    return [
        common | {"metric": metric, "value": finite(value), "error": None if error is None else finite(error)}
        for metric, value, error in found
    ]


@torch.no_grad()
def block_losses(network: nn.Module, loader: Loader, domain: int, device: torch.device) -> Array:
    """Mean loss of each block of showers; blocks of one place have the same random numbers whatever the network."""
    means = []
    for place, batch in enumerate(_of_domain(loader, domain, device)):
        seeds = [seed_of(f"held out {place} {draw}") for draw in range(DRAWS)]
        generators = [BatchGenerator.seeded(device, seed, len(batch)) for seed in seeds]
        draws = [total(LOSSES[type(network)](network, batch, generator)) for generator in generators]
        means.append(float(torch.stack(draws).double().mean()))
    return np.asarray(means)


def _of_domain(loader: Loader, domain: int, device: torch.device) -> list[Batch]:
    """Whole blocks of showers, of a data set of the network's; what is left over is left out."""
    batches = [batch.to(device) for batch in loader.in_order(BLOCK)]
    for batch in batches:
        batch.conditions.domain.fill_(domain)
    return [batch for batch in batches if len(batch) == BLOCK] or batches


def _energies(network: nn.Module, loader: Loader, domain: int, device: torch.device) -> Array:
    """Predicted incident energies, MeV."""
    made = []
    for batch in loader.in_order(BLOCK):
        own = batch.to(device)
        made.append(predicted(network, own, torch.full_like(own.conditions.domain, domain))["predicted"].cpu())
    return torch.cat(made).double().numpy()


def _mean(values: Array) -> tuple[float, float | None]:
    """The mean over blocks and its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


# --------------------------------------------------------------------------------------- attention


def attention(
    config: Config, own: TrainedModel, dataset: str, parts: Sequence[Path], device: torch.device
) -> dict[str, Any]:
    """Attention of the held-out shower at `figures.attention_quantile` of the incident energy, and that shower."""
    spec = evaluation_of(config)
    truth = held_out([Part.open(part) for part in parts], config.splits, "reference", spec.showers)
    order = np.argsort(truth.incident_energy, kind="stable")
    row = order[round(config.figures.attention_quantile * (len(order) - 1))]
    shower = truth.take(np.asarray([row]))
    transform = own.transforms[dataset]
    source = StoreSource(shower, transform)
    batch = next(Loader([source], 0).in_order(1)).to(device)
    batch.conditions.domain.fill_(own.domain(dataset))
    energy = torch.from_numpy(source.energies(np.arange(1), None))  # MeV on the network's mesh
    network = own.network.to(device).eval()
    maps, patch, grid, noise = _run(network, batch, device)
    mesh = transform.mesh
    return {
        **attention_table(maps, patchify(energy, patch).sum(dim=2)[0], grid),
        "incident_energy_mev": float(shower.incident_energy[0]),
        "energy_mev": np.round(energy[0].double().sum(dim=1).numpy(), 4).tolist(),
        "r_mm": mesh.n_r * mesh.dr_mm,
        "z_mm": mesh.n_z * mesh.dz_mm,
        "noise": noise,
    }


def _run(network: nn.Module, batch: Batch, device: torch.device) -> tuple[list[torch.Tensor], Any, Any, float | None]:
    """Attention of all blocks on one shower; patch and grid; the noise level that the shower was shown with."""
    if isinstance(network, MaskedViT):
        with recorded(network.encoder) as maps:
            network.encode(batch.values, told=network.told(batch.conditions.domain))
        return maps, network.spec.patch, network.grid, None
    showers = network.showers if isinstance(network, ShowerGenerator) else network
    assert isinstance(showers, DiffusionTransformer)  # guaranteed by Config.attended
    generator = torch.Generator(device).manual_seed(seed_of("attention"))
    noisy = batch.values + SIGMA * torch.randn(batch.values.shape, generator=generator, device=device)
    with recorded(showers.blocks) as maps:
        showers.denoised(noisy, torch.full((1,), SIGMA, device=device), batch.conditions)
    return maps, showers.spec.patch, showers.grid, SIGMA
