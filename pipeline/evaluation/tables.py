"""The small tables that figures are drawn from: profiles, histograms, responses, as plain lists.

In: the `Table`s of reference and sample; out: JSON-able dictionaries, energies in MeV,
lengths in mm, each with the statistical errors. Bins come from the reference, so all samples share them.
It compares nothing: that is `comparisons`; single and average showers are those of `displays`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.config import EvaluationSpec
from pipeline.evaluation.comparisons import selection_name
from pipeline.evaluation.observables import CELL_LOG10_EDGES, Table, layer_correlation, profile
from pipeline.evaluation.response import (
    angle_edges,
    energy_bins,
    energy_edges,
    fit_resolution,
    growth_per_doubling,
    means,
    response,
    spread_with_error,
)

Record = dict[str, Any]

PROFILES = {"longitudinal": "layer_energy", "radial": "ring_energy", "azimuthal": "sector_energy"}
HISTOGRAMS = {
    "hits": "cells above threshold",
    "first_moment_z": "first moment along z [mm]",
    "first_moment_r": "first moment along r [mm]",
    "second_moment_z": "second moment along z [mm$^2$]",
    "second_moment_r": "second moment along r [mm$^2$]",
    "containment_radius": "$R_{90}$ [mm]",
    "azimuthal_asymmetry": "azimuthal asymmetry $A_\\phi$",
    "clusters": "clusters of cells",
    "depth_of_maximum": "depth of the maximum [mm]",
}
MOST_HISTOGRAM_BINS = 40
FINE_ENERGY_BINS = 8
SHOWERS_PER_FINE_BIN = 60
_DIGITS = 8


def plain(values: NDArray[np.generic], digits: int = _DIGITS) -> list[Any]:
    """A list of numbers, rounded to some significant digits to keep records small."""
    array = np.asarray(values, dtype=np.float64)
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(array), out=np.zeros_like(array), where=array != 0)))
    rounded: list[Any] = (np.round(array * scale) / scale).tolist()
    return rounded


def profile_tables(reference: Table, sample: Table, mesh: CylinderMesh) -> Record:
    """Mean energy per slice with its standard error, for the three directions."""
    positions = {
        "longitudinal": (mesh.z_mm, "depth $z$ [mm]", mesh.dz_mm),
        "radial": (mesh.r_mm, "radius $r$ [mm]", mesh.dr_mm),
        "azimuthal": (mesh.phi_rad, "azimuth $\\phi$ [rad]", 2 * np.pi / mesh.n_phi),
    }
    tables: Record = {}
    for name, column in PROFILES.items():
        position, label, size = positions[name]
        tables[name] = {"position": plain(position), "label": label, "size": float(size)}
        for side, table in (("reference", reference), ("sample", sample)):
            mean, error = profile(table[column])
            tables[name][side] = {"mean": plain(mean), "error": plain(error)}
    return tables


def histogram_edges(reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 n^(1/3) equal bins (Rice's rule) over the central 99.6 % of the reference and a tenth of it on both sides."""
    bins = int(np.clip(2 * np.cbrt(len(reference)), 5, MOST_HISTOGRAM_BINS))
    low, high = np.quantile(reference, [0.002, 0.998])
    margin = 0.1 * (high - low) or 0.5 * (abs(high) or 1.0)
    start = max(low - margin, 0.0) if reference.min() >= 0 else low - margin
    return np.linspace(start, high + margin, bins + 1)


def histogram(reference: NDArray[np.float64], sample: NDArray[np.float64], label: str) -> Record:
    """Counts of both sides in common bins, and how many showers there were (those outside the bins included)."""
    edges = histogram_edges(reference)
    return {
        "label": label,
        "edges": plain(edges),
        "reference": {"counts": np.histogram(reference, edges)[0].tolist(), "total": len(reference)},
        "sample": {"counts": np.histogram(sample, edges)[0].tolist(), "total": len(sample)},
    }


