"""Generated showers beside Geant4's: profiles, spectra, hits, moments, asymmetry.

In: the mapping of tables made by the evaluation (MeV, mm; see `draw`); out: a matplotlib figure and the numbers it
shows. Each figure holds all samples of the experiment, Geant4's statistical error and the floor. Nothing is computed
here but normalisations and ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from pipeline.figures.panels import (
    BELOW,
    Curve,
    Curves,
    are_many,
    draw_curves,
    draw_ratio,
    histogram_curve,
    legend,
    ratio_axes,
)
from pipeline.figures.style import heading, label_with_power, looks, placeholder

Tables = Mapping[str, Any]
Drawn = tuple[Figure, dict[str, Any]]

NOTHING = "nothing to show: the experiment has no samples"
_GEV = 1e3


def of_data(tables: Tables) -> str:
    """Which showers are shown: data set and number a side."""
    first = next(iter(tables["evaluations"].values()))
    return f"{tables['reference']}, {first['n']['reference']} showers a side"


def pick(tables: Tables, *keys: str) -> dict[str, Any]:
    """The chosen part of every sample's table."""
    picked = {}
    for name, table in tables["evaluations"].items():
        for key in keys:
            table = table[key]
        picked[name] = table
    return picked


# ------------------------------------------------------------------------------- profiles and histograms


def _profile(tables: Tables, direction: str, title: str, log: bool) -> Drawn:
    data = pick(tables, "profiles", direction)
    if not data:
        return placeholder(NOTHING), {}
    first = next(iter(data.values()))
    figure = Figure(figsize=(5.2, 4.9))
    top, bottom = ratio_axes(figure)
    reference, samples = profile_curve(first, "reference"), {n: profile_curve(t, "sample") for n, t in data.items()}
    _compared(top, bottom, reference, samples, tables)
    unit = {"longitudinal": "layer", "radial": "ring", "azimuthal": "sector"}[direction]
    top.set_ylabel(f"mean energy per {unit} [MeV]")
    bottom.set_xlabel(first["label"])
    _vertical_range(top, [reference], log, _head_room(tables["samples"]))
    legend(top, tables["samples"], **({"loc": "lower center", "ncols": 2} if direction == "azimuthal" else {}))
    heading(top, title, of_data(tables))
    return figure, data


def profile_curve(table: Mapping[str, Any], side: str) -> Curve:
    """A profile in the bins of its slices."""
    position = np.asarray(table["position"])
    edges = np.append(position - table["size"] / 2, position[-1] + table["size"] / 2)
    return Curve(edges, np.asarray(table[side]["mean"]), np.asarray(table[side]["error"]))


def _compared(top: Axes, bottom: Axes, reference: Curve, samples: Curves, tables: Tables) -> None:
    styles = looks(tables["samples"])
    draw_curves(top, reference, samples, styles)
    draw_ratio(bottom, reference, samples, styles)
    top.set_xlim(reference.edges[0], reference.edges[-1])


def _head_room(samples: Sequence[str]) -> float:
    """Above the largest value, for a legend within the axes."""
    return 1.15 if are_many(samples) else 1.45


def _vertical_range(ax: Axes, curves: Iterable[Curve], log: bool, head: float = 1.45) -> None:
    """From 0 (or well below the smallest value) to a head room above the largest, for the legend."""
    values = np.concatenate([curve.values for curve in curves])
    positive = values[values > 0]
    if log and len(positive):
        ax.set_yscale("log")
        ax.set_ylim(0.4 * positive.min(), 6 * positive.max())
    else:
        ax.set_ylim(0, head * values.max() or 1)


def longitudinal_profile(tables: Tables) -> Drawn:
    """Mean energy per z layer."""
    return _profile(tables, "longitudinal", "Longitudinal profile", log=False)


def radial_profile(tables: Tables) -> Drawn:
    """Mean energy per r ring."""
    return _profile(tables, "radial", "Radial profile", log=True)


