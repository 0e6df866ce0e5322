"""A study of generators as curves: scores against the number of the new detector's showers, floor and baselines.

In: the mapping of tables with the study's records; out: a figure and the numbers it shows. Smaller is better. Error
bars: spread over seeds and the metric's own error, in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.style import FLOOR, MUTED, Look, heading

Record = Mapping[str, Any]

_ARMS = {
    "fine_tuned": ("fine-tuned", Look("#0072b2", "-", "o")),
    "frozen": ("blocks frozen", Look("#56b4e9", "-.", "D")),
    "zero_shot": ("zero-shot: no step", Look("#e69f00", "--", "P")),
    "plateau": ("from scratch, at its plateau", Look("#d55e00", "-", "s")),
    "scratch": ("from scratch, equal steps", Look("#cc79a7", ":", "X")),
    "resampled": ("the N showers resampled", Look(MUTED, "--", "v")),
}
_LABELS = {
    "features/sliced_wasserstein": "sliced Wasserstein distance",
    "classifier/auc_small_features": "AUC, features",
}


def generator_study(found: Record) -> tuple[Figure, dict[str, Any]]:
    """One panel per score."""
    figure = Figure(figsize=(5.0 * len(found["scores"]), 3.9))
    axes = figure.subplots(1, len(found["scores"]), squeeze=False, gridspec_kw={"wspace": 0.26})[0]
    for ax, score in zip(axes, found["scores"], strict=True):
        _panel(ax, found, score)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3)
    return figure, {key: found[key] for key in ("scores", "showers", "cells", "constant")}


def _panel(ax: Axes, found: Record, score: str) -> None:
    ax.set_xscale("log")
    for constant in (c for c in found["constant"] if c["score"] == score):
        if constant["arm"] == "floor":
            low, high = (constant["mean"] + sign * constant["spread"] for sign in (-1, 1))
            ax.axhspan(low, high, color=FLOOR, alpha=0.5, linewidth=0, label="Geant4 against Geant4")
        else:
            ax.axhline(constant["mean"], color=MUTED, linestyle=":", linewidth=1.1, label="the old detector's showers")
    for i, (arm, (name, look)) in enumerate(_ARMS.items()):
        own = [c for c in found["cells"] if (c["score"], c["arm"]) == (score, arm)]
        at = [c["showers"] * 1.03 ** (i - 3) for c in own]  # side by side
        means, spreads = ([c[key] for c in own] for key in ("mean", "spread"))
        ax.errorbar(at, means, spreads, **{**look.point_style(), **look.line_style()}, label=name)
    ax.set_xticks(found["showers"], [f"{n}" for n in found["showers"]])
    ax.minorticks_off()
    ax.set_xlabel("showers of the new detector")
    ax.set_ylabel(_LABELS.get(score, score.replace("/", ", ").replace("_", " ")))
    heading(ax, "")
