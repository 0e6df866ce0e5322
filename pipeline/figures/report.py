"""The page one reads first: one self-contained HTML file with summary, figures, numbers, configuration, lineage.

In: plain records and the figures' PNGs beside their PDFs; out: report.html, which works from disk, loads nothing from
anywhere, and escapes everything it shows. PDFs are linked relative to the page. Measured times are shown, so the page
itself is outside digests; everything else in it is deterministic.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.figures import CATEGORIES
from pipeline.figures.captions import CAPTIONS
from pipeline.figures.style import shown
from pipeline.figures.summary import LIGHTS, number, sigmas
from pipeline.provenance import atomic_path

Record = dict[str, Any]

_SYMBOLS = {r"\phi": "φ", r"\sigma": "σ", "_1": "₁", "_{90}": "₉₀", r"_\phi": "ᵩ", "^2": "²"}
_CLASSES = ("good", "fair", "poor")
_WIDE = {
    "summary",
    "energy_response",
    "moments",
    "shower_images",
    "energy_prediction",
    "training_curves",
    "angular_dependence",
}


class ReportError(ValueError):
    """A report that cannot be written; names the figure and the missing file."""


def write_report(
    path: Path,
    *,
    title: str,
    rows: Sequence[Record],
    figures: Mapping[str, Path],
    summary: Mapping[str, Any] | None = None,
    configuration: str = "",
    notes: Mapping[str, Sequence[str]] | None = None,
    published: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    quarantined: Sequence[Mapping[str, str]] = (),
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write the page; `figures` maps names to PDFs whose PNGs lie beside them, in the order of the page.

    summary: what `pipeline.evaluation.summary.summarise` returns; published: what `published_table` does; notes: lines
    by sample; lineage, measured: any JSON-able records by name; quarantined: data set, path and reason of each raw
    file that was refused and left out; cost: what `pipeline.cost.cost_table` returns.
    Raises `ReportError` for a figure without its PNG.
    """
    table = summary_table(summary or {"samples": [], "lines": []})
    shown_figures = {name: pdf for name, pdf in figures.items() if name != "summary" or not table["lines"]}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        categories=grouped(shown_figures, Path(path).parent),
        lights=legend_entries(),
        summary=table | {"pdf": _relative(figures["summary"], path) if "summary" in figures else ""},
        overview=overview_table(summary or {}),
        notes={shown(sample): list(lines) for sample, lines in (notes or {}).items()},
        published=published_page(published),
        predictions=prediction_table(rows),
        bins=binned_table(rows),
        rows=rows,
        configuration=configuration,
        facts=facts(rows),
        lineage={name: pretty(record) for name, record in (lineage or {}).items()},
        quarantined=list(quarantined),
        cost=cost_page(cost),
        measured=[(name, flat(record)) for name, record in sorted((measured or {}).items())],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


# ------------------------------------------------------------------------------- parts of the page


def grouped(figures: Mapping[str, Path], folder: Path) -> list[Record]:
    """Figures by category: name, caption, PNG as a data URI, link to the PDF."""
    categories: dict[str, list[Record]] = {}
    for name, pdf in figures.items():
        image = Path(pdf).with_suffix(".png")
        if not image.is_file():
            raise ReportError(f"figure '{name}': expected {image}, found no file; draw the figure again")
        uri = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
        record = {
            "name": name,
            "title": shown(name).capitalize(),
            "caption": CAPTIONS.get(name, ""),
            "uri": uri,
            "wide": name in _WIDE,
            "pdf": _relative(pdf, folder / "report.html"),
        }
        categories.setdefault(CATEGORIES.get(name, "Figures"), []).append(record)
    return [
        {"name": name, "anchor": name.lower().replace(" ", "-"), "figures": members}
        for name, members in categories.items()
    ]


def _relative(pdf: Path, page: Path) -> str:
    """The PDF as seen from the page."""
    return Path(os.path.relpath(pdf, Path(page).parent)).as_posix()


def plain_text(label: str) -> str:
    """A figure's label without TeX."""
    for tex, symbol in sorted(_SYMBOLS.items(), key=lambda item: -len(item[0])):
        label = label.replace(tex, symbol)
    return re.sub(r"[${}\\]", "", label)


def light_class(sigma: float | None) -> str:
    """good, fair or poor; unknown without a distance."""
    if sigma is None:
        return "unknown"
    return next(name for name, (limit, *_) in zip(_CLASSES, LIGHTS, strict=True) if sigma < limit)


def legend_entries() -> list[Record]:
    """Class, mark and meaning of each light."""
    return [
        {"class": name, "mark": mark, "text": plain_text(text)}
        for name, (_, _, mark, text) in zip(_CLASSES, LIGHTS, strict=True)
    ]


