"""Quality against time: how well a classifier tells each sample from Geant4, and what a shower costs.

In: the mapping of tables made by the evaluation, with `costs` (CPU milliseconds of one core); out: a figure and the
numbers it shows. Samples of one run are joined by a line in the order of their evaluations; those without any stand
alone. These figures show measured times, so they alone differ in their bytes when drawn from another measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from pipeline.figures.style import FLOOR, GEANT4, MUTED, Look, heading, looks, placeholder, plain_ticks, shown

Tables = Mapping[str, Any]
AUC = "auc_small_features"
NOTHING = "nothing to show: no sample with a classifier and a measured time"


def front(tables: Tables) -> tuple[Figure, dict[str, Any]]:
    """AUC on features against CPU milliseconds per shower, and against the evaluations of the network."""
    points, cost = _points(tables), tables.get("costs", {})
    if not points:
        return placeholder(NOTHING), {}
    floor, geant4 = _auc(tables).get("floor"), cost["geant4"]
    styles = _styles(points)
    figure = Figure(figsize=(11.0, 4.8))
    grid = GridSpec(1, 2, figure=figure, wspace=0.08, width_ratios=[3, 2])
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharey=left)
    for ax in (left, right):
        ax.set_xscale("log")
        if floor:
            low, high = (floor["value"] + sign * (floor["error"] or 0) for sign in (-1, 1))
            ax.axhspan(low, high, color=FLOOR, alpha=0.6, linewidth=0, label="Geant4 floor" if ax is left else None)
    if geant4["bins"]:
        for text, value, line in [
            ("Geant4, mean of this data set", geant4["mean_ms"], "-"),
            (
                f"Geant4, highest bin ({geant4['bins'][-1]['energy_mev'] / 1e3:.0f} GeV)",
                geant4["bins"][-1]["mean_ms"],
                "--",
            ),
        ]:
            left.axvline(value, color=GEANT4, linestyle=line, linewidth=1.2, label=text)
    for run, members in _by_run(points).items():
        _draw(left, members, "cpu_ms_per_shower", styles[run], shown(run))
        counted = [p for p in members if p["evaluations"]]
        _draw(right, counted, "evaluations", styles[run], None)
    left.set_xlabel("CPU time per shower on one core [ms]")
    right.set_xlabel("evaluations of the shower network")
    right.tick_params(labelleft=False)
    plain_ticks(left)
    plain_ticks(right)
    left.set_ylabel("AUC of a classifier on features (0.5 is perfect)")
    heading(left, "Quality against time")
    heading(right, "Quality against evaluations", tables["reference"])
    figure.legend(*left.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    return figure, {"points": points, "geant4": geant4, "floor": floor}


def speedup(tables: Tables) -> tuple[Figure, dict[str, Any]]:
    """Geant4's CPU time over a sample's, shower by shower alone, against the incident energy."""
    cost = tables.get("costs", {})
    bins = cost.get("geant4", {}).get("bins", [])
    times = {name: cost.get("samples", {}).get(name, {}).get("cpu_ms_alone") for name in tables.get("samples", [])}
    alone = {name: ms for name, ms in times.items() if ms}
    if not bins or not alone:
        return placeholder("nothing to show: no times of Geant4 or of samples"), {}
    figure = Figure(figsize=(6.2, 4.6))
    ax = figure.add_subplot()
    ax.set_xscale("log")
    ax.set_yscale("log")
    numbers = {}
    styles = looks(list(alone))
    energy = [b["energy_mev"] / 1e3 for b in bins]
    for name, ms in alone.items():
        numbers[name] = [b["mean_ms"] / ms for b in bins]
        errors = [b["error_ms"] / ms for b in bins]
        ax.errorbar(energy, numbers[name], errors, **styles[name].line_style(), marker=styles[name].marker)
    for name, height in apart({name: factor[-1] for name, factor in numbers.items()}).items():
        place = (energy[-1] * 1.06, height)
        ax.annotate(shown(name), place, fontsize=7.5, va="center", color=styles[name].colour, annotation_clip=False)
    ax.axhline(1, color=GEANT4, linewidth=1.2)
    ax.text(energy[0], 1.04, "Geant4", fontsize=8, va="bottom")
    ax.set_xlabel("incident energy [GeV]")
    ax.set_ylabel("Geant4's CPU time over the generator's")
    plain_ticks(ax)
    ax.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "235" else "")
    ax.set_xlim(right=energy[-1] * 1.9)  # room for the names
    heading(ax, "Factor against Geant4 on one core", tables["reference"])
    return figure, {"energy_gev": energy, "factor": numbers, "geant4": bins, "cpu_ms_alone": alone}


def apart(heights: Mapping[str, float], factor: float = 1.22) -> dict[str, float]:
    """Heights of names on a logarithmic axis, in the same order and at least a factor apart, moved little.

    Names that are too near form a block about the mean of the logarithms of their own heights.
    """
    step = math.log(factor)
    blocks: list[tuple[float, list[str]]] = []
    for name in sorted(heights, key=lambda n: heights[n]):
        blocks.append((math.log(heights[name]), [name]))
        while len(blocks) > 1 and _bottom(blocks[-1], step) - _top(blocks[-2], step) < step:
            upper, lower = blocks.pop(), blocks.pop()
            names = lower[1] + upper[1]
            blocks.append((math.fsum(math.log(heights[n]) for n in names) / len(names), names))
    return {n: math.exp(_bottom(b, step) + i * step) for b in blocks for i, n in enumerate(b[1])}


def _bottom(block: tuple[float, list[str]], step: float) -> float:
    return block[0] - 0.5 * step * (len(block[1]) - 1)


def _top(block: tuple[float, list[str]], step: float) -> float:
    return block[0] + 0.5 * step * (len(block[1]) - 1)


def _auc(tables: Tables) -> dict[str, Any]:
    """Value and error by sample."""
    for line in tables["summary"]["lines"]:
        if line["metric"] == AUC:
            return dict(line["cells"])
    return {}


def _points(tables: Tables) -> list[dict[str, Any]]:
    """The samples that have an AUC and a time."""
    measured = tables.get("costs", {}).get("samples", {})
    return [
        {
            "sample": name,
            "run": (measured[name].get("evaluations") and measured[name]["run"]) or name,
            "auc": cell["value"],
            "error": cell["error"] or 0.0,
            "cpu_ms_per_shower": measured[name]["cpu_ms_per_shower"],
            "evaluations": measured[name].get("evaluations") or 0,
        }
        for name, cell in _auc(tables).items()
        if "cpu_ms_per_shower" in measured.get(name, {}) and cell["value"] is not None
    ]


def _by_run(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        runs.setdefault(point["run"], []).append(point)
    return {run: sorted(of, key=lambda p: (p["evaluations"], p["cpu_ms_per_shower"])) for run, of in runs.items()}


def _styles(points: list[dict[str, Any]]) -> dict[str, Look]:
    return looks(list(dict.fromkeys(p["run"] for p in points)))


def _draw(ax: Axes, members: list[dict[str, Any]], x: str, look: Look, label: str | None) -> None:
    if not members:
        return
    at, auc, error = ([p[key] for p in members] for key in (x, "auc", "error"))
    ax.errorbar(at, auc, error, **look.line_style(), marker=look.marker, markersize=5, label=label)
    if x == "cpu_ms_per_shower":
        for p in members:
            if p["evaluations"]:
                offset: dict[str, Any] = {
                    "xytext": (4, 5),
                    "textcoords": "offset points",
                    "fontsize": 7,
                    "color": MUTED,
                }
                ax.annotate(f"{p['evaluations']:g}", (p[x], p["auc"]), **offset)