def spectrum_table(reference: Table, sample: Table, threshold_mev: float) -> Record:
    """Hits per shower in bins of log10 E (four fine bins each), with the error from shower to shower.

    The range follows from the reference alone, so that all samples share it: its hits and half a decade above.
    """
    keep = slice(0, 4 * ((len(CELL_LOG10_EDGES) - 1) // 4))
    grouped = [t["cell_energy"][:, keep].reshape(len(t["cell_energy"]), -1, 4).sum(axis=2) for t in (reference, sample)]
    filled = np.flatnonzero(grouped[0].sum(axis=0))
    first, last = (int(filled[0]), min(int(filled[-1]) + 6, grouped[0].shape[1])) if len(filled) else (0, 1)
    table: Record = {"edges": plain(10 ** CELL_LOG10_EDGES[::4][first : last + 1]), "threshold_mev": threshold_mev}
    for side, counts in zip(("reference", "sample"), grouped, strict=True):
        mean, error = profile(counts[:, first:last])
        table[side] = {"mean": plain(mean), "error": plain(error)}
    return table


def response_tables(reference: Table, sample: Table, spec: EvaluationSpec) -> Record:
    """Response histograms per energy bin; response, resolution, R90, depth of maximum in finer bins; all by angle."""
    incident = reference["incident_energy"]
    edges = energy_edges(incident, spec.energy_bins)
    theirs = {low: rows for low, _, rows in energy_bins(sample["incident_energy"], edges)}
    histograms = []
    for low, high, rows in energy_bins(incident, edges):
        other = sample["energy_response"][theirs.get(low, np.zeros(0, dtype=np.intp))]
        histograms.append(
            {"selection": selection_name(low, high), "low_mev": low, "high_mev": high}
            | histogram(reference["energy_response"][rows], other, "$E_{vis} / E_{inc}$")
        )
    fine = energy_edges(incident, max(spec.energy_bins, min(FINE_ENERGY_BINS, len(incident) // SHOWERS_PER_FINE_BIN)))
    angles = angle_edges(reference["theta"], spec.angle_bins)
    return {
        "histograms": histograms,
        **{
            side: response_curve(table, fine) | {"angle": angle_curve(table, angles)}
            for side, table in (("reference", reference), ("sample", sample))
        },
    }


def response_curve(table: Table, edges: NDArray[np.float64]) -> Record:
    """Response and resolution per energy bin with the resolution's fit, mean R90 and depth of maximum, its growth."""
    incident = table["incident_energy"]
    bins = response(incident, table["visible_energy"], edges)
    fit = fit_resolution(bins)
    growth = growth_per_doubling(incident, table["depth_of_maximum"])
    return {
        "bins": [asdict(b) | {"resolution": b.resolution, "resolution_error": b.resolution_error} for b in bins],
        "fit": asdict(fit) if fit else None,
        "containment_radius": [asdict(b) for b in means(incident, table["containment_radius"], edges)],
        "depth_of_maximum": [asdict(b) for b in means(incident, table["depth_of_maximum"], edges)],
        "growth_per_doubling_mm": {"value": growth[0], "error": growth[1]} if growth else None,
    }


def angle_curve(table: Table, edges: NDArray[np.float64]) -> Record | None:
    """Response, resolution and R90 per bin of the polar angle (rad); None when there is one angle only.

    The resolution is that of E_vis / E_inc over all energies of the bin: for sides with one spectrum.
    """
    if len(edges) < 3:
        return None
    theta, x = table["theta"], table["energy_response"]
    spreads = [(spread_with_error(x[rows]), float(x[rows].mean())) for _, _, rows in energy_bins(theta, edges)]
    relative = [[part / mean if mean else 0.0 for part in spread] for spread, mean in spreads]
    centres = means(theta, x, edges)
    return {
        "response": [asdict(b) for b in centres],
        "resolution": [
            asdict(replace(b, mean=value, mean_error=error))
            for b, (value, error) in zip(centres, relative, strict=True)
        ],
        "containment_radius": [asdict(b) for b in means(theta, table["containment_radius"], edges)],
    }


def figure_tables(reference: Table, sample: Table, mesh: CylinderMesh, spec: EvaluationSpec) -> Record:
    """Everything the validation figures draw, but showers."""
    return {
        "mesh": {"cells": list(mesh.shape), "dr_mm": mesh.dr_mm, "dz_mm": mesh.dz_mm},
        "threshold_mev": spec.threshold_mev,
        "n": {"reference": len(reference["hits"]), "sample": len(sample["hits"])},
        "profiles": profile_tables(reference, sample, mesh),
        "response": response_tables(reference, sample, spec),
        "cell_spectrum": spectrum_table(reference, sample, spec.threshold_mev),
        "histograms": {name: histogram(reference[name], sample[name], label) for name, label in HISTOGRAMS.items()},
        "layer_correlation": {
            "reference": plain(layer_correlation(reference["layer_energy"])),
            "sample": plain(layer_correlation(sample["layer_energy"])),
        },
    }
