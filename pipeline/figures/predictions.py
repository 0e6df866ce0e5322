"""What heads predict: predicted against true energy, the claimed uncertainty, and pulls.

In: the mapping of tables made by the evaluation (MeV); out: a figure and the numbers it shows. The calibrated cell sum
stands beside every head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.style import Look, heading, looks, placeholder, plain_ticks, shown

Tables = Mapping[str, Any]
Drawn = tuple[Figure, dict[str, Any]]

NOTHING = "nothing to show: no run predicts the incident energy"
_GEV = 1e3
_BASELINE = Look("#6b7280", "--", "s")
_OTHERS = (Look("#9aa1ad", ":", "v"), Look("#009e73", "-.", "^"))
_MOST_COLUMNS = 3


def energy_prediction(tables: Tables) -> Drawn:
    """Predicted over true energy, its spread beside the claimed uncertainty and the calibrated cell sum's spread."""
    data = dict(tables["predictions"])
    if not data:
        return placeholder(NOTHING), {}
    styles = looks([name for name in data])
    figure = Figure(figsize=(10.2, 3.9 * len(data)))
    axes = figure.subplots(len(data), 2, squeeze=False, gridspec_kw={"wspace": 0.22, "hspace": 0.35})
    for (left, right), (run, table) in zip(axes, data.items(), strict=True):
        head, baseline = table["curves"][run], table["curves"][table["baseline"]]
        _ratio_panel(left, run, head, baseline, styles[run])
        others = [name for name in table["curves"] if name not in (run, table["baseline"])]
        _spread_panel(
            right,
            [(baseline, _BASELINE, shown(table["baseline"]))]
            + [(table["curves"][name], look, shown(name)) for name, look in zip(others, _OTHERS, strict=False)]
            + [(head, styles[run], shown(run))],
        )
        heading(left, "Predicted energy", "")
        heading(right, "Spread of the prediction", f"{table['reference']}, {table['n']} test showers")
    return figure, data


def _ratio_panel(ax: Axes, run: str, head: Mapping[str, Any], baseline: Mapping[str, Any], look: Look) -> None:
    true = np.asarray(head["true_mev"])
    for curve, style, name in ((baseline, _BASELINE, "calibrated cell sum"), (head, look, shown(run))):
        ax.plot(
            true / _GEV,
            np.asarray(curve["predicted_mev"]) / true,
            marker=style.marker,
            markersize=2.2,
            linestyle="none",
            color=style.colour,
            alpha=0.5,
            markeredgewidth=0,
            label=name,
            rasterized=True,
        )
    ax.axhline(1, color="black", linewidth=0.9)
    ax.set_xscale("log")
    spread = max(b["resolution"] for b in baseline["bins"])
    ax.set_ylim(1 - 4.2 * spread, 1 + 4.2 * spread)
    ax.set_ylabel("predicted / true energy")
    ax.legend(loc="upper right", markerscale=2.5)
    _energy_axis(ax)


def _spread_panel(ax: Axes, curves: Sequence[tuple[Mapping[str, Any], Look, str]]) -> None:
    """The spread of every prediction; the last is the head, with its own mean uncertainty."""
    for curve, style, name in curves:
        energy, spread, error = (
            np.array([b[k] for b in curve["bins"]]) for k in ("energy_mev", "resolution", "resolution_error")
        )
        half = np.array([[e - b["low_mev"], b["high_mev"] - e] for e, b in zip(energy, curve["bins"], strict=True)]).T
        ax.errorbar(
            energy / _GEV,
            100 * spread,
            100 * error,
            np.maximum(half, 0) / _GEV,
            **style.point_style() | {"markersize": 5.5},
            label=name,
        )
    head, look, name = curves[-1]
    sigma, low, high = (np.array([b[k] for b in head["bins"]]) for k in ("mean_sigma", "low_mev", "high_mev"))
    ax.hlines(
        100 * sigma,
        low / _GEV,
        high / _GEV,
        color=look.colour,
        linestyle=":",
        label=f"{name}: its own mean $\\sigma$",
    )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.35 * 100 * max(b["resolution"] for curve, _, _ in curves for b in curve["bins"]))
    ax.set_ylabel("$\\sigma$(predicted $-$ true) / true [%]")
    ax.legend(loc="upper right")
    _energy_axis(ax)


def _energy_axis(ax: Axes) -> None:
    ax.set_xlabel("true incident energy [GeV]")
    plain_ticks(ax)


def pulls(tables: Tables) -> Drawn:
    """(predicted - true) / sigma of each head and of the calibrated cell sum, beside the unit Gaussian."""
    data = {
        run: {name: table["curves"][name]["pulls"] for name in (table["baseline"], run)}
        for run, table in tables["predictions"].items()
    }
    if not data:
        return placeholder(NOTHING), {}
    styles = looks(list(data))
    columns = min(_MOST_COLUMNS, len(data))
    rows = -(-len(data) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows))
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.25, "hspace": 0.35}).ravel()
    for ax, (run, sides) in zip(axes, data.items(), strict=False):
        _pull_panel(ax, sides, {run: styles[run]})
        table = tables["predictions"][run]
        heading(ax, "Pulls", f"{table['reference']}, {table['n']} test showers")
    for ax in axes[len(data) :]:
        ax.set_axis_off()
    return figure, data


def _pull_panel(ax: Axes, sides: Mapping[str, Any], styles: Mapping[str, Look]) -> None:
    """Histograms per unit of pull; the outer bins hold what lies beyond."""
    for name, pull in sides.items():
        look, edges = styles.get(name, _BASELINE), np.asarray(pull["edges"])
        label = (
            f"{shown(name)}: mean ${pull['mean']:.2f} \\pm {pull['mean_error']:.2f}$, "
            f"width ${pull['width']:.2f} \\pm {pull['width_error']:.2f}$"
        )
        density = np.asarray(pull["counts"]) / (pull["n"] * np.diff(edges))
        ax.stairs(density, edges, label=label, **look.line_style())
    x = np.linspace(edges[0], edges[-1], 201)
    gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(x, gauss, color="black", linewidth=0.9, linestyle=":", label="unit Gaussian")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1.5 * ax.get_ylim()[1])
    ax.set_xlabel("(predicted $-$ true) / $\\sigma$")
    ax.set_ylabel("density")
    ax.legend(loc="upper left", fontsize=8)
