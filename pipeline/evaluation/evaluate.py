"""Compare a sample of showers with held-out Geant4: rows and tables in one JSON.

In: manifests of parts (visible MeV on their own mesh); out: {"rows": [...], "tables": {...}}. All sides are brought
to the evaluation's mesh and cut at its threshold before anything is measured. The reference is one half of the test
split, the floor the other half: Geant4 against Geant4. It draws nothing, fills no floor (`summary.collect`) and knows
no predictions of a head (`predictions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.calorimeter import CylinderMesh
from pipeline.config import Config, EvaluationSpec
from pipeline.data.compute import Workers, client_for
from pipeline.data.store import Half, Part
from pipeline.data.stream import ShowerStream, held_out_stream
from pipeline.evaluation.comparisons import ROW_KEYS, Row, compare, own_floor
from pipeline.evaluation.conditions import Ground, common_ground, copies, sample_stream
from pipeline.evaluation.displays import average_tables, image_tables
from pipeline.evaluation.multivariate import multivariate_rows
from pipeline.evaluation.observables import ONE_THREAD, observables, observe
from pipeline.evaluation.sensitivity import sensitivity_rows
from pipeline.evaluation.tables import figure_tables
from pipeline.provenance import write_json

HALVES: tuple[Half, Half] = ("reference", "floor")


class EvaluationError(ValueError):
    """Showers or predictions that cannot be compared; names the file, what was expected and the remedy."""


def evaluate(
    config: Config,
    sample: str,
    reference_parts: Sequence[Path],
    sample_parts: Sequence[Path] | None,
    output: Path,
    threads: int = 1,
) -> None:
    """Evaluate a sample's parts against the reference; `sample_parts` None is the floor, the other Geant4 half.

    A sample with other showers than the reference's, in number or energies, brings rows of its own floor with it.
    Raises `EvaluationError` when the sample cannot be brought to the evaluation's mesh or is empty, and
    `ConditionsError` when it has no energies in common with the reference.
    """
    spec = evaluation_of(config)
    parts = [Part.open(path) for path in reference_parts]
    reference = comparable(held_out_stream(parts, config.splits, "reference", spec.showers), config, "the reference")
    floor = comparable(held_out_stream(parts, config.splits, "floor", spec.showers), config, "the floor")
    ground = Ground(reference, floor)
    if sample_parts is not None:
        opened, where = [Part.open(path) for path in sample_parts], str(sample_parts[0])
        ground = common_ground(reference, comparable(sample_stream(opened), config, where), where)
        ground = replace(ground, notes=(*ground.notes, *copies(opened)))
    with client_for(config.compute, threads) as workers:
        rows, tables = comparison(ground, spec, config.seed, workers, whole=reference)
        made = [complete(row, config, sample) for row in rows]
        if len(ground.reference) != len(reference):
            own = common_ground(ground.reference, floor, "the floor")
            rows, _ = comparison(own, spec, config.seed, workers, whole=reference)
            made += [complete(row, config, own_floor(sample)) for row in rows]
    tables |= {"kind": "sample", "sample": sample, "reference": spec.reference}
    tables["radiation_length_mm"] = config.detector(reference.detector).radiation_length_mm
    write_json(output, {"rows": made, "tables": tables | {"notes": ground.notes, "differs": ground.differs}})


def evaluate_sensitivity(config: Config, reference_parts: Sequence[Path], output: Path, threads: int = 1) -> None:
    """Evaluate known faults of the floor's showers: what the evaluation would have shown of them."""
    spec = evaluation_of(config)
    parts = [Part.open(path) for path in reference_parts]
    reference, floor = (
        comparable(held_out_stream(parts, config.splits, half, spec.showers), config, f"the {half}") for half in HALVES
    )
    with client_for(config.compute, threads) as workers:
        rows = sensitivity_rows(reference, floor, spec, config.seed, workers)
    tables = {"kind": "sensitivity", "reference": spec.reference}
    write_json(output, {"rows": [complete(row, config, name) for name, row in rows], "tables": tables})


def comparison(
    ground: Ground, spec: EvaluationSpec, seed: int, workers: Workers = ONE_THREAD, whole: ShowerStream | None = None
) -> tuple[list[Row], dict[str, Any]]:
    """Rows and figure tables of showers that are already on the evaluation's mesh and cut.

    Every shower is measured, block by block; rows of many numbers of a shower see the first showers of each side.
    Figures show the `whole` reference, whose bins all samples share.
    """
    narrow = observables(spec.convention, wide=False)
    ours, theirs = (observe(side, narrow, workers) for side in (ground.reference, ground.sample))
    rows = compare(ours, theirs, spec, seed)
    drawn = ours if whole is None or whole is ground.reference else observe(whole, narrow, workers)
    tables = figure_tables(drawn, theirs, ground.reference.mesh, spec)
    seen = whole or ground.reference
    tables |= {"images": image_tables(seen, ground.sample), "average": average_tables(seen, ground.sample)}
    return rows + multivariate_rows(ground.reference, ground.sample, spec, seed, workers), tables


def evaluation_of(config: Config) -> EvaluationSpec:
    """The experiment's evaluation section; `EvaluationError` when it has none."""
    if config.evaluation is None:
        raise EvaluationError(
            f"experiment '{config.experiment}': expected an 'evaluation' section, got none; "
            "add one to the configuration"
        )
    return config.evaluation


def comparable(showers: ShowerStream, config: Config, where: str) -> ShowerStream:
    """The showers on the evaluation's mesh and cut at its threshold, block by block as they are read."""
    spec = evaluation_of(config)
    mesh = CylinderMesh.from_spec(config.raw_mesh(spec.reference)).rebinned(spec.rebin)
    if len(showers) == 0:
        raise EvaluationError(f"{where}: expected showers, got none; make the sample again")
    try:
        factors = showers.mesh.factors_to(mesh)
    except ValueError:
        raise EvaluationError(
            f"{where}: expected showers on a mesh that divides into the evaluation's {mesh}, "
            f"got {showers.mesh}; change evaluation.rebin or the run's recipe"
        ) from None
    return showers.rebin(factors).cut(spec.threshold_mev)


def complete(row: Row, config: Config, sample: str) -> Row:
    """The row with every key of a metric row; its floor is filled in when all rows are collected."""
    known = {
        "experiment": config.experiment,
        "sample": sample,
        "reference": evaluation_of(config).reference,
        "floor": None,
        "sigma": None,
    } | row
    return {key: known[key] for key in ROW_KEYS}
