"""Samples that need no training: what a generator must beat, and the floor's showers made wrong on purpose.

In: the reference data set's parts. Out: a CaloChallenge file of visible MeV on the evaluation's mesh, cut at its
threshold; baselines at the conditions of the held-out reference showers and in their order, perturbed samples at those
of the floor. `independent_cells` is the null model: each layer has the energy of one training shower, each cell
the value of another one, all of about the energy asked for; every marginal is right, and nothing else.
Random numbers depend on the sample's seed and a shower's block of `BLOCK` alone. No network, no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import BaselineSampleSpec, Config, PerturbedSampleSpec
from pipeline.data.formats import write_calochallenge
from pipeline.data.store import Part, held_out
from pipeline.data.stream import ShowerStream, training_stream
from pipeline.evaluation.perturbations import PERTURBATIONS
from pipeline.generation.rescale import rescale_layers
from pipeline.provenance import write_json
from pipeline.simulation.parametric import Medium, shower_block

BLOCK = 50
READOUT_THRESHOLD_MEV = 5e-4


def generate_untrained(
    config: Config, sample_name: str, parts: Sequence[Path], output: Path, others: Sequence[Path] = ()
) -> None:
    """Write the showers of `samples.<sample_name>`, a baseline or a perturbed sample; `others` are parts of its `data`.

    Showers of another data set lie in the same cells of the reference's mesh, in whatever mm these were.
    """
    assert config.evaluation is not None  # guaranteed by validation
    spec, evaluation = config.samples[sample_name], config.evaluation
    opened, started, cpu = [Part.open(part) for part in parts], time.monotonic(), time.process_time()
    if isinstance(spec, PerturbedSampleSpec):
        source = held_out(opened, config.splits, "floor", evaluation.showers)
        blocks = perturbed(coarse(source, config), spec, evaluation.threshold_mev)
    else:
        assert isinstance(spec, BaselineSampleSpec)  # generators have a module of their own
        asked = held_out(opened, config.splits, "reference", evaluation.showers)
        if spec.baseline == "parametric":
            blocks = parametric(config, spec, asked)
        else:
            make, k = {
                "nearest_energy": (nearest_energy, 1),
                "independent_cells": (independent_cells, spec.neighbours),
            }[spec.baseline]
            known = known_showers(config, spec, [Part.open(part) for part in others] if spec.data else opened)
            training = known.take(np.unique(nearest_rows(known, asked, k))).read()  # all that will be asked for
            training = replace(training, mesh=asked.mesh.rebinned(evaluation.rebin)) if spec.data else training
            blocks = make(spec, asked, training, evaluation.threshold_mev)
    reference = config.datasets[evaluation.reference]
    write_calochallenge(
        output,
        blocks,
        sampling_corrected=False,
        threshold_mev=evaluation.threshold_mev,
        sampling_fraction=config.detector(reference.detector).sampling_fraction,
        attributes={"sample": sample_name, **spec.model_dump(mode="json", include={"baseline", "perturbed"})},
    )
    milliseconds = 1000 * (time.monotonic() - started) / evaluation.showers
    cpu_ms = 1000 * (time.process_time() - cpu) / evaluation.showers
    write_json(
        output.with_suffix(".measured.json"),
        {"device": "cpu", "showers": evaluation.showers, "ms_per_shower": milliseconds, "cpu_ms_per_shower": cpu_ms},
    )


def known_showers(config: Config, spec: BaselineSampleSpec, parts: Sequence[Part]) -> ShowerStream:
    """The training showers that a baseline knows, on the evaluation's mesh and cut."""
    assert config.evaluation is not None
    stream = training_stream(parts, config.splits, limit=spec.showers)
    return stream.rebin(config.evaluation.rebin).cut(config.evaluation.threshold_mev)


def coarse(showers: RaggedShowers, config: Config) -> RaggedShowers:
    """The showers on the evaluation's mesh, not cut."""
    assert config.evaluation is not None
    return showers.rebin(config.evaluation.rebin)


def perturbed(showers: RaggedShowers, spec: PerturbedSampleSpec, threshold_mev: float) -> Iterator[Showers]:
    """The showers after the perturbation and the cut."""
    perturb = PERTURBATIONS[spec.perturbed].apply
    made = perturb(showers, np.random.default_rng(spec.seed), threshold_mev).cut(threshold_mev)
    for rows in blocks_of(len(made)):
        yield made.take(rows).dense()


