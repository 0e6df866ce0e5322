"""Shower displays: single showers from the side, unrolled and in space; and what the page draws of them.

In: the mapping of tables made by the evaluation (MeV, mm); out: a matplotlib figure and the numbers it shows. Geant4
stands above, each sample below at the same conditions, and one logarithmic colour scale serves a whole figure. What
is in space is drawn by a parallel projection of cell centres; nothing else is computed. Averages: `average`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.figures.style import GRID, MUTED, placeholder, shown
from pipeline.figures.validation import Drawn, Tables, pick

Array = NDArray[np.float64]

NOTHING = "nothing to show: no samples, or figures.images is 0"
COLOURS = "magma_r"
_GEV = 1e3
_DECADES = 3.5
_YAW, _PITCH = np.radians(-28), np.radians(18)


def shower_images(tables: Tables) -> Drawn:
    """Side views of single showers: r against z."""
    return _flat(tables, "energy_mev", "$r$ [mm]")


def shower_unrolled(tables: Tables) -> Drawn:
    """Single showers unrolled around the axis: phi against z."""
    return _flat(tables, "unrolled_mev", "$\\phi$ [rad]")


def shown_showers(tables: Tables) -> dict[str, Any]:
    """The chosen single showers of every sample; the floor only where it is alone."""
    data = {n: t for n, t in pick(tables, "images").items() if n != "floor"} or pick(tables, "images")
    if not data or tables["images"] == 0:
        return {}
    chosen = _evenly(len(next(iter(data.values()))["reference"]), tables["images"])
    sides = ("reference", "sample")
    return {n: dict(t) | {side: [t[side][i] for i in chosen] for side in sides} for n, t in data.items()}


def _lines(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    first = next(iter(data.values()))
    return {"Geant4": first["reference"]} | {shown(name): table["sample"] for name, table in data.items()}


def _flat(tables: Tables, view: str, label: str) -> Drawn:
    data = shown_showers(tables)
    if not data:
        return placeholder(NOTHING), {}
    first, rows = next(iter(data.values())), _lines(data)
    columns = len(first["reference"])
    figure = Figure(figsize=(2.35 * columns + 0.9, 1.75 * len(rows) + 0.5))
    axes = figure.subplots(
        len(rows), columns, sharex=True, sharey=True, squeeze=False, gridspec_kw={"hspace": 0.09, "wspace": 0.06}
    )
    top = first["r_mm"] if view == "energy_mev" else np.pi
    norm = energy_norm([image[view] for images in rows.values() for image in images])
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            energy = np.asarray(image[view])
            drawn = ax.imshow(
                np.ma.masked_less_equal(energy, 0),
                extent=(0, first["z_mm"], -top, top),
                origin="upper" if view == "energy_mev" else "lower",
                aspect="auto",
                norm=norm,
                cmap=COLOURS,
                interpolation="nearest",
            )
            corner(ax, f"{energy.sum():.0f} MeV")
            ax.minorticks_off()
            ax.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        line[0].set_ylabel(f"{name}\n{label}")
        if top == np.pi:
            angle_ticks(line[0])
    _titles(axes[0], first["reference"])
    for ax in axes[-1]:
        ax.set_xlabel("depth $z$ [mm]")
    bar = figure.colorbar(drawn, ax=axes, pad=0.015, fraction=0.03, aspect=14 * len(rows))
    bar.set_label("visible energy [MeV]")
    return figure, data


def energy_norm(energies: Sequence[Any]) -> LogNorm:
    """A logarithmic colour scale for all of them: from the smallest to the largest, over 3.5 decades at most."""
    values = np.concatenate([np.ravel(e) for e in energies])
    values = values[values > 0] if (values > 0).any() else np.ones(1)
    top = float(values.max())
    return LogNorm(max(float(values.min()), top * 10**-_DECADES) * 0.99, top)


def corner(ax: Axes, text: str) -> None:
    """A line of text in the upper right corner."""
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
    ax.text(0.96, 0.94, text, transform=ax.transAxes, ha="right", va="top", fontsize=7.5, bbox=box)


def angle_ticks(ax: Axes) -> None:
    """Multiples of pi on the vertical axis."""
    ax.set_yticks([-np.pi, 0, np.pi], ["$-\\pi$", "0", "$\\pi$"])


def _titles(axes: Sequence[Axes], images: Sequence[Mapping[str, Any]]) -> None:
    for ax, image in zip(axes, images, strict=True):
        ax.set_title(f"{image['incident_energy_mev'] / _GEV:.3g} GeV")


def _evenly(total: int, count: int) -> list[int]:
    """`count` of `total` places, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(count, total)).round())]


# ------------------------------------------------------------------------------- in space


