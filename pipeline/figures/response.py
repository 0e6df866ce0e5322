"""How generated showers answer beside Geant4's: response, linearity, resolution, size and depth, against E and angle.

In: the mapping of tables made by the evaluation (MeV; see `draw`); out: a matplotlib figure and the numbers it shows.
Fits are drawn, not made, here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

from pipeline.figures.panels import BELOW, finish_ratio, legend, legend_of_labels, ratio_axes
from pipeline.figures.style import REFERENCE_LOOK, Look, heading, looks, placeholder, plain_ticks, shown
from pipeline.figures.validation import NOTHING, Drawn, Tables, histogram_panel, of_data, pick

_GEV = 1e3


def energy_response(tables: Tables) -> Drawn:
    """Visible over incident energy in each bin of the incident energy."""
    data = pick(tables, "response", "histograms")
    if not data:
        return placeholder(NOTHING), {}
    bins = next(iter(data.values()))
    figure = Figure(figsize=(4.1 * len(bins), 4.6))
    grid = GridSpec(1, len(bins), figure=figure, wspace=0.24)
    for i, record in enumerate(bins):
        top, bottom = ratio_axes(figure, grid[0, i])
        of_bin = {name: next(t for t in table if t["selection"] == record["selection"]) for name, table in data.items()}
        histogram_panel(top, bottom, of_bin, tables)
        low, high = record["low_mev"] / _GEV, record["high_mev"] / _GEV
        text = f"{low:.2g} GeV" if low == high else f"{low:.2g} to {high:.2g} GeV"
        top.text(0.95, 0.95, text, transform=top.transAxes, ha="right", va="top", fontweight="bold")
        heading(top, "Energy response" if i == 0 else "", of_data(tables) if i == len(bins) - 1 else "")
        bottom.xaxis.set_major_locator(MaxNLocator(5))
        if i > 0:
            bottom.set_ylabel("")
    legend(figure, tables["samples"], **BELOW, ncols=5)
    return figure, data


def _response_figure(tables: Tables, quantity: str, title: str, label: str) -> Drawn:
    """Mean or resolution against the incident energy in per cent, and its ratio to Geant4 in the same bins."""
    data = {n: {side: t[side] for side in ("reference", "sample")} for n, t in pick(tables, "response").items()}
    if not data:
        return placeholder(NOTHING), {}
    figure = Figure(figsize=(6.6 if quantity == "resolution" else 5.2, 4.9))
    top, bottom = ratio_axes(figure)
    top.set_xscale("log")
    styles = looks(tables["samples"]) | {"Geant4": REFERENCE_LOOK}
    curves = {"Geant4": next(iter(data.values()))["reference"]} | {n: t["sample"] for n, t in data.items()}
    away = [0.0]
    for i, (name, curve) in enumerate(curves.items()):
        _response_points(top, name, curve, quantity, styles[name], shift=1 + 0.012 * i)
        away += _response_ratio(bottom, name, curve, curves["Geant4"], quantity, styles[name], shift=1 + 0.012 * i)
    finish_ratio(bottom, max(away))
    top.set_ylabel(label)
    bottom.set_xlabel("incident energy [GeV]")
    bins = [b for curve in curves.values() for b in curve["bins"]]
    energy_range(bottom, min(b["low_mev"] for b in bins), max(b["high_mev"] for b in bins))
    size = 7.5 if quantity == "resolution" else None
    legend_of_labels(top, tables["samples"], 2 if size else 3, loc="upper right", fontsize=size)
    heading(top, title, of_data(tables))
    return figure, data


def energy_range(ax: Axes, low_mev: float, high_mev: float) -> None:
    """The bins' whole range of energies with plain numbers, the ends among them."""
    if high_mev > low_mev:
        ax.set_xlim(0.97 * low_mev / _GEV, 1.03 * high_mev / _GEV)
    plain_ticks(ax)


def _bin_values(curve: Mapping[str, Any], *keys: str) -> list[Any]:
    return [np.array([b[key] for b in curve["bins"]]) for key in keys]


