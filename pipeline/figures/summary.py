"""The table one reads first: samples x groups of observables, and every observable, in sigma from the Geant4 floor.

In: the mapping of tables made by the evaluation; out: a figure and the numbers it shows. Below the samples stand the
floor's own showers with known faults: what would have been seen of them. The shade of a cell grows with the distance
in sigma, and a mark repeats it, so that it reads in grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.figures.style import GRID, MUTED, placeholder, shown

Tables = Mapping[str, Any]

LIGHTS: tuple[tuple[float, str, str, str], ...] = (
    (2.0, "#d7efe0", "●", r"within 2 $\sigma$ of the floor"),
    (5.0, "#fbe3a6", "◐", r"2 to 5 $\sigma$ above"),
    (float("inf"), "#e79a80", "○", r"more than 5 $\sigma$ above"),
)
UNKNOWN = ("#f3f4f6", " ")
FAULTS = "the floor's own showers with a known fault, for comparison"
GROUP_WIDTH = 2.3
MOST_NUMBERS = 5  # columns that show errors; of more, values and sigmas only


def light(sigma: float | None) -> tuple[str, str]:
    """Colour and mark of a distance from the floor."""
    if sigma is None:
        return UNKNOWN
    colour, mark = next((colour, mark) for limit, colour, mark, _ in LIGHTS if sigma < limit)
    return colour, mark


def number(value: float | None, error: float | None = None) -> str:
    """A value with the digits that its error allows."""
    if value is None:
        return "n/a"
    if not error:
        return f"{value:.3g}"
    if max(abs(value), error) >= 1e5:
        return f"{value:.2e} ± {error:.1e}"
    if error < 1.95e-4 and abs(value) < 1e-2:
        exponent = math.floor(math.log10(error))
        return f"({value / 10**exponent:.0f} ± {error / 10**exponent:.0f})e{exponent}"
    places = 0
    while places < 6 and error * 10**places < 1.95:
        places += 1
    return f"{value:.{places}f} ± {error:.{places}f}"


def summary(tables: Tables) -> tuple[Figure, dict[str, Any]]:
    """What one reads first: samples x groups of observables in sigma; below it every observable of every sample."""
    data = tables["summary"]
    if not data["lines"]:
        return placeholder("nothing to show: the experiment has no samples"), {}
    overview, samples, lines = data.get("overview", []), data["samples"], data["lines"]
    width, height, label = (1.75 if len(samples) <= MOST_NUMBERS else 1.35), 0.32, 2.5
    total = max(label + width * len(samples), label + GROUP_WIDTH * len(data.get("groups", [])))
    above = height * (len(overview) + 3) if overview else 0.0
    figure = Figure(figsize=(total, above + height * (len(lines) + 2.6)))
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(0, total)
    ax.set_ylim(above + height * (len(lines) + 1.1), -height * 1.5)
    ax.set_axis_off()
    if overview:
        _overview(ax, overview, data["groups"], height, label)
    for j, sample in enumerate(samples):
        middle = label + width * (j + 0.5)
        size = 8.6 if len(samples) <= MOST_NUMBERS else 7.4
        ax.text(middle, above - 0.5 * height, shown(sample), ha="center", va="center", fontweight="bold", fontsize=size)
    for i, line in enumerate(lines):
        _line(ax, above + i * height, height, line, samples, label, width, i > 0 and lines[i - 1]["group"])
    _key(ax, label, above + height * (len(lines) + 0.6))
    return figure, dict(data)


def _overview(ax: Any, rows: Sequence[Mapping[str, Any]], groups: Sequence[str], height: float, label: float) -> None:
    """Samples, and the faults that would have been seen, x groups: the farthest observable of each group."""
    right = label + GROUP_WIDTH * len(groups)
    for j, group in enumerate(groups):
        middle = label + GROUP_WIDTH * (j + 0.5)
        ax.text(middle, -0.5 * height, group, ha="center", va="center", fontweight="bold")
    top, before = 0.0, ""
    for row in rows:
        if row["kind"] != before:
            ax.plot([0, right], [top, top], color=MUTED, linewidth=0.9)
            if row["kind"] == "fault":
                middle = top + height / 2
                ax.text(0.05, middle, FAULTS, va="center", fontsize=8, style="italic", color=MUTED)
                top += height
        before = row["kind"]
        ax.text(0.05, top + height / 2, row["label"], va="center", fontsize=8.8)
        for j, group in enumerate(groups):
            _group_cell(ax, row["cells"].get(group), label + GROUP_WIDTH * j, top, height)
        top += height


def _group_cell(ax: Any, cell: Mapping[str, Any] | None, left: float, top: float, height: float) -> None:
    colour, mark = light(cell["sigma"]) if cell else UNKNOWN
    _box(ax, left, top, GROUP_WIDTH, height, colour)
    if cell and cell["sigma"] is not None:
        middle = top + height / 2
        ax.text(left + 0.1, middle, mark, va="center", fontsize=8)
        ax.text(left + 0.28, middle, rf"{sigmas(cell['sigma'])}$\sigma$", va="center", fontsize=8)
        ax.text(left + GROUP_WIDTH - 0.08, middle, cell["of"], va="center", ha="right", fontsize=6.6, color="#3a3f48")


def _box(ax: Any, left: float, top: float, width: float, height: float, colour: str) -> None:
    size = width - 0.06, height - 0.04
    ax.add_patch(Rectangle((left + 0.03, top + 0.02), *size, facecolor=colour, linewidth=0.5, edgecolor=GRID))


def sigmas(sigma: float) -> str:
    """A distance with the digits that matter: +1.3, +27."""
    return f"{sigma:+.1f}" if abs(sigma) < 9.95 else f"{sigma:+.0f}"


def _line(
    ax: Any,
    top: float,
    height: float,
    line: Mapping[str, Any],
    samples: Sequence[str],
    label: float,
    width: float,
    above: str | bool,
) -> None:
    middle, right = top + height / 2, label + width * len(samples)
    if above != line["group"]:
        ax.plot([0, right], [top, top], color=MUTED, linewidth=0.9)
    ax.text(0.05, middle, line["label"], va="center", fontsize=8.8)
    for j, sample in enumerate(samples):
        cell, left = line["cells"].get(sample), label + width * j
        colour, mark = light(cell["sigma"]) if cell else UNKNOWN
        _box(ax, left, top, width, height, colour)
        ax.text(left + 0.1, middle, mark, va="center", fontsize=8)
        if cell:
            error = cell["error"] if len(samples) <= MOST_NUMBERS else None
            ax.text(left + 0.28, middle, number(cell["value"], error), va="center", fontsize=8)
        if cell and cell["sigma"] is not None:
            text = rf"{sigmas(cell['sigma'])}$\sigma$"
            ax.text(left + width - 0.08, middle, text, va="center", ha="right", fontsize=7, color="#3a3f48")


def _key(ax: Any, left: float, middle: float) -> None:
    ax.text(0.05, middle, r"all energies; $\sigma$ from the floor", va="center", fontsize=7.5, color=MUTED)
    for i, (_, colour, mark, text) in enumerate(LIGHTS):
        box = {"facecolor": colour, "edgecolor": "none", "pad": 2}
        ax.text(left + 0.03 + i * 1.75, middle, f"{mark} {text}", va="center", fontsize=7.3, bbox=box)
