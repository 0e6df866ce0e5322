"""The curves of the figures as a HEPData submission: `submission.yaml` and one YAML file a table.

In: the mapping of tables that figures draw (MeV, mm, rad); out: HEPData's own format, version 1.1.1
(https://hepdata-submission.readthedocs.io, schemas of hepdata-validator): Geant4 and every sample in common bins, with
the errors that the figures show (an empty bin has none). It is plain YAML and is written here. What has no bins
(images, training curves) stays out, and so does the record's metadata (paper, licence), which its submitter knows.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.figures.captions import CAPTIONS
from pipeline.figures.page import plain_text
from pipeline.figures.panels import Curve, histogram_curve
from pipeline.figures.style import shown
from pipeline.figures.validation import profile_curve
from pipeline.provenance import atomic_path

Tables = Mapping[str, Any]
Record = dict[str, Any]
Point = tuple[float, float | None]

_PROFILES = {"longitudinal": "layer", "radial": "ring", "azimuthal": "sector"}
_HISTOGRAM_FIGURES = {
    **dict.fromkeys(("first_moment_z", "first_moment_r", "second_moment_z", "second_moment_r"), "moments"),
    "containment_radius": "containment",
    "depth_of_maximum": "shower_depth",
}
_CURVES: dict[str, tuple[str, str, str, str, str]] = {
    "linearity": ("bins", "mean", "mean_error", "mean visible over incident energy", ""),
    "resolution": ("bins", "resolution", "resolution_error", "relative width of the response", ""),
    "containment": ("containment_radius", "mean", "mean_error", "mean R90", "mm"),
    "shower_depth": ("depth_of_maximum", "mean", "mean_error", "mean depth of the maximum", "mm"),
}


@dataclass(frozen=True)
class HepTable:
    """One HEPData table: bins of one variable (low, high) and, by side, a value with its error in each of them."""

    name: str
    figure: str
    variable: tuple[str, str]
    quantity: tuple[str, str]
    bins: Sequence[tuple[float, float]]
    sides: Mapping[str, Sequence[Point | None]]
    qualifiers: Mapping[str, str]


def write_submission(tables: Tables, figures: Mapping[str, Path], folder: Path) -> list[Path]:
    """Write the submission and the PNGs (beside the given PDFs) of its figures; returns all paths."""
    found = list(hep_tables(tables))
    if not found:
        return []
    about = {
        "comment": "Showers of a calorimeter, by Geant4 and by models of it. Errors are statistical. By Caloforge."
    }
    documents: list[Record] = [about, *(_entry(table, figures) for table in found)]
    written = []
    for table in found:
        written.append(_write(folder / f"{table.name}.yaml", [_data(table)]))
    for figure in sorted({table.figure for table in found} & set(figures)):
        with atomic_path(folder / f"{figure}.png") as temporary:
            shutil.copyfile(figures[figure].with_suffix(".png"), temporary)
        written.append(folder / f"{figure}.png")
    return [_write(folder / "submission.yaml", documents), *written]


class _Plain(yaml.SafeDumper):
    """YAML without anchors, which HEPData's readers need not know."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True


