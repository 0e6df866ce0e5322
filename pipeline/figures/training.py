"""How runs learned: training curves.

In: the mapping of tables made by the evaluation; out: a figure and the numbers it shows. Training rows hold
`samples` (showers seen), `split` and `loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.style import heading, label_with_power, placeholder, shown

Tables = Mapping[str, Any]
Drawn = tuple[Figure, dict[str, Any]]

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
    label_with_power(ax, "loss")