def summary_table(summary: Mapping[str, Any]) -> Record:
    """Observables as rows, samples as columns."""
    marks = {entry["class"]: entry["mark"] for entry in legend_entries()} | {"unknown": ""}
    lines = []
    for line in summary["lines"]:
        cells = []
        for sample in summary["samples"]:
            cell = line["cells"].get(sample) or {"value": None, "error": None, "sigma": None, "n": 0}
            kind = light_class(cell["sigma"])
            cells.append(
                {
                    "class": kind,
                    "mark": marks[kind],
                    "text": number(cell["value"], cell["error"]),
                    "sigma": "" if cell["sigma"] is None else f"{cell['sigma']:+.1f} σ",
                }
            )
        lines.append(
            {
                "group": line["group"],
                "label": plain_text(line["label"]),
                "cells": cells,
                "id": f"{line['observable']} / {line['metric']}",
                "perfect": f"{line['perfect']:g}",
            }
        )
    return {"samples": [shown(s) for s in summary["samples"]], "lines": lines}


def overview_table(summary: Mapping[str, Any]) -> Record:
    """Samples, then known faults, as rows; groups of observables as columns."""
    marks = {entry["class"]: entry["mark"] for entry in legend_entries()} | {"unknown": ""}
    lines = []
    for row in summary.get("overview", []):
        cells = []
        for group in summary["groups"]:
            cell = row["cells"].get(group) or {"sigma": None, "of": "", "lines": 0}
            kind, known = light_class(cell["sigma"]), cell["sigma"] is not None
            text = f"{sigmas(cell['sigma'])} σ" if known else ""
            cells.append({"class": kind, "mark": marks[kind], "text": text, "of": plain_text(cell["of"])})
        lines.append({"kind": row["kind"], "label": row["label"], "cells": cells})
    return {"groups": list(summary.get("groups", [])), "lines": lines}


def published_page(table: Mapping[str, Any] | None) -> Record:
    """The published rows and ours as text; empty without any."""
    if not table:
        return {}

    def texts(row: Sequence[Any]) -> list[str]:
        return [shown(row[0]), *("" if v is None else f"{v:.4g}" for v in row[1:])]

    return {
        **{key: table[key] for key in ("title", "source", "caption", "acceptance")},
        "columns": [shown(column) for column in table["columns"]],
        "published": [texts(row) for row in table["published"]],
        "ours": [texts(row) for row in table["ours"]],
    }


def prediction_table(rows: Sequence[Record]) -> Record:
    """Predictors of the incident energy by selection: resolution, bias, pull width."""
    chosen = [r for r in rows if r["observable"] == "incident_energy"]
    samples = list(dict.fromkeys(r["sample"] for r in chosen))
    return _pivot(chosen, samples, lambda r: (r["selection"], r["metric"]))


def binned_table(rows: Sequence[Record]) -> Record:
    """Rows of single energy bins."""
    chosen = [r for r in rows if r["selection"] != "all" and r["observable"] != "incident_energy"]
    samples = [s for s in dict.fromkeys(r["sample"] for r in chosen) if not s.startswith("floor_of_")]
    return _pivot(chosen, samples, lambda r: (f"{shown(r['observable'])}, {shown(r['metric'])}", r["selection"]))


def _pivot(rows: Sequence[Record], samples: Sequence[str], key: Any) -> Record:
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        lines.setdefault(key(row), {})[row["sample"]] = number(row["value"], row["error"])
    return {
        "samples": [shown(s) for s in samples],
        "lines": [{"labels": labels, "cells": [cells.get(s, "") for s in samples]} for labels, cells in lines.items()],
    }


def cost_page(cost: Mapping[str, Any] | None) -> Record:
    """Tables of text: what it cost, and showers per kWh; empty without any."""
    tables = []
    for title, rows in (("Cost", (cost or {}).get("rows")), ("Showers per kWh", (cost or {}).get("showers"))):
        if rows:
            header = list(dict.fromkeys(key for row in rows for key in row))
            cells = [["" if row.get(key) is None else flat(row[key])[0][1] for key in header] for row in rows]
            tables.append({"title": title, "header": [key.replace("_", " ") for key in header], "rows": cells})
    return {"tables": tables, "notes": list((cost or {}).get("notes", []))}


def facts(rows: Sequence[Record]) -> list[tuple[str, str]]:
    """What was compared with what, in numbers."""
    compared = [r for r in rows if r["selection"] == "all" and r["observable"] != "incident_energy"]
    if not compared:
        return []
    names = dict.fromkeys(r["sample"] for r in compared)
    samples = [s for s in names if s != "floor" and not s.startswith(("floor_of_", "fault_"))]
    return [
        ("reference", compared[0]["reference"]),
        ("showers a side", str(compared[0]["n"])),
        ("samples", ", ".join(shown(s) for s in samples) or "none"),
        ("metric rows", str(len(rows))),
    ]


def pretty(record: Any) -> str:
    """A record as indented JSON."""
    return json.dumps(record, indent=2, sort_keys=True)


def flat(record: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of a nested record; numbers with four digits."""
    if isinstance(record, Mapping):
        return [pair for key, value in record.items() for pair in flat(value, f"{prefix}{key} ")]
    text = f"{record:.4g}" if isinstance(record, float) else str(record)
    return [(prefix.strip().replace("_", " "), text)]
