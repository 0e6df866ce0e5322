"""The average shower of each sample, in radius and depth and in azimuth and depth, and its ratio to Geant4's.

In: the mapping of tables made by the evaluation (mean MeV of a projected cell, with its standard error; mm); out: a
matplotlib figure and the numbers it shows. Nothing is computed but ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

from pipeline.figures.showers import COLOURS, angle_ticks, energy_norm
from pipeline.figures.style import MUTED, placeholder, shown
from pipeline.figures.validation import NOTHING, Drawn, Tables, of_data, pick

Extent = tuple[float, float, float, float]

RATIOS = "RdBu_r"
_KNOWN = 0.25  # largest relative error of a mean whose ratio is shown
_SURE = 3.0  # standard errors beyond which a cell is marked


def average_showers(tables: Tables) -> Drawn:
    """Mean energy per cell of two projections, Geant4 and every sample, and the ratios to Geant4."""
    data = pick(tables, "average")
    if not data:
        return placeholder(NOTHING), {}
    first = next(iter(data.values()))
    columns = {"Geant4": (first["reference"], data["floor"]["sample"] if "floor" in data else None)}
    columns |= {shown(name): (table["sample"], table["sample"]) for name, table in data.items() if name != "floor"}
    figure = Figure(figsize=(2.35 * len(columns) + 1.4, 8.2))
    blocks = GridSpec(2, 1, figure=figure, hspace=0.3)
    views = (("r_z", 0.0, first["r_mm"], "$r$ [mm]"), ("phi_z", -np.pi, np.pi, "$\\phi$ [rad]"))
    for i, (view, low, high, label) in enumerate(views):
        grid = blocks[i].subgridspec(
            2, len(columns) + 1, hspace=0.24, wspace=0.08, width_ratios=[*[1] * len(columns), 0.05]
        )
        _averages(figure, grid, columns, view, (0.0, first["z_mm"], low, high), label)
    figure.axes[0].text(0, 1.3, of_data(tables), transform=figure.axes[0].transAxes, fontsize=8.5, color=MUTED)
    return figure, data


def _averages(
    figure: Figure,
    grid: Any,
    columns: Mapping[str, tuple[Any, Any]],
    view: str,
    extent: Extent,
    label: str,
) -> None:
    """One projection: means above, ratios to Geant4 below."""
    reference = next(iter(columns.values()))[0][view]
    norm = energy_norm([mean[view]["mean"] for mean, _ in columns.values()])
    options: dict[str, Any] = {"extent": extent, "origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    for j, (name, (mean, other)) in enumerate(columns.items()):
        top, bottom = figure.add_subplot(grid[0, j]), figure.add_subplot(grid[1, j])
        drawn = top.imshow(np.ma.masked_less_equal(mean[view]["mean"], 0), norm=norm, cmap=COLOURS, **options)
        top.set_title(name, fontsize=9.5)
        if other is not None:
            ratio = _ratio_map(bottom, reference, other[view], extent, options)
            bottom.set_title("floor / Geant4" if j == 0 else f"{name} / Geant4", fontsize=8, color=MUTED, pad=3)
        else:
            bottom.set_axis_off()
        for ax in (top, bottom):
            ax.minorticks_off()
            ax.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
            ax.tick_params(labelleft=j == 0, labelbottom=ax is bottom)
        if j == 0:
            top.set_ylabel(label)
            bottom.set_ylabel(label)
            if view == "phi_z":
                angle_ticks(top)
                angle_ticks(bottom)
        bottom.set_xlabel("depth $z$ [mm]")
    figure.colorbar(drawn, cax=figure.add_subplot(grid[0, -1])).set_label("mean energy [MeV]")
    figure.colorbar(ratio, cax=figure.add_subplot(grid[1, -1])).set_label("ratio to Geant4")


def _ratio_map(
    ax: Axes,
    reference: Mapping[str, Any],
    sample: Mapping[str, Any],
    extent: Extent,
    options: Mapping[str, Any],
) -> Any:
    """Ratio of two means; triangles where they differ by more than 3 standard errors."""
    (ours, ours_error), (theirs, theirs_error) = (
        (np.asarray(side["mean"]), np.asarray(side["error"])) for side in (reference, sample)
    )
    known = (ours > 0) & (theirs > 0) & (ours_error < _KNOWN * ours) & (theirs_error < _KNOWN * theirs)
    ratio = np.ma.masked_array(np.divide(theirs, ours, out=np.ones_like(ours), where=ours > 0), ~known)
    ax.set_facecolor("#eceef2")
    drawn = ax.imshow(ratio, norm=Normalize(0.5, 1.5), cmap=RATIOS, **options)
    error = np.hypot(ours_error, theirs_error)
    rows, columns = ours.shape
    for marker, sign in (("^", 1), ("v", -1)):
        i, j = np.nonzero(known & (sign * (theirs - ours) > _SURE * error))
        z = extent[0] + (j + 0.5) * (extent[1] - extent[0]) / columns
        y = extent[2] + (i + 0.5) * (extent[3] - extent[2]) / rows
        ax.scatter(z, y, s=min(7.0, 900 / max(rows, columns) ** 1.4), marker=marker, color="black", linewidths=0)
    ax.set_xlim(extent[0], extent[1])
    ax.set_ylim(extent[2], extent[3])
    return drawn