def azimuthal_profile(tables: Tables) -> Drawn:
    """Mean energy per phi sector; flat at 90 degrees."""
    return _profile(tables, "azimuthal", "Azimuthal profile", log=False)


def cell_spectrum(tables: Tables) -> Drawn:
    """Cells above threshold per shower, in bins of their energy."""
    data = pick(tables, "cell_spectrum")
    if not data:
        return placeholder(NOTHING), {}
    figure = Figure(figsize=(5.2, 4.9))
    top, bottom = ratio_axes(figure)
    curves = {name: _spectrum_curve(table, "sample") for name, table in data.items()}
    first = next(iter(data.values()))
    reference = _spectrum_curve(first, "reference")
    top.set_xscale("log")
    _compared(top, bottom, reference, curves, tables)
    top.axvline(first["threshold_mev"], color="black", linewidth=0.8, linestyle=":")
    _vertical_range(top, [reference], log=True)
    top.set_ylabel("cells per shower and bin")
    bottom.set_xlabel("cell energy [MeV]")
    legend(top, tables["samples"], loc="lower left")
    heading(top, "Cell energies", of_data(tables))
    return figure, data


def _spectrum_curve(table: Mapping[str, Any], side: str) -> Curve:
    return Curve(np.asarray(table["edges"]), np.asarray(table[side]["mean"]), np.asarray(table[side]["error"]))


def _histograms(tables: Tables, names: tuple[str, ...], title: str, columns: int = 1) -> Drawn:
    data = {name: pick(tables, "histograms", name) for name in names}
    if not tables["samples"]:
        return placeholder(NOTHING), {}
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.9 * rows))
    grid = GridSpec(rows, columns, figure=figure, hspace=0.24, wspace=0.25)
    for i, name in enumerate(names):
        top, bottom = ratio_axes(figure, grid[i // columns, i % columns])
        histogram_panel(top, bottom, data[name], tables, alone=len(names) == 1)
        if len(names) == 1:
            legend(top, tables["samples"], loc="upper right")
        heading(top, title if i == 0 else "", of_data(tables) if i == columns - 1 else "")
    if len(names) > 1:
        legend(figure, tables["samples"], **BELOW | {"bbox_to_anchor": (0.5, 0.055)}, ncols=5)
    return figure, data


def histogram_panel(top: Axes, bottom: Axes, data: Mapping[str, Any], tables: Tables, alone: bool = False) -> None:
    """One histogram of all samples with its ratio panel; `alone` leaves room for a legend."""
    first = next(iter(data.values()))
    reference = histogram_curve(first["edges"], first["reference"])
    curves = {n: histogram_curve(t["edges"], t["sample"]) for n, t in data.items()}
    _compared(top, bottom, reference, curves, tables)
    _vertical_range(
        top,
        [reference, *(c for n, c in curves.items() if n != "floor")],
        log=False,
        head=_head_room(tables["samples"]) if alone else 1.3,
    )
    label_with_power(top, "density")
    bottom.set_xlabel(first["label"])


def hits(tables: Tables) -> Drawn:
    """Cells above threshold per shower."""
    return _histograms(tables, ("hits",), "Hits")


def moments(tables: Tables) -> Drawn:
    """First and second moments along z and r, cell centres as positions."""
    names = ("first_moment_z", "first_moment_r", "second_moment_z", "second_moment_r")
    return _histograms(tables, names, "Shower moments", columns=2)


def azimuthal_asymmetry(tables: Tables) -> Drawn:
    """|sum E exp(i phi)| / E_tot per shower: what no profile sees."""
    return _histograms(tables, ("azimuthal_asymmetry",), "Azimuthal asymmetry")


def clusters(tables: Tables) -> Drawn:
    """Connected clusters of cells per shower."""
    return _histograms(tables, ("clusters",), "Clusters of cells")