def _response_points(ax: Axes, name: str, curve: Mapping[str, Any], quantity: str, look: Look, shift: float) -> None:
    """Points with errors, and for a resolution the fit, named in the legend."""
    energy, value, error = _bin_values(curve, "energy_mev", quantity, f"{quantity}_error")
    style, label = look.point_style(), shown(name)
    fit = curve["fit"] if quantity == "resolution" and name != "floor" else None
    if name == "floor":
        style |= {"marker": "_", "markersize": 10, "zorder": 1}
    if fit is not None:
        fine = np.geomspace(energy.min(), energy.max(), 100) / _GEV
        terms = {"stochastic": np.sqrt(fine), "constant": np.ones_like(fine), "noise": fine}
        curve_of_fit = np.sqrt(sum((fit[name] / over) ** 2 for name, over in terms.items()))
        ax.plot(fine, 100 * curve_of_fit, linewidth=1.1, **look.line_style())
        label += f": {_fit_text(fit)}"
    ax.errorbar(shift * energy / _GEV, 100 * value, 100 * error, **({"zorder": 3} | style), label=label)


def _fit_text(fit: Mapping[str, Any]) -> str:
    """The terms that are not held at 0, in per cent, and the quality of the fit."""
    units = {"stochastic": "/\\sqrt{E}", "constant": "", "noise": "/E"}
    terms = [
        f"({100 * fit[name]:.1f} \\pm {100 * fit[name + '_error']:.1f})\\%{unit}"
        for name, unit in units.items()
        if fit[name] > 0
    ]
    joined = " \\oplus ".join(terms)
    return f"${joined}$, $\\chi^2$/ndf {fit['chi2']:.1f}/{fit['ndf']}"


def _response_ratio(
    ax: Axes, name: str, curve: Mapping[str, Any], reference: Mapping[str, Any], quantity: str, look: Look, shift: float
) -> list[float]:
    """Points over Geant4 in the bins that both have; returns how far they are from 1."""
    ours = {b["low_mev"]: b[quantity] for b in reference["bins"]}
    bins = [b for b in curve["bins"] if ours.get(b["low_mev"])]
    energy, value, error = _bin_values({"bins": bins}, "energy_mev", quantity, f"{quantity}_error")
    over = np.array([ours[b["low_mev"]] for b in bins])
    style = look.point_style() | ({"marker": "_", "markersize": 10, "zorder": 1} if name == "floor" else {})
    ax.errorbar(shift * energy / _GEV, value / over, error / over, **style)
    return [float(x) for x in np.abs(value / over - 1)]


def linearity(tables: Tables) -> Drawn:
    """Mean visible over incident energy, against the incident energy."""
    return _response_figure(tables, "mean", "Linearity", "mean response $\\langle E_{vis}/E_{inc} \\rangle$ [%]")


def resolution(tables: Tables) -> Drawn:
    """Relative width of the response, against the incident energy, with its fit."""
    return _response_figure(tables, "resolution", "Resolution", "$\\sigma / \\mu$ of the response [%]")


# ------------------------------------------------------------------------------- size, depth, angle


def containment(tables: Tables) -> Drawn:
    """Mean radius that holds 90 % of the energy, against the incident energy."""
    data = _mean_curves(tables, "containment_radius")
    return _mean_figure(tables, data, "Containment radius", "mean $R_{90}$ [mm]", dict.fromkeys(data, ""))


def shower_depth(tables: Tables) -> Drawn:
    """Mean depth of the maximum against the incident energy, in radiation lengths, and its growth per doubling."""
    data = _mean_curves(tables, "depth_of_maximum")
    texts = {}
    for name, curve in data.items():
        x0 = curve["radiation_length_mm"]
        curve["bins"] = [b | {k: b[k] / x0 for k in ("mean", "mean_error")} for b in curve["bins"]]
        if growth := curve["growth_per_doubling_mm"]:
            texts[name] = f": ${growth['value'] / x0:+.2f} \\pm {growth['error'] / x0:.2f}$ per doubling"
    return _mean_figure(tables, data, "Depth of the maximum", "mean depth of the maximum [$X_0$]", texts)


