"""Parts that many figures share: a panel with a ratio panel below, drawn from binned values with errors.

In: `Curve`s (edges, values, errors) of the reference, the floor and the samples; out: drawn axes. The ratio panel
shows each sample over Geant4, Geant4's own error as a hatched band around 1, the floor's departure as a grey band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pipeline.figures.style import FLOOR, REFERENCE_LOOK, Look, looks, shown

Array = NDArray[np.float64]

MOST_INSIDE = 4  # samples whose names have room within the axes
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}

_HALF_RANGES = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Curve:
    """Values with errors in bins; edges (bins + 1,), values and errors (bins,)."""

    edges: Array
    values: Array
    errors: Array

    @property
    def centres(self) -> Array:
        """Middle of each bin."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


Curves = Mapping[str, Curve]


def histogram_curve(edges: Sequence[float], side: Mapping[str, Any]) -> Curve:
    """Counts as a density (unit area over all showers), with Poisson errors."""
    bins, counts = np.asarray(edges), np.asarray(side["counts"], dtype=np.float64)
    norm = max(side["total"], 1) * np.diff(bins)
    return Curve(bins, counts / norm, np.sqrt(counts) / norm)


def ratio_axes(figure: Figure, place: SubplotSpec | None = None) -> tuple[Axes, Axes]:
    """A panel and a ratio panel below it that share x."""
    if place is None:
        grid: Any = GridSpec(2, 1, figure=figure, height_ratios=[3, 1], hspace=0.09)
    else:
        grid = GridSpecFromSubplotSpec(2, 1, place, height_ratios=[3, 1], hspace=0.09)
    top = figure.add_subplot(grid[0])
    bottom = figure.add_subplot(grid[1], sharex=top)
    top.tick_params(which="both", labelbottom=False)
    bottom.set_ylabel("ratio to\nGeant4", fontsize=9)
    return top, bottom


def draw_curves(ax: Axes, reference: Curve, samples: Curves, styles: Mapping[str, Look]) -> None:
    """Geant4 as black points with errors over a pale area; samples as steps with an error band."""
    ax.stairs(reference.values, reference.edges, fill=True, color="#eceef2", zorder=0)
    for name, curve in samples.items():
        if name != "floor":
            look = styles[name]
            ax.stairs(curve.values, curve.edges, label=shown(name), **look.line_style(), zorder=3)
            _band(
                ax,
                curve.edges,
                curve.values - curve.errors,
                curve.values + curve.errors,
                color=look.colour,
                alpha=0.18,
                linewidth=0,
                zorder=2,
            )
    ax.errorbar(
        reference.centres, reference.values, reference.errors, **REFERENCE_LOOK.point_style(), label="Geant4", zorder=4
    )


def draw_ratio(ax: Axes, reference: Curve, samples: Curves, styles: Mapping[str, Look]) -> None:
    """Samples over the reference; bins that the reference leaves empty are not shown."""
    ok = reference.values > 0
    relative = _over(reference.errors, reference.values, ok)
    _band(
        ax,
        reference.edges,
        1 - relative,
        1 + relative,
        facecolor="none",
        edgecolor="#8a8f99",
        hatch="//////",
        linewidth=0,
        zorder=1,
    )
    away = [3 * np.nanmedian(relative)] if ok.any() else [0.1]
    offsets = _spread(len([n for n in samples if n != "floor"]))
    points: list[tuple[Array, Array, str]] = []
    for name, curve in samples.items():
        ratio, error = (_over(v, reference.values, ok) for v in (curve.values, curve.errors))
        if name == "floor":
            _band(
                ax,
                curve.edges,
                1 - np.abs(ratio - 1),
                1 + np.abs(ratio - 1),
                color=FLOOR,
                alpha=0.55,
                linewidth=0,
                zorder=0,
            )
        else:
            position = curve.centres + next(offsets) * np.diff(curve.edges)
            ax.errorbar(position, ratio, error, **styles[name].point_style(), zorder=3)
            points.append((position, ratio, styles[name].colour))
        sure = ok & (relative < 0.08)
        away += np.abs(ratio[sure] - 1).tolist()
    finish_ratio(ax, max(away), points)


def finish_ratio(ax: Axes, away: float, points: Sequence[tuple[Array, Array, str]] = ()) -> None:
    """The line at 1 and a symmetric range that holds the well-measured bins; arrows for points beyond.

    points: x, y and colour of each sample.
    """
    half = next((h for h in _HALF_RANGES if away < 0.9 * h), _HALF_RANGES[-1])
    ax.axhline(1, color="black", linewidth=0.8, zorder=2)
    ax.set_ylim(1 - 1.08 * half, 1 + 1.08 * half)
    ax.set_yticks([1 - half, 1, 1 + half] if half < 1 else [0, 1, 2])
    edges = ((1 - 1.08 * half, "v", -1), (1 + 1.08 * half, "^", 1))
    for x, y, colour in points:
        for edge, marker, side in edges:
            beyond = side * (y - edge) > 0
            style: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "linestyle": "none",
                "markersize": 5,
                "markeredgewidth": 0,
            }
            ax.plot(x[beyond], np.full(int(beyond.sum()), edge - side * 0.09 * half), **style, zorder=5)


def legend(ax: Axes | Figure, samples: Sequence[str], **options: Any) -> None:
    """Geant4, the samples, and what the bands of the ratio panel are; of many samples below the figure."""
    styles = looks(samples)
    handles: list[Any] = [
        Line2D(
            [],
            [],
            color=REFERENCE_LOOK.colour,
            marker=REFERENCE_LOOK.marker,
            linestyle="none",
            markersize=4,
            label="Geant4",
        )
    ]
    handles += [
        Line2D([], [], label=shown(name), marker=styles[name].marker, markersize=4, **styles[name].line_style())
        for name in samples
        if name != "floor"
    ]
    handles.append(
        Patch(facecolor="none", edgecolor="#8a8f99", hatch="//////", linewidth=0, label="Geant4 stat. error")
    )
    if "floor" in samples:
        handles.append(Patch(facecolor=FLOOR, alpha=0.55, linewidth=0, label="Geant4 floor"))
    if isinstance(ax, Axes) and are_many(samples):
        ax.figure.legend(handles=handles, **BELOW, ncols=3)
    else:
        ax.legend(handles=handles, **({"loc": "best"} | options))


def are_many(samples: Sequence[str]) -> bool:
    """Whether their names have no room within the axes."""
    return len([name for name in samples if name != "floor"]) > MOST_INSIDE


def legend_of_labels(ax: Axes, samples: Sequence[str], columns: int, **options: Any) -> None:
    """What is labelled on the axes, with head room for it; of many samples below the figure, in so many columns."""
    if are_many(samples):
        ax.figure.legend(*ax.get_legend_handles_labels(), **options | BELOW, ncols=columns)
        return
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + (0.25 + 0.08 * len(ax.get_legend_handles_labels()[1])) * (high - low))
    ax.legend(**options)


def _band(ax: Axes, edges: Array, low: Array, high: Array, **style: Any) -> None:
    ax.fill_between(edges, np.append(low, low[-1:]), np.append(high, high[-1:]), step="post", **style)


def _over(values: Array, reference: Array, ok: NDArray[np.bool_]) -> Array:
    return np.divide(values, reference, out=np.full_like(reference, np.nan), where=ok)


def _spread(count: int) -> Any:
    """Small offsets, in bin widths, that keep error bars of several samples apart."""
    return iter((np.arange(count) - (count - 1) / 2) * (0.4 / max(count, 1)))
