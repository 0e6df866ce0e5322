"""How every figure looks, and how it is written so that the same numbers give the same bytes.

One style per sample in all figures: Geant4 black, the floor a grey band, samples in colours that the colour-blind
can tell apart, each with its own line and marker so that they can be told apart in grey too (Okabe and Ito 2008,
"Color Universal Design"; axes after the LHC experiments' styles). No pyplot, no global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.provenance import atomic_path, write_json

GEANT4 = "#000000"
FLOOR = "#b9bcc2"
GRID = "#d9dbe0"
MUTED = "#5b606b"

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 9.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 10.5,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.linewidth": 0.9,
    "lines.linewidth": 1.7,
    "patch.linewidth": 1.5,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 5.5,
    "ytick.major.size": 5.5,
    "xtick.minor.size": 2.8,
    "ytick.minor.size": 2.8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "errorbar.capsize": 0,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 5),
    "pdf.fonttype": 42,
    "svg.hashsalt": "caloforge",
    "savefig.dpi": 160,
    "figure.dpi": 100,
    "hatch.linewidth": 0.5,
    "path.simplify": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
}
_LOOKS = (
    ("#0072b2", "-", "o"),
    ("#d55e00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#56b4e9", (0, (5, 1, 1, 1)), "v"),
    ("#e69f00", (0, (3, 1, 1, 1, 1, 1)), "P"),
    ("#7b4fa3", (0, (1, 1)), "X"),
    ("#8c6d31", (0, (8, 2)), "*"),
)
_MORE_MARKERS = ("<", ">", "p", "h", "d", "8", "H", "1")
"""With the same colours and other lines, for more samples than there are colours."""


@dataclass(frozen=True)
class Look:
    """Colour, line and marker of one sample."""

    colour: str
    line: Any
    marker: str

    def line_style(self) -> dict[str, Any]:
        """Keywords of a line."""
        return {"color": self.colour, "linestyle": self.line}

    def point_style(self) -> dict[str, Any]:
        """Keywords of points with error bars."""
        return {"color": self.colour, "marker": self.marker, "linestyle": "none", "markersize": 4, "elinewidth": 1.1}


REFERENCE_LOOK = Look(GEANT4, "-", "o")


def looks(samples: Sequence[str]) -> dict[str, Look]:
    """The look of each sample, by its place in the experiment, sixteen different ones; the floor has its own."""
    others = [name for name in samples if name != "floor"]
    table = {name: _look(i) for i, name in enumerate(others)}
    return table | {"floor": Look(FLOOR, "-", "|")}


def _look(place: int) -> Look:
    turn, i = divmod(place, len(_LOOKS))
    if turn % 2 == 0:
        return Look(*_LOOKS[i])
    return Look(_LOOKS[i][0], _LOOKS[(i + 3) % len(_LOOKS)][1], _MORE_MARKERS[i])


def shown(name: str) -> str:
    """A sample's name as a reader sees it."""
    return "Geant4 floor" if name == "floor" else name.replace("_", " ")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def heading(ax: Axes, left: str, right: str = "") -> None:
    """A line of text above the axes: what is shown, and of which data."""
    ax.text(0.0, 1.02, left, transform=ax.transAxes, ha="left", va="bottom", fontweight="bold", fontsize=9.5)
    ax.text(1.0, 1.02, right, transform=ax.transAxes, ha="right", va="bottom", fontsize=8.5, color=MUTED)


def plain_ticks(ax: Axes) -> None:
    """Plain numbers on a logarithmic energy axis; of the digits of a decade 2, 3 and 5, below a decade also 4 and 7."""
    low, high = ax.get_xlim()
    digits = "235" if low <= 0 or high > 10 * low else "23457"
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in digits else "")


def label_with_power(ax: Axes, label: str) -> None:
    """Label the vertical axis, with the power of ten of very small or large values, which would lie on the heading."""
    power = power_of_thousand(max(abs(limit) for limit in ax.get_ylim()))
    ax.set_ylabel(f"{label} [$10^{{{power}}}$]" if power else label)
    if power:
        ax.yaxis.set_major_formatter(lambda y, _: f"{y / 10**power:g}")


def power_of_thousand(largest: float) -> int:
    """Power of ten, a multiple of 3, for an axis that reaches this value; 0 for plain numbers."""
    return 0 if largest == 0 or 1e-2 <= largest < 1e5 else 3 * math.floor(math.log10(largest) / 3)


def placeholder(message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = Figure(figsize=(5, 1.6))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, fontsize=11)
    return figure


def save(figure: Figure, output: Path, record: Mapping[str, Any]) -> None:
    """Write <figure>.pdf, .png and .json; no date, host or version enters the bytes."""
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Creator": "Caloforge", "Producer": "Caloforge", "CreationDate": None, "ModDate": None},
        "png": {"Software": None},
    }
    canvas = FigureCanvasAgg(figure)
    box = figure.get_tightbbox(canvas.get_renderer()).padded(0.06)  # type: ignore[no-untyped-call]
    for kind, entries in metadata.items():
        with atomic_path(output.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=entries, bbox_inches=box)
    write_json(output.with_suffix(".json"), dict(record))