def _write(path: Path, documents: Sequence[Record]) -> Path:
    text = yaml.dump_all(documents, None, _Plain, sort_keys=False, allow_unicode=True, width=120, explicit_start=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _entry(table: HepTable, figures: Mapping[str, Path]) -> Record:
    """What the submission says of a table."""
    keywords = {"reactions": [], "observables": [table.quantity[0]], "cmenergies": []}
    phrases = ["calorimeter", "electromagnetic shower", "fast simulation", "Geant4"]
    entry: Record = {
        "name": table.name,
        "location": f"Figure {table.figure}",
        "description": plain_text(CAPTIONS.get(table.figure, table.name)),
        "keywords": [{"name": n, "values": v} for n, v in (keywords | {"phrases": phrases}).items()],
        "data_file": f"{table.name}.yaml",
    }
    if table.figure in figures:
        entry["additional_resources"] = [{"description": "Image file", "location": f"{table.figure}.png"}]
    return entry


def _data(table: HepTable) -> Record:
    qualifiers = [{"name": name, "value": value} for name, value in table.qualifiers.items()]
    return {
        "independent_variables": [
            {"header": _header(*table.variable), "values": [{"low": low, "high": high} for low, high in table.bins]}
        ],
        "dependent_variables": [
            {
                "header": _header(*table.quantity),
                "qualifiers": [{"name": "sample", "value": side}, *qualifiers],
                "values": [_value(point) for point in points],
            }
            for side, points in table.sides.items()
        ],
    }


def _header(name: str, unit: str) -> Record:
    return {"name": name, "units": unit} if unit else {"name": name}


def _value(point: Point | None) -> Record:
    if point is None:
        return {"value": "-"}
    value, error = point
    return {"value": value} if not error else {"value": value, "errors": [{"symerror": error, "label": "stat"}]}


# ------------------------------------------------------------------------------- from tables


def hep_tables(tables: Tables) -> Iterator[HepTable]:
    """One table for each binned curve of the figures; Geant4 first, then the samples, the floor among them."""
    evaluations: Mapping[str, Any] = tables["evaluations"]
    if not evaluations:
        return
    about = {"data set": str(tables["reference"])}
    for direction, slices in _PROFILES.items():
        picked = {name: table["profiles"][direction] for name, table in evaluations.items()}
        curves = {name: profile_curve(table, "sample") for name, table in picked.items()}
        first = next(iter(picked.values()))
        quantity = (f"mean visible energy per {slices}", "MeV")
        figure = f"{direction}_profile"
        yield _of_curves(figure, figure, first["label"], quantity, profile_curve(first, "reference"), curves, about)
    for figure in _CURVES:
        yield from _of_energy(figure, evaluations, about)
    for name in next(iter(evaluations.values()))["histograms"]:
        picked = {sample: table["histograms"][name] for sample, table in evaluations.items()}
        yield _of_histogram(f"distribution_{name}", _HISTOGRAM_FIGURES.get(name, name), picked, about)
    for i, first in enumerate(next(iter(evaluations.values()))["response"]["histograms"]):
        picked = {sample: table["response"]["histograms"][i] for sample, table in evaluations.items()}
        selection = about | {"incident energy": first["selection"]}
        yield _of_histogram(f"energy_response_{i + 1}", "energy_response", picked, selection)
    spectra = {name: table["cell_spectrum"] for name, table in evaluations.items()}
    curves = {name: _curve(table, "sample") for name, table in spectra.items()}
    reference = _curve(next(iter(spectra.values())), "reference")
    quantity = ("cells per shower and bin", "")
    yield _of_curves("cell_spectrum", "cell_spectrum", "cell energy [MeV]", quantity, reference, curves, about)


def _curve(table: Mapping[str, Any], side: str) -> Curve:
    return Curve(np.asarray(table["edges"]), np.asarray(table[side]["mean"]), np.asarray(table[side]["error"]))


def _of_histogram(name: str, figure: str, picked: Mapping[str, Any], about: Mapping[str, str]) -> HepTable:
    first = next(iter(picked.values()))
    variable, unit = named(first["label"])
    curves = {sample: histogram_curve(table["edges"], table["sample"]) for sample, table in picked.items()}
    reference = histogram_curve(first["edges"], first["reference"])
    density = (f"probability density of {variable}", f"1/{unit}" if unit else "")
    return _of_curves(name, figure, first["label"], density, reference, curves, about)


def _of_curves(
    name: str,
    figure: str,
    label: str,
    quantity: tuple[str, str],
    reference: Curve,
    curves: Mapping[str, Curve],
    about: Mapping[str, str],
) -> HepTable:
    edges = [float(edge) for edge in reference.edges]
    sides = {"Geant4": _points(reference)} | {shown(sample): _points(curve) for sample, curve in curves.items()}
    bins = list(pairwise(edges))
    return HepTable(name, figure, named(label), quantity, bins, sides, about)


def _points(curve: Curve) -> list[Point | None]:
    return [(float(v), float(e)) for v, e in zip(curve.values, curve.errors, strict=True)]


def _of_energy(figure: str, evaluations: Mapping[str, Any], about: Mapping[str, str]) -> Iterator[HepTable]:
    """Values in bins of the incident energy; a sample without showers in a bin has none there."""
    key, value, error, name, unit = _CURVES[figure]
    first = next(iter(evaluations.values()))["response"]["reference"]
    bins = [_bin(b) for b in first[key]]
    sides = {"Geant4": first[key]} | {shown(s): t["response"]["sample"][key] for s, t in evaluations.items()}
    known = {side: {_bin(b): (b[value], b[error]) for b in entries} for side, entries in sides.items()}
    found = {side: [points.get(place) for place in bins] for side, points in known.items()}
    if bins:
        yield HepTable(figure, figure, ("incident energy", "MeV"), (name, unit), bins, found, about)


def _bin(entry: Mapping[str, float]) -> tuple[float, float]:
    """The edges of a `ResponseBin` or a `MeanBin`."""
    return (entry["low_mev"], entry["high_mev"]) if "low_mev" in entry else (entry["low"], entry["high"])


def named(label: str) -> tuple[str, str]:
    """Name and unit of a figure's label, as plain text: `depth $z$ [mm]` -> (depth z, mm)."""
    match = re.fullmatch(r"(.*?)(?:\s*\[(.*)\])?", plain_text(label))
    assert match is not None
    return match[1], match[2] or ""
