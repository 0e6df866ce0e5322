"""A study as curves: errors against the number of labels, or along the study's axis, with baselines and controls.

In: the mapping of tables with the study's metrics (`cells`, relative errors); out: a figure and the numbers it shows.
Error bars are standard deviations over encoder seeds and subsets of labels. Along an axis the baselines are bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.generator_study import generator_study
from pipeline.figures.style import FLOOR, MUTED, Look, heading, placeholder

Tables = Mapping[str, Any]
Record = Mapping[str, Any]

NOTHING = "nothing to show: the experiment has no study"
_ARMS = {
    "pretrained": ("pre-trained, frozen", Look("#0072b2", "-", "o")),
    "shuffled": ("pre-trained on permuted cells, frozen", Look("#d55e00", "--", "s")),
    "random": ("random, frozen", Look("#cc79a7", ":", "D")),
    "fine_tuned": ("pre-trained, fine-tuned", Look("#009e73", "-.", "^")),
    "scratch": ("from scratch, at its plateau", Look("#7b4fa3", (0, (1, 1)), "X")),
    "zero_shot": ("head from the other data set", Look("#e69f00", "--", "P")),
    "features": ("hand-made features, linear", Look(MUTED, "-", "v")),
    "boosted_features": ("hand-made features, boosted", Look("#9aa1ad", "--", "P")),
    "cell_sum": ("line in ln E_vis", Look("#000000", ":", "*")),
    "corrected_sum": ("line in ln E_vis and visible share", Look("#8c6d31", (0, (8, 2)), "<")),
}
_BASELINES = ("features", "boosted_features", "cell_sum", "corrected_sum")
_COLUMNS = 2  # numbers of labels shown along an axis


def study(tables: Tables) -> tuple[Figure, dict[str, Any]]:
    """One panel per task where the study has one point, else one per task and number of labels."""
    found = tables.get("study")
    if not found:
        return placeholder(NOTHING), {}
    if found.get("kind") == "generators":
        return generator_study(found)
    several = len(found["points"]) > 1
    columns = _chosen(found["labels"]) if several else found["tasks"]
    lines = found["tasks"] if several else [None]
    figure = Figure(figsize=(5.0 * len(columns), 3.9 * len(lines)))
    axes = figure.subplots(len(lines), len(columns), squeeze=False, gridspec_kw={"hspace": 0.45, "wspace": 0.24})
    for row, line in zip(axes, lines, strict=True):
        for ax, column in zip(row, columns, strict=True):
            if several:
                _along_axis(ax, found, str(line), int(column))
            else:
                _against_labels(ax, found, str(column))
            ax.set_ylabel("RMS of relative energy error [%]")
            ax.set_ylim(bottom=0)
    shown = [entry for ax in axes.flat for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {name: handle for handle, name in reversed(shown)}  # some arms stand in some panels only
    names = [name for name, _ in _ARMS.values() if name in handles]
    figure.legend([handles[name] for name in names], names, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3)
    return figure, {key: found[key] for key in ("axis", "points", "cells", "gains")}


def _chosen(labels: Sequence[int]) -> list[int]:
    """The first number of labels, and the one in the middle of the others."""
    return [labels[0], *([labels[(len(labels)) // 2]] if len(labels) > 1 else [])][:_COLUMNS]


def _against_labels(ax: Axes, found: Record, task: str) -> None:
    """All arms of the single point."""
    ax.set_xscale("log")
    for i, (arm, (name, look)) in enumerate(_ARMS.items()):
        own = sorted((c for c in found["cells"] if (c["task"], c["arm"]) == (task, arm)), key=lambda c: c["labels"])
        if own:
            at = [c["labels"] * 1.03 ** (i - 4) for c in own]  # side by side
            _points(ax, at, own, name, look, line=True)
    ax.set_xticks(found["labels"], [f"{n}" for n in found["labels"]])
    ax.minorticks_off()
    ax.set_xlabel("labelled showers")
    heading(ax, task)


def _along_axis(ax: Axes, found: Record, task: str, labels: int) -> None:
    """Frozen encoders at each point, baselines as bands."""
    points = found["points"]
    numeric = all(point["value"] is not None for point in points)
    place = {point["name"]: point["value"] if numeric else i for i, point in enumerate(points)}
    own = [c for c in found["cells"] if (c["task"], c["labels"]) == (task, labels)]
    for arm in _BASELINES:
        for cell in (c for c in own if c["arm"] == arm):
            name, look = _ARMS[arm]
            low, high = (100 * (cell["mean"] + sign * cell["spread"]) for sign in (-1, 1))
            ax.axhspan(low, high, color=FLOOR, alpha=0.18, linewidth=0)
            ax.axhline(100 * cell["mean"], **look.line_style(), linewidth=1.1, label=name)
    for arm, (name, look) in _ARMS.items():
        cells = sorted((c for c in own if c["arm"] == arm and c["point"]), key=lambda c: place[c["point"]])
        if cells:
            _points(ax, [place[c["point"]] for c in cells], cells, name, look, line=numeric)
    if not numeric:
        ax.set_xticks(range(len(points)), [point["label"] for point in points], rotation=20, ha="right")
        ax.set_xlim(-0.5, len(points) - 0.5)
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
    ax.set_xlabel(found["axis"])
    heading(ax, task, f"{labels} labels")


def _points(ax: Axes, at: Sequence[float], cells: Sequence[Record], name: str, look: Look, line: bool) -> None:
    means, spreads = ([100 * c[key] for c in cells] for key in ("mean", "spread"))
    style = {**look.point_style(), **(look.line_style() if line else {})}
    ax.errorbar(at, means, spreads, **style, label=name)