def _mean_curves(tables: Tables, quantity: str) -> dict[str, Any]:
    """Geant4 and the samples: bins of a mean, and what a depth needs."""
    curves: dict[str, Any] = {}
    for name, table in tables["evaluations"].items():
        for label, side in (("Geant4", "reference"), (name, "sample")):
            curve = table["response"][side]
            curves.setdefault(
                label,
                {
                    "bins": curve[quantity],
                    "growth_per_doubling_mm": curve["growth_per_doubling_mm"],
                    "radiation_length_mm": table["radiation_length_mm"],
                },
            )
    return curves


def _mean_figure(tables: Tables, data: dict[str, Any], title: str, label: str, texts: Mapping[str, str]) -> Drawn:
    if not data:
        return placeholder(NOTHING), {}
    figure = Figure(figsize=(5.2, 4.9))
    top, bottom = ratio_axes(figure)
    top.set_xscale("log")
    _mean_points(top, bottom, {n: c["bins"] for n, c in data.items()}, tables, 1 / _GEV, texts)
    top.set_ylabel(label)
    bottom.set_xlabel("incident energy [GeV]")
    bins = [b for curve in data.values() for b in curve["bins"]]
    energy_range(bottom, min(b["low"] for b in bins), max(b["high"] for b in bins))
    legend_of_labels(top, tables["samples"], 2 if any(texts.values()) else 3, loc="upper left")
    heading(top, title, of_data(tables))
    return figure, data


def _mean_points(
    top: Axes, bottom: Axes, curves: Mapping[str, Any], tables: Tables, unit: float, texts: Mapping[str, str]
) -> None:
    """Points with errors, and their ratio to Geant4 in the bins that both have."""
    styles = looks(tables["samples"]) | {"Geant4": REFERENCE_LOOK}
    ours, away = {b["low"]: b["mean"] for b in curves["Geant4"]}, [0.0]
    for i, (name, bins) in enumerate(curves.items()):
        x, mean, error = (np.array([b[key] for b in bins]) for key in ("x", "mean", "mean_error"))
        x = x * (1 + 0.012 * i) if top.get_xscale() == "log" else x
        style = {"zorder": 3} | styles[name].point_style()
        if name == "floor":
            style |= {"marker": "_", "markersize": 10, "zorder": 1}
        top.errorbar(unit * x, mean, error, **style, label=shown(name) + texts.get(name, ""))
        over = np.array([ours.get(b["low"]) or np.nan for b in bins])
        bottom.errorbar(unit * x, mean / over, error / over, **style)
        away += np.abs(mean / over - 1)[np.isfinite(over)].tolist()
    finish_ratio(bottom, max(away))


def angular_dependence(tables: Tables) -> Drawn:
    """Response, resolution and R90 against the polar angle, where the data hold several angles."""
    panels = {
        "response": "mean response $\\langle E_{vis}/E_{inc} \\rangle$",
        "resolution": "$\\sigma / \\mu$ of the response",
        "containment_radius": "mean $R_{90}$ [mm]",
    }
    curves: dict[str, Any] = {}
    for name, table in tables["evaluations"].items():
        for label, side in (("Geant4", "reference"), (name, "sample")):
            if table["response"][side]["angle"]:
                curves.setdefault(label, table["response"][side]["angle"])
    if not curves:
        return placeholder("nothing to show: no samples, or all showers have one angle"), {}
    figure = Figure(figsize=(4.6 * len(panels), 4.6))
    grid = GridSpec(1, len(panels), figure=figure, wspace=0.32)
    for i, (quantity, label) in enumerate(panels.items()):
        top, bottom = ratio_axes(figure, grid[0, i])
        _mean_points(top, bottom, {n: c[quantity] for n, c in curves.items()}, tables, 180 / np.pi, {})
        top.set_ylabel(label)
        bottom.set_xlabel("polar angle $\\theta$ [deg]")
        heading(top, "Angular dependence" if i == 0 else "", of_data(tables) if i == len(panels) - 1 else "")
        if i > 0:
            bottom.set_ylabel("")
    top.legend(loc="best")
    return figure, curves
