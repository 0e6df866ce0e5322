"""Figures draw tables: no figure sees a model, a shower file or another room, and none computes.

`draw(name, tables, output, provenance)` writes <figure>.pdf, .png and .json; a new figure is one function and one
line of `FIGURES`. `tables` is what `pipeline.evaluation.summary.gather` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.figures.attention import attention, forgetting
from pipeline.figures.average import average_showers
from pipeline.figures.front import front, speedup
from pipeline.figures.predictions import energy_prediction, pulls
from pipeline.figures.response import (
    angular_dependence,
    containment,
    energy_response,
    linearity,
    resolution,
    shower_depth,
)
from pipeline.figures.showers import shower_images, shower_space, shower_unrolled
from pipeline.figures.study import study
from pipeline.figures.style import save, styled
from pipeline.figures.summary import summary
from pipeline.figures.training import training_curves
from pipeline.figures.validation import (
    azimuthal_asymmetry,
    azimuthal_profile,
    cell_spectrum,
    clusters,
    hits,
    longitudinal_profile,
    moments,
    radial_profile,
)

FIGURES: dict[str, Callable[[Mapping[str, Any]], tuple[Figure, dict[str, Any]]]] = {
    "summary": summary,
    "longitudinal_profile": longitudinal_profile,
    "radial_profile": radial_profile,
    "azimuthal_profile": azimuthal_profile,
    "energy_response": energy_response,
    "linearity": linearity,
    "resolution": resolution,
    "containment": containment,
    "shower_depth": shower_depth,
    "angular_dependence": angular_dependence,
    "cell_spectrum": cell_spectrum,
    "hits": hits,
    "moments": moments,
    "azimuthal_asymmetry": azimuthal_asymmetry,
    "clusters": clusters,
    "shower_images": shower_images,
    "shower_unrolled": shower_unrolled,
    "shower_space": shower_space,
    "average_showers": average_showers,
    "energy_prediction": energy_prediction,
    "pulls": pulls,
    "training_curves": training_curves,
    "front": front,
    "speedup": speedup,
    "attention": attention,
    "forgetting": forgetting,
    "study": study,
}

MEASURED = ("front", "speedup")  # show measured times: other records give other bytes

CATEGORIES: dict[str, str] = {
    "summary": "Summary",
    "longitudinal_profile": "Shower shape",
    "radial_profile": "Shower shape",
    "azimuthal_profile": "Shower shape",
    "moments": "Shower shape",
    "energy_response": "Energy",
    "linearity": "Energy",
    "resolution": "Energy",
    "containment": "Shower shape",
    "shower_depth": "Shower shape",
    "angular_dependence": "Energy",
    "cell_spectrum": "Cells",
    "hits": "Cells",
    "azimuthal_asymmetry": "Collective",
    "clusters": "Collective",
    "shower_images": "Showers",
    "shower_unrolled": "Showers",
    "shower_space": "Showers",
    "average_showers": "Showers",
    "energy_prediction": "Learned energy",
    "pulls": "Learned energy",
    "training_curves": "Training",
    "front": "Time",
    "speedup": "Time",
    "attention": "Training",
    "forgetting": "Training",
    "study": "Study",
}


def draw(figure: str, tables: Mapping[str, Any], output: Path, provenance: Mapping[str, Any]) -> None:
    """Draw one figure to `output` (.pdf), its .png, and the plotted numbers with their provenance (.json).

    Raises ValueError for an unknown figure.
    """
    if figure not in FIGURES:
        raise ValueError(f"figures.draw: expected one of {sorted(FIGURES)}, got '{figure}'")
    with styled():
        drawn, numbers = FIGURES[figure](tables)
        save(drawn, Path(output), {"figure": figure, "numbers": numbers, "provenance": dict(provenance)})
