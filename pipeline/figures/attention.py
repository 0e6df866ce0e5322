"""What attention looks at in one shower, by block and head; and what continued runs forgot of older data.

In: the mapping of tables (`examinations` by run: weights summed over phi, MeV, mm, losses with errors); out: a figure
and the numbers it shows. It computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures.showers import COLOURS, corner, energy_norm
from pipeline.figures.style import Look, heading, placeholder, shown
from pipeline.figures.summary import number

Tables = Mapping[str, Any]
Drawn = tuple[Figure, dict[str, Any]]

MAPS = "viridis"
_GEV = 1e3
_PARENT, _OWN = Look("#6b7280", "--", "s"), Look("#0072b2", "-", "o")
_PANELS_A_ROW = 3


def attention(tables: Tables) -> Drawn:
    """For each run a shower, and by block and head what its patch of most energy looks at, r against z."""
    data = {run: t["attention"] for run, t in tables.get("examinations", {}).items() if "attention" in t}
    if not data:
        return placeholder("nothing to show: no run whose attention was examined"), {}
    blocks = [(run, block) for run, table in data.items() for block in range(len(table["from_asking"]))]
    heads = max(len(table["from_asking"][0]) for table in data.values())
    figure = Figure(figsize=(1.75 * (heads + 1) + 0.9, 1.45 * len(blocks) + 0.5))
    gaps = {"hspace": 0.1 if len(data) == 1 else 0.28, "wspace": 0.08}
    axes = figure.subplots(len(blocks), heads + 1, squeeze=False, sharex="row", sharey="row", gridspec_kw=gaps)
    norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(np.max(table["from_asking"])) for table in data.values()))
    for line, (run, block) in zip(axes, blocks, strict=True):
        table = data[run]
        _shower(line[0], table, block, run)
        for head, ax in enumerate(line[1:]):
            if head >= len(table["from_asking"][block]):
                ax.set_axis_off()
                continue
            drawn = _map(ax, table, block, head, norm)
        for ax in line:
            ax.tick_params(labelbottom=block == len(table["from_asking"]) - 1)
    for ax in axes[-1]:
        ax.set_xlabel("depth $z$ [mm]")
    for head, ax in enumerate(axes[0][1:]):
        ax.set_title(f"head {head + 1}")
    bar = figure.colorbar(drawn, ax=axes, pad=0.015, fraction=0.02, aspect=14 * len(blocks))
    bar.set_label("share of attention")
    return figure, data


def _shower(ax: Axes, table: Mapping[str, Any], block: int, run: str) -> None:
    energy = np.asarray(table["energy_mev"])
    ax.imshow(
        np.ma.masked_less_equal(energy, 0),
        extent=(0, table["z_mm"], 0, table["r_mm"]),
        origin="lower",
        aspect="auto",
        norm=energy_norm([energy]),
        cmap=COLOURS,
        interpolation="nearest",
    )
    corner(ax, f"{table['incident_energy_mev'] / _GEV:.3g} GeV")
    ax.set_ylabel(f"{shown(run)}\nblock {block + 1}\n$r$ [mm]" if block == 0 else f"block {block + 1}\n$r$ [mm]")
    _ticks(ax)


def _map(ax: Axes, table: Mapping[str, Any], block: int, head: int, norm: PowerNorm) -> Any:
    drawn = ax.imshow(
        np.asarray(table["from_asking"][block][head]),
        extent=(0, table["z_mm"], 0, table["r_mm"]),
        origin="lower",
        aspect="auto",
        norm=norm,
        cmap=MAPS,
        interpolation="nearest",
    )
    r, _, z = table["asking"]
    n_r, _, n_z = table["grid"]
    place = (z + 0.5) * table["z_mm"] / n_z, (r + 0.5) * table["r_mm"] / n_r
    ax.plot(*place, marker="o", markersize=6, markerfacecolor="none", markeredgecolor="#d55e00", markeredgewidth=1.3)
    corner(ax, f"{table['from_asking_tokens'][block][head]:.3g} of {table['tokens']}")
    _ticks(ax)
    return drawn


def _ticks(ax: Axes) -> None:
    ax.minorticks_off()
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="upper"))
    ax.yaxis.set_major_locator(MaxNLocator(3, prune="upper"))


def forgetting(tables: Tables) -> Drawn:
    """Loss on older data sets before and after a run went on from their model, a panel for each run."""
    data = {run: list(t["old_data"]) for run, t in tables.get("examinations", {}).items() if "old_data" in t}
    if not data:
        return placeholder("nothing to show: no run went on from another's data, or evaluation.forgetting is off"), {}
    columns = min(_PANELS_A_ROW, len(data))
    lines = -(-len(data) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * lines))
    axes = figure.subplots(lines, columns, squeeze=False, gridspec_kw={"hspace": 0.45, "wspace": 0.32}).ravel()
    for ax, (run, rows) in zip(axes, data.items(), strict=False):
        for shift, (metric, look, label) in enumerate(
            (("loss_of_parent", _PARENT, "before"), ("loss", _OWN, f"after {shown(run)}"))
        ):
            places = np.arange(len(rows)) + 0.16 * (2 * shift - 1)
            values, errors = ([row[metric][key] or 0.0 for row in rows] for key in ("value", "error"))
            ax.errorbar(places, values, errors, **look.point_style() | {"markersize": 6}, label=label)
        ax.set_xticks(range(len(rows)), [_forgotten(row) for row in rows])
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
        ax.set_xlim(-0.6, len(rows) - 0.4)
        ax.set_ylabel("loss on held-out showers")
        ax.margins(y=0.3)
        ax.legend(loc="upper right")
        heading(ax, shown(run))
    for ax in axes[len(data) :]:
        ax.set_axis_off()
    return figure, data


def _forgotten(row: Mapping[str, Any]) -> str:
    """The data set, the parent, and the paired difference of the losses."""
    difference = number(row["forgetting"]["value"], row["forgetting"]["error"])
    return f"{shown(row['dataset'])} of {shown(row['parent'])}\nforgotten: {difference}"
