"""The table one reads first: samples x observables, each value with its distance from the Geant4 floor.

In: the mapping of tables made by the evaluation; out: a figure and the numbers it shows. The shade of a cell grows
with the distance in sigma, and a mark repeats it, so that it reads in grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    if error < 1.95e-4 and abs(value) < 1e-2:
        exponent = math.floor(math.log10(error))
        return f"({value / 10**exponent:.0f} ± {error / 10**exponent:.0f})e{exponent}"
    places = 0
    while places < 6 and error * 10**places < 1.95:
        places += 1
    return f"{value:.{places}f} ± {error:.{places}f}"


def summary(tables: Tables) -> tuple[Figure, dict[str, Any]]:
    """Samples x observables over all energies."""
    data = tables["summary"]
    if not data["lines"]:
        return placeholder("nothing to show: the experiment has no samples"), {}
    samples, lines = data["samples"], data["lines"]
    width, height, label = 1.75, 0.32, 2.5
    total = label + width * len(samples)
    figure = Figure(figsize=(total, height * (len(lines) + 2.6)))
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(0, total)
    ax.set_ylim(height * (len(lines) + 1.1), -height * 1.5)
    ax.set_axis_off()
    for j, sample in enumerate(samples):
        ax.text(label + width * (j + 0.5), -0.5 * height, shown(sample), ha="center", va="center", fontweight="bold")
    for i, line in enumerate(lines):
        _line(ax, i * height, height, line, samples, label, width, total, i > 0 and lines[i - 1]["group"])
    _key(ax, label, height * (len(lines) + 0.6), width)
    return figure, dict(data)


def _line(
    ax: Any,
    top: float,
    height: float,
    line: Mapping[str, Any],
    samples: list[str],
    label: float,
    width: float,
    total: float,
    above: str | bool,
) -> None:
    middle = top + height / 2
    if above != line["group"]:
        ax.plot([0, total], [top, top], color=MUTED, linewidth=0.9)
    ax.text(0.05, middle, line["label"], va="center", fontsize=8.8)
    for j, sample in enumerate(samples):
        cell = line["cells"].get(sample)
        left = label + width * j
        colour, mark = light(cell["sigma"]) if cell else UNKNOWN
        ax.add_patch(
            Rectangle(
                (left + 0.03, top + 0.02), width - 0.06, height - 0.04, facecolor=colour, linewidth=0.5, edgecolor=GRID
            )
        )
        ax.text(left + 0.1, middle, mark, va="center", fontsize=8)
        if cell:
            ax.text(left + 0.28, middle, number(cell["value"], cell["error"]), va="center", fontsize=8)
        if cell and cell["sigma"] is not None:
            ax.text(
                left + width - 0.08,
                middle,
                rf"{cell['sigma']:+.1f}$\sigma$",
                va="center",
                ha="right",
                fontsize=7,
                color="#3a3f48",
            )


def _key(ax: Any, left: float, middle: float, width: float) -> None:
    ax.text(0.05, middle, r"all energies; $\sigma$ from the floor", va="center", fontsize=7.5, color=MUTED)
    for i, (_, colour, mark, text) in enumerate(LIGHTS):
        ax.text(
            left + 0.03 + i * width,
            middle,
            f"{mark} {text}",
            va="center",
            fontsize=7.3,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 2},
        )