def shower_space(tables: Tables) -> Drawn:
    """Single showers in space, a circle for each cell, in the outline of the calorimeter."""
    data = shown_showers(tables)
    if not data:
        return placeholder(NOTHING), {}
    first, rows = next(iter(data.values())), _lines(data)
    columns = len(first["reference"])
    figure = Figure(figsize=(2.6 * columns + 1.0, 1.75 * len(rows) + 0.4))
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"hspace": 0.06, "wspace": 0.04})
    norm = energy_norm([image["hits"]["energy_mev"] for images in rows.values() for image in images])
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            _outline(ax, first["r_mm"], first["z_mm"])
            _cells(ax, image["hits"], first, norm)
            ax.set_aspect("equal")
            ax.set_axis_off()
            text = f"{np.sum(image['energy_mev']):.0f} MeV\n{image['hits']['of']} cells"
            ax.text(0.0, 0.02, text, transform=ax.transAxes, ha="left", va="bottom", fontsize=7.5)
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=10.5)
    _titles(axes[0], first["reference"])
    _lengths(axes[-1, 0], first["r_mm"], first["z_mm"])
    bar = figure.colorbar(_scale(norm), ax=axes, pad=0.015, fraction=0.03, aspect=14 * len(rows))
    bar.set_label("visible energy of a cell [MeV]")
    return figure, data


def _scale(norm: Normalize) -> ScalarMappable:
    return ScalarMappable(norm=norm, cmap=COLOURS)


def projected(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """Right, up and towards the reader of points (mm); z is the axis, which points to the right and away."""
    near = -z * np.sin(_YAW) + x * np.cos(_YAW)
    right = z * np.cos(_YAW) + x * np.sin(_YAW)
    return right, y * np.cos(_PITCH) - near * np.sin(_PITCH), y * np.sin(_PITCH) + near * np.cos(_PITCH)


def _outline(ax: Axes, r_mm: float, z_mm: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 73)
    x, y = r_mm * np.cos(angle), r_mm * np.sin(angle)
    for z in (0.0, z_mm / 2, z_mm):
        ax.plot(*projected(x, y, np.full_like(x, z))[:2], color=GRID, linewidth=0.7, zorder=0)
    for i in range(0, 72, 12):
        ends = projected(x[[i, i]], y[[i, i]], np.array([0.0, z_mm]))
        ax.plot(*ends[:2], color=GRID, linewidth=0.5, zorder=0)
    right, up, _ = projected(np.zeros(2), np.zeros(2), np.array([-0.28, -0.02]) * z_mm)
    ax.annotate(
        "", (right[1], up[1]), (right[0], up[0]), arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.9}
    )


def _lengths(ax: Axes, r_mm: float, z_mm: float) -> None:
    text = f"$z$: {z_mm:.0f} mm, $r$: {r_mm:.0f} mm"
    ax.text(0.5, -0.02, text, transform=ax.transAxes, ha="center", va="top", fontsize=8, color=MUTED)


def _cells(ax: Axes, hits: Mapping[str, Any], table: Mapping[str, Any], norm: LogNorm) -> None:
    """Circles at the centres of cells, the nearest last; their areas grow with the logarithm of the energy."""
    n_r, n_phi, n_z = table["cells"]
    i, j, k = np.unravel_index(np.asarray(hits["cell"], dtype=np.int64), (n_r, n_phi, n_z))
    r, angle = (i + 0.5) * table["r_mm"] / n_r, (j + 0.5) * 2 * np.pi / n_phi - np.pi
    right, up, near = projected(r * np.cos(angle), r * np.sin(angle), (k + 0.5) * table["z_mm"] / n_z)
    energy = np.asarray(hits["energy_mev"], dtype=np.float64)
    order = np.argsort(near, kind="stable")
    ax.scatter(
        right[order],
        up[order],
        s=2.5 + 26 * np.clip(norm(energy[order]), 0, 1) ** 1.5,
        c=energy[order],
        norm=norm,
        cmap=COLOURS,
        edgecolors="white",
        linewidths=0.2,
        zorder=2,
        rasterized=len(energy) > 500,
    )


def in_space(tables: Tables) -> dict[str, Any]:
    """What the page's display draws: the mesh, the colours and the cells of each shower; empty without showers."""
    data = shown_showers(tables)
    if not data:
        return {}
    first = next(iter(data.values()))
    samples: list[dict[str, Any]] = [
        {"name": name, "showers": [_shower(image) for image in images]} for name, images in _lines(data).items()
    ]
    energies = [e for sample in samples for shower in sample["showers"] for e in shower["mev"]] or [1.0]
    colours = np.asarray(colormaps[COLOURS](np.linspace(0, 1, 33)))[:, :3]
    return {
        **{key: first[key] for key in ("r_mm", "z_mm", "cells")},
        "range_mev": [min(energies), max(max(energies), 2 * min(energies))],
        "colours": np.round(255 * colours).astype(int).tolist(),
        "samples": samples,
    }


def _shower(image: Mapping[str, Any]) -> dict[str, Any]:
    hits = image["hits"]
    return {
        "gev": image["incident_energy_mev"] / _GEV,
        "total": float(np.sum(image["energy_mev"])),
        "of": hits["of"],
        "cell": hits["cell"],
        "mev": hits["energy_mev"],
    }
