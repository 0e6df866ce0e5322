"""The metric rows of one sample: which observable is compared by which metric, over which energies.

In: the `Table`s of reference and sample; out: rows {selection, observable, metric, value, error, n, bins, seed}.
A new metric row is one line of `COMPARISONS`. Rows of whole feature vectors, cells and classifiers: `multivariate`.
Definitions: docs/metrics.md. The floor is filled in later (`summary.collect`), for it is a sample like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import EvaluationSpec
from pipeline.evaluation.metrics import (
    METRICS,
    Metric,
    bin_codes,
    bootstrap_error,
    generator_for,
    quantile_edges,
    quantile_groups,
    separation_of_codes,
)
from pipeline.evaluation.observables import Table, rows_of
from pipeline.evaluation.response import energy_bins, energy_edges

Row = dict[str, Any]
ROW_KEYS = (
    "experiment",
    "sample",
    "reference",
    "selection",
    "observable",
    "metric",
    "value",
    "error",
    "floor",
    "sigma",
    "n",
    "bins",
    "seed",
)


_FLOOR_OF, _FAULT = "floor_of_", "fault_"


@dataclass(frozen=True)
class Comparison:
    """One line of the table: `observable` names the row, `column` the measured array behind it."""

    observable: str
    metrics: tuple[str, ...]
    column: str = ""
    per_energy: bool = False


COMPARISONS: tuple[Comparison, ...] = (
    Comparison("visible_energy", ("mean_ratio",), per_energy=True),
    Comparison("energy_response", ("mean_ratio", "spread_ratio", "separation_power"), per_energy=True),
    Comparison("energy_response", ("wasserstein",)),
    Comparison("longitudinal_profile", ("l1",), "layer_energy"),
    Comparison("radial_profile", ("l1",), "ring_energy"),
    Comparison("azimuthal_profile", ("l1",), "sector_energy"),
    Comparison("cell_energy", ("separation_power",)),
    Comparison("hits", ("mean_ratio",), per_energy=True),
    Comparison("hits", ("separation_power", "wasserstein")),
    Comparison("first_moment_z", ("separation_power", "wasserstein")),
    Comparison("first_moment_r", ("separation_power", "wasserstein")),
    Comparison("second_moment_z", ("separation_power", "wasserstein")),
    Comparison("second_moment_r", ("separation_power", "wasserstein")),
    Comparison("containment_radius", ("separation_power", "wasserstein")),
    Comparison("containment_radius_50", ("separation_power", "wasserstein")),
    Comparison("containment_radius_95", ("separation_power", "wasserstein")),
    Comparison("depth_of_maximum", ("separation_power", "wasserstein")),
    Comparison("clusters", ("mean_ratio", "separation_power", "wasserstein")),
    Comparison("azimuthal_asymmetry", ("mean_ratio", "spread_ratio", "separation_power")),
    Comparison("layer_correlation", ("distance",), "layer_energy"),
)


def selection_name(low_mev: float, high_mev: float) -> str:
    """How a row names its energy bin: `energy_mev:[1000,1587]`."""
    return f"energy_mev:[{low_mev:.0f},{high_mev:.0f}]"


def own_floor(sample: str) -> str:
    """The name of the floor's rows at the number and energies of one sample, where these are not the reference's."""
    return f"{_FLOOR_OF}{sample}"


def fault(perturbation: str) -> str:
    """The name of the rows of the floor's showers after a perturbation."""
    return f"{_FAULT}{perturbation}"


def is_sample(name: str) -> bool:
    """Whether rows of that name are a sample's (or the floor's), not a fault's or a sample's own floor."""
    return not name.startswith((_FLOOR_OF, _FAULT))


def finite(value: float) -> float | None:
    """The number, or None where it is not one: records hold no NaN."""
    return float(value) if math.isfinite(value) else None


def same_conditions(reference: NDArray[np.floating], sample: NDArray[np.floating]) -> bool:
    """Whether row i of both sides has the same incident energy (to float32)."""
    return len(reference) == len(sample) and bool(np.allclose(reference, sample, rtol=1e-6, atol=0))


def selections(reference: Table, sample: Table, bins: int) -> Iterator[tuple[str, Table, Table]]:
    """All energies, then each energy bin that holds showers of both sides: name, reference, sample."""
    yield "all", reference, sample
    edges = energy_edges(reference["incident_energy"], bins)
    theirs = {low: rows for low, _, rows in energy_bins(sample["incident_energy"], edges)}
    for low, high, rows in energy_bins(reference["incident_energy"], edges):
        if low in theirs:
            yield selection_name(low, high), rows_of(reference, rows), rows_of(sample, theirs[low])


def prepared(
    metric: str, reference: NDArray[np.float64], sample: NDArray[np.float64], bins: int
) -> tuple[Metric, NDArray[np.generic], NDArray[np.generic], int | None]:
    """The metric, both sides as it wants them, and its number of bins; quantile bins come from the reference."""
    if metric != "separation_power":
        return METRICS[metric], reference.astype(np.float64), sample.astype(np.float64), None
    if reference.ndim == 1:
        edges = quantile_edges(reference, bins)
        codes = bin_codes(reference, edges), bin_codes(sample, edges)
        return separation_of_codes(len(edges) + 1), *codes, len(edges) + 1
    group = quantile_groups(reference.sum(axis=0), bins)
    grouped = [
        np.stack([side[:, group == g].sum(axis=1) for g in np.unique(group)], axis=1) for side in (reference, sample)
    ]
    return METRICS[metric], grouped[0], grouped[1], grouped[0].shape[1]


def compare(reference: Table, sample: Table, spec: EvaluationSpec, seed: int) -> list[Row]:
    """The rows of `COMPARISONS` whose metric is in `spec.metrics`, each with its bootstrap error."""
    rows = []
    for selection, ours, theirs in selections(reference, sample, spec.energy_bins):
        paired = same_conditions(ours["incident_energy"], theirs["incident_energy"])
        for comparison in COMPARISONS:
            if selection == "all" or comparison.per_energy:
                column = comparison.column or comparison.observable
                make = partial(_row, selection, comparison.observable, spec=spec, seed=seed, paired=paired)
                chosen = (metric for metric in comparison.metrics if metric in spec.metrics)
                rows += [make(metric, ours[column], theirs[column]) for metric in chosen]
    return rows


def _row(
    selection: str,
    observable: str,
    metric: str,
    reference: NDArray[np.float64],
    sample: NDArray[np.float64],
    spec: EvaluationSpec,
    seed: int,
    paired: bool,
) -> Row:
    function, ours, theirs, bins = prepared(metric, reference, sample, spec.bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = bootstrap_error(
            function, ours, theirs, spec.bootstrap, generator_for(seed, selection, observable, metric), paired
        )
        value = function(ours, theirs)
    return {
        "selection": selection,
        "observable": observable,
        "metric": metric,
        "value": finite(value),
        "error": finite(error),
        "n": len(sample),
        "bins": bins,
        "seed": seed,
    }
