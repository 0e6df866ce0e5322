"""How runs learned and what heads predict: training curves, predicted against true energy.

In: the mapping of tables made by the evaluation; out: a figure and the numbers it shows. Training rows hold
`samples` (showers seen), `split` and `loss`; energies are MeV.
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

_GEV = 1e3
_BASELINE = Look("#6b7280", "--", "s")
_OTHERS = (Look("#9aa1ad", ":", "v"), Look("#009e73", "-.", "^"))
_PANELS_A_ROW = 3


def training_curves(tables: Tables) -> Drawn:
    """Loss of the training and validation split against the showers seen, one panel per run."""
    runs = {name: [r for r in rows if _drawable(r)] for name, rows in tables["training"].items()}
    runs = {name: rows for name, rows in runs.items() if rows}
    if not runs:
        return placeholder("nothing to show: no run has training metrics"), {}
    columns = min(_PANELS_A_ROW, len(runs))
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines))
    axes = figure.subplots(lines, columns, squeeze=False, gridspec_kw={"hspace": 0.4, "wspace": 0.28}).ravel()
    for ax, (name, rows) in zip(axes, runs.items(), strict=False):
        _training_panel(ax, rows)
        heading(ax, shown(name))
    for ax in axes[len(runs) :]:
        ax.set_axis_off()
    axes[0].legend(loc="upper right")
    return figure, runs


def _drawable(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(key), int | float) for key in ("samples", "loss"))


def _training_panel(ax: Axes, rows: list[dict[str, Any]]) -> None:
    styles = {
        "train": {"color": "#0072b2", "linewidth": 1.0, "alpha": 0.75},
        "validation": {"color": "#d55e00", "marker": "s", "markersize": 3.5, "linestyle": "--", "linewidth": 1.4},
    }
    for split, style in styles.items():
        chosen = sorted((r["samples"] / 1e3, r["loss"]) for r in rows if r.get("split") == split)
        if chosen:
            ax.plot(*zip(*chosen, strict=True), label=split, **style)  # type: ignore[arg-type]
    losses = np.array([r["loss"] for r in rows])
    low, high = losses.min(), np.quantile(losses, 0.98)
    ax.set_ylim(low - 0.06 * (high - low or 1), high + 0.15 * (high - low or 1))
    ax.set_xlim(left=0)
    ax.set_xlabel("showers seen [$10^3$]")
    ax.set_ylabel("loss")


def energy_prediction(tables: Tables) -> Drawn:
    """Predicted over true energy, its spread beside the claimed uncertainty and the calibrated cell sum's spread."""
    data = dict(tables["predictions"])
    if not data:
        return placeholder("nothing to show: no run predicts the incident energy"), {}
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