def blocks_of(n: int) -> list[NDArray[np.int64]]:
    """Consecutive rows, `BLOCK` at a time."""
    return [np.arange(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def at_conditions(energy: NDArray[np.floating], mesh: CylinderMesh, asked: RaggedShowers) -> Showers:
    """Energies (n, r, phi, z), MeV, at the conditions of `asked`."""
    return Showers(
        energy.astype(np.float32), asked.incident_energy, asked.theta, asked.phi, mesh, asked.detector, asked.particle
    )


def nearest_rows(training: RaggedShowers | ShowerStream, asked: RaggedShowers, neighbours: int) -> NDArray[np.int64]:
    """Training showers nearest in (ln E_inc, theta), nearest first, (n, min(neighbours, training))."""
    known, wanted = (np.stack([np.log(s.incident_energy), s.theta], axis=1) for s in (training, asked))
    k = min(neighbours, len(training))
    return np.asarray(cKDTree(known).query(wanted, k=k)[1], dtype=np.int64).reshape(len(asked), k)


# ------------------------------------------------------------------------------------- baselines


def nearest_energy(
    spec: BaselineSampleSpec, asked: RaggedShowers, training: RaggedShowers, threshold_mev: float
) -> Iterator[Showers]:
    """For each condition the training shower of the nearest energy (and angle), its cells times E / E_training."""
    nearest = nearest_rows(training, asked, 1)[:, 0]
    for rows in blocks_of(len(asked)):
        chosen, wanted = training.take(nearest[rows]), asked.take(rows)
        factor = wanted.incident_energy / chosen.incident_energy
        scaled = replace(chosen, energy=(chosen.energy * factor[chosen.shower_of_hit]).astype(np.float32))
        yield at_conditions(scaled.cut(threshold_mev).dense().energy, training.mesh, wanted)


def independent_cells(
    spec: BaselineSampleSpec, asked: RaggedShowers, training: RaggedShowers, threshold_mev: float
) -> Iterator[Showers]:
    """Each cell from one of the neighbouring training showers, each layer rescaled to the energy of another one."""
    neighbours, mesh = nearest_rows(training, asked, spec.neighbours), training.mesh
    k = neighbours.shape[1]
    for rows in blocks_of(len(asked)):
        generator = np.random.default_rng([spec.seed, int(rows[0])])
        wanted, chosen = asked.take(rows), training.take(neighbours[rows].ravel())
        factor = np.repeat(wanted.incident_energy, k) / chosen.incident_energy
        energy = (chosen.dense().energy.reshape(len(chosen), -1) * factor[:, None]).reshape(len(rows), k, mesh.n_cells)
        drawn = generator.integers(k, size=(len(rows), 1, mesh.n_cells))
        cells = np.take_along_axis(energy, drawn, axis=1)[:, 0].reshape(-1, *mesh.shape)
        whole = energy[np.arange(len(rows)), generator.integers(k, size=len(rows))].reshape(-1, *mesh.shape)
        likelihood = (energy > 0).mean(axis=1).reshape(-1, *mesh.shape)
        rescaled = rescale_layers(cells, whole.sum(axis=(1, 2)), likelihood, threshold_mev)
        yield at_conditions(rescaled, mesh, wanted)


def parametric(config: Config, spec: BaselineSampleSpec, asked: RaggedShowers) -> Iterator[Showers]:
    """The parametric engine at the conditions, simulated on the reference's own mesh."""
    assert config.evaluation is not None
    medium = Medium.from_detector(config.detector(asked.detector))
    mesh = CylinderMesh.from_spec(config.raw_mesh(config.evaluation.reference))
    for rows in blocks_of(len(asked)):
        generator, wanted = np.random.default_rng([spec.seed, int(rows[0])]), asked.take(rows)
        incident = np.asarray(wanted.incident_energy, dtype=np.float64)
        energy = shower_block(incident, asked.particle, medium, mesh, generator)
        energy[energy < READOUT_THRESHOLD_MEV] = 0
        showers = at_conditions(energy, mesh, wanted).rebin(config.evaluation.rebin)
        yield showers.cut(config.evaluation.threshold_mev)
