"""The parts of the results page as text: what a template can lay out without computing.

In: plain records of the evaluation, of models and of measured costs; out: lists and dictionaries of strings, numbers
with the digits that their errors allow. Pages are `report`'s; what a number means is `pipeline.evaluation`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pipeline.config.adaptation import OLD_DATA, Prediction
from pipeline.figures.style import shown
from pipeline.figures.summary import LIGHTS, number, sigmas

Record = dict[str, Any]

_PREDICTED = (*get_args(Prediction), OLD_DATA)
_SYMBOLS = {r"\phi": "φ", r"\sigma": "σ", "_1": "₁", "_{90}": "₉₀", r"_\phi": "ᵩ", "^2": "²"}
_CLASSES = ("good", "fair", "poor")
_DIGEST = 12  # characters of a digest that are shown


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
    """Predictors of a label by selection (resolution, bias, pull width), and losses of runs on older data sets."""
    chosen = [r for r in rows if r["observable"] in _PREDICTED]
    samples = list(dict.fromkeys(r["sample"] for r in chosen))
    return _pivot(chosen, samples, lambda r: (r["selection"], r["metric"]))


def binned_table(rows: Sequence[Record]) -> Record:
    """Rows of single energy bins."""
    chosen = [r for r in rows if r["selection"] != "all" and r["observable"] not in _PREDICTED]
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


def facts(rows: Sequence[Record]) -> list[tuple[str, str]]:
    """What was compared with what, in numbers."""
    compared = [r for r in rows if r["selection"] == "all" and r["observable"] not in _PREDICTED]
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


# ------------------------------------------------------------------------------- lineage and cost


def lineage_tables(
    models: Mapping[str, Record], data: Mapping[str, Sequence[Record]], samples: Mapping[str, Sequence[Record]]
) -> Record:
    """What everything was made from, as rows of text; models, data and samples are records as their stages wrote them.

    data, samples: manifests of parts by data set and by sample.
    """
    return {
        "data": [[name, *_part_cells(part)] for name, parts in data.items() for part in parts],
        "models": [_model_cells(run, model) for run, model in models.items()],
        "samples": [[shown(name), *_part_cells(part)] for name, parts in samples.items() for part in parts],
    }


def _part_cells(part: Mapping[str, Any]) -> list[str]:
    source = part.get("source", {})
    shape = "×".join(str(n) for n in part.get("mesh", {}).get("cells", []))
    digests = (str(source.get("digest", "")), str(part.get("store_digest", "")))
    return [str(source.get("name", "")), str(part.get("n_showers", "")), shape, *digests]


def _model_cells(run: str, model: Mapping[str, Any]) -> list[str]:
    lineage = model.get("lineage", {})
    parents = {"start_from": lineage.get("parent"), **(lineage.get("model_parents") or {})}
    made_from = ", ".join(f"{role.replace('_', ' ')} {_parent(p)}" for role, p in parents.items() if p) or "scratch"
    data = ", ".join(f"{name} ({len(parts)} parts)" for name, parts in lineage.get("parts", {}).items())
    transforms = ", ".join(str(digest) for digest in lineage.get("transforms", {}).values())
    name = model.get("architecture", {}).get("model", {}).get("name", "")
    return [shown(run), str(name), made_from, data, transforms, str(model.get("weights_digest", ""))]


def _parent(parent: Any) -> str:
    """A parent run's name and the beginning of its digest."""
    if not isinstance(parent, Mapping):
        return str(parent)
    digest = next((str(v) for k, v in parent.items() if k.endswith("digest")), "")
    return f"{parent.get('run', '')} {digest[:_DIGEST]}".strip()


def cost_page(cost: Mapping[str, Any] | None) -> Record:
    """Tables of text: what it cost, and showers per kWh; empty without any."""
    tables = []
    for title, rows in (("Cost", (cost or {}).get("rows")), ("Showers per kWh", (cost or {}).get("showers"))):
        if rows:
            header = list(dict.fromkeys(key for row in rows for key in row))
            cells = [["" if row.get(key) is None else flat(row[key])[0][1] for key in header] for row in rows]
            tables.append({"title": title, "header": [key.replace("_", " ") for key in header], "rows": cells})
    return {"tables": tables, "notes": list((cost or {}).get("notes", []))}
