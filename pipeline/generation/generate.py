"""A trained generator's showers at exactly the held-out conditions, as a raw file.

In: a model, the reference data set's parts. Out: a CaloChallenge file of visible MeV on the network's mesh, at the
conditions of the held-out reference showers and in their order; milliseconds per shower go to `.measured.json`.
A shower's random numbers depend on the sample's seed and its own place alone. On a CPU every network call has
`CPU_CALL` showers, so the batch size (that of a GPU) changes no bits: a matrix product rounds as its shape says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.calorimeter import RaggedShowers, Showers
from pipeline.config import Config, SampleSpec, TrainingSpec
from pipeline.data.formats import write_calochallenge
from pipeline.data.store import Part, held_out
from pipeline.data.transforms import Transform
from pipeline.generation.rescale import rescale_layers
from pipeline.generation.samplers import Noise, sample
from pipeline.models import Conditions, ShowerDiffusion
from pipeline.provenance import write_json
from pipeline.training.checkpoint import TrainedModel, load_model
from pipeline.training.determinism import device_of, reproducible, seeded

log = logging.getLogger(__name__)
CPU_CALL = 50


class GenerationError(RuntimeError):
    """A sample that cannot be made with this model."""


def generate(config: Config, sample_name: str, model: Path, parts: Sequence[Path], output: Path) -> None:
    """Write the showers of `samples.<sample_name>`."""
    spec = config.samples[sample_name]
    if not isinstance(spec, SampleSpec):
        raise GenerationError(f"samples.{sample_name}: expected a sample with the key run, got {type(spec).__name__}")
    if config.evaluation is None:
        raise GenerationError(
            f"samples.{sample_name}: expected an 'evaluation' section that names the conditions, got none"
        )
    trained, dataset = load_model(model), config.evaluation.reference
    if not isinstance(trained.network, ShowerDiffusion):
        raise GenerationError(
            f"{model}: expected a generative model for samples.{sample_name}, got {trained.architecture.model.name}"
        )
    transform, domain = trained.transforms[dataset], trained.domain(dataset)
    truth = held_out([Part.open(part) for part in parts], config.splits, "reference", config.evaluation.showers)
    training = TrainingSpec.model_validate(trained.manifest["spec"]["training"])
    started, device = time.monotonic(), device_of(training)
    with reproducible(training.threads, device):
        blocks = showers_at(trained, spec, truth, domain, transform, device)
        write_calochallenge(
            output,
            blocks,
            sampling_corrected=False,
            threshold_mev=transform.threshold_mev,
            sampling_fraction=config.detector(config.datasets[dataset].detector).sampling_fraction,
            attributes={"sample": sample_name, "run": spec.run, "weights_digest": trained.manifest["weights_digest"]},
        )
    seconds = time.monotonic() - started
    write_json(
        output.with_suffix(".measured.json"),
        {"device": str(device), "showers": len(truth), "ms_per_shower": 1000 * seconds / len(truth)},
    )
    log.info("%s: %d showers, %.2f ms each", sample_name, len(truth), 1000 * seconds / len(truth))


def showers_at(
    trained: TrainedModel,
    spec: SampleSpec,
    truth: RaggedShowers,
    domain: int,
    transform: Transform,
    device: torch.device,
) -> Iterator[Showers]:
    """Generated showers at the conditions of `truth`, in blocks of one network call."""
    network = trained.network.to(device)
    call = CPU_CALL if device.type == "cpu" else spec.batch_size
    for start in range(0, len(truth), call):
        rows = np.arange(start, min(start + call, len(truth)))
        energy = _call(network, spec, truth, rows, domain, transform, call, device)
        yield Showers(
            energy,
            truth.incident_energy[rows],
            truth.theta[rows],
            truth.phi[rows],
            transform.mesh,
            truth.detector,
            truth.particle,
        )


def _call(
    network: torch.nn.Module,
    spec: SampleSpec,
    truth: RaggedShowers,
    rows: NDArray[np.int64],
    domain: int,
    transform: Transform,
    call: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """(rows, r, phi, z) MeV: one network call of `call` showers, filled up by repeating the last."""
    assert isinstance(network, ShowerDiffusion)  # checked by generate
    filled = np.concatenate([rows, np.full(call - len(rows), rows[-1])])
    energy = truth.incident_energy[filled]
    conditions = Conditions(
        torch.tensor(energy, dtype=torch.float32),
        torch.tensor(truth.theta[filled], dtype=torch.float32),
        torch.full((call,), domain),
        torch.zeros(call, transform.mesh.n_z),
    ).to(device)
    noise = shower_noise(spec.seed, filled, transform.mesh.shape, device)
    drawn, conditions = sample(network, conditions, noise, spec.steps, spec.sigma_stop)
    layers = conditions.layer_energy.cpu().numpy() if network.energies is not None else None
    mev = np.asarray(transform.inverse(drawn.values.cpu().numpy(), energy, layers))
    if network.spec.output == "probabilistic":
        mev = np.where(drawn.hit.cpu().numpy(), np.maximum(mev, transform.threshold_mev), 0)
    else:
        mev = np.where(mev < transform.threshold_mev, 0, mev)
    if network.energies is not None:
        mev = rescale_layers(
            mev, conditions.layer_energy.cpu().numpy(), drawn.likelihood.cpu().numpy(), transform.threshold_mev
        )
    return mev[: len(rows)].astype(np.float32)


def shower_noise(seed: int, rows: NDArray[np.int64], shape: tuple[int, int, int], device: torch.device) -> Noise:
    """The random numbers of the showers at `rows`; each shower's depend on (seed, row) alone."""
    columns: list[list[Tensor]] = [[], [], [], []]
    for row in rows.tolist():
        generator = seeded(torch.device("cpu"), f"shower {seed} {row}")
        columns[0].append(torch.randn(1 + shape[2], generator=generator))
        columns[1].append(torch.randn(shape, generator=generator))
        columns[2].append(torch.rand(shape, generator=generator))
        columns[3].append(torch.randn(shape, generator=generator))
    layers, cells, hit, draw = (torch.stack(column).to(device) for column in columns)
    return Noise(layers, cells, hit, draw)
