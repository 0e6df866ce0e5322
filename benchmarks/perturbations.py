"""The perturbation study as a page: `make study-perturbations` runs the experiment and then this.

Reads results/perturbations/metrics.json; checks the claims, writes their table and the table of reactions between the
marks of docs/perturbations.md, with date and machine, copies the summary figure, and writes
benchmarks/results/perturbations.json. Exit status 1 when a claim does not hold.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from measure import machine, quoted

from pipeline.evaluation.perturbations import PERTURBATIONS
from pipeline.evaluation.summary import summarise
from pipeline.figures.page import plain_text
from pipeline.figures.summary import number, sigmas

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "results" / "perturbations"
PAGE = ROOT / "docs" / "perturbations.md"
FIGURE = ROOT / "docs" / "images" / "perturbations.png"
RESULTS = ROOT / "benchmarks" / "results" / "perturbations.json"
CLASSIFIERS = ("auc_small_cells", "auc_small_features")
INVARIANT_SIGMA = 3.0
Cells = dict[str, dict[str, Any]]


def every_metric(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for every metric over all energies: those of the summary first, then the others."""
    lines = list(summarise(rows)["lines"])
    known = {(line["observable"], line["metric"]) for line in lines}
    cells: dict[tuple[str, str], Cells] = {}
    for row in rows:
        what = row["observable"], row["metric"]
        if row["selection"] == "all" and what not in known and row["value"] is not None:
            cells.setdefault(what, {})[row["sample"]] = {k: row[k] for k in ("value", "error", "n", "sigma")}
    others = {what: found for what, found in cells.items() if "floor" in found}
    names = {what: f"{what[1]}, {what[0]}".replace("_", " ") for what in others}
    return lines + [{"metric": what[1], "label": names[what], "cells": found} for what, found in others.items()]


def claims(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the study must show: text, measured, holds."""
    cells: dict[str, Cells] = {line["metric"]: line["cells"] for line in lines}
    aucs = {name: {c: cells[c][name] for c in CLASSIFIERS} for name in ("floor", "exchanged_cells", "dropped_layer")}
    rows = []
    for name, asked in (("exchanged_cells", 0.8), ("dropped_layer", 0.95)):
        best = max(aucs[name].values(), key=lambda cell: cell["value"])
        rows.append((f"{PERTURBATIONS[name].label}: AUC > {asked:g}", _shown(best), best["value"] > asked))
    for classifier, cell in aucs["floor"].items():
        text = f"Geant4 against Geant4, {classifier}: within two errors of .5"
        rows.append((text, _shown(cell), abs(cell["value"] - 0.5) <= 2 * cell["error"]))
    for name, perturbation in PERTURBATIONS.items():
        found = {line["label"]: line["cells"][name]["sigma"] for line in lines if name in line["cells"]}
        if perturbation.invariant and found:
            worst = max(found, key=lambda label: abs(found[label] or 0.0))
            text = f"{perturbation.label}: every line within {INVARIANT_SIGMA:g} sigma of the floor"
            measured = f"{sigmas(found[worst] or 0.0)} σ ({plain_text(worst)})"
            rows.append((text, measured, abs(found[worst] or 0.0) < INVARIANT_SIGMA))
    return [{"claim": text, "measured": measured, "holds": bool(holds)} for text, measured, holds in rows]


def _shown(cell: dict[str, Any]) -> str:
    return f"{number(cell['value'], cell['error'])} (n = {cell['n']})"


def reactions(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: metrics x perturbations in sigma above the floor, beside the floor's value."""
    names = [name for name in PERTURBATIONS if any(name in line["cells"] for line in lines)]
    head = ["metric", "floor", *(PERTURBATIONS[name].label for name in names)]
    rows = []
    for line in lines:
        floor = line["cells"]["floor"]
        found = [line["cells"].get(name, {}).get("sigma") for name in names]
        strong = [("" if s is None else f"**{sigmas(s)}**" if s >= 5 else sigmas(s)) for s in found]
        rows.append([plain_text(line["label"]), number(floor["value"], floor["error"]), *strong])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def page(found: Sequence[dict[str, Any]], table: str, made: str) -> str:
    """The page with everything between its marks replaced."""
    lines = [f"| {row['claim']} | {row['measured']} | {'yes' if row['holds'] else '**no**'} |" for row in found]
    parts = {
        "made": made,
        "claims": "\n".join(["| claim | measured | holds |", "|---|---|---|", *lines]),
        "table": table,
    }
    return quoted(PAGE.read_text(encoding="utf-8"), parts)


def main() -> int:
    """Check, write, and say what does not hold."""
    rows = json.loads((STUDY / "metrics.json").read_text())
    lines = every_metric(rows)
    found = claims(lines)
    n = max(row["n"] for row in rows if row["sample"] == "floor" and row["observable"] == "classifier")
    made = f"`make study-perturbations`, {date.today().isoformat()}, {machine()}; {n} showers a side."
    PAGE.write_text(page(found, reactions(lines), made), encoding="utf-8")
    FIGURE.parent.mkdir(exist_ok=True)
    shutil.copy(STUDY / "figures" / "summary.png", FIGURE)
    RESULTS.parent.mkdir(exist_ok=True)
    content = {"date": date.today().isoformat(), "machine": machine(), "showers": n, "claims": found, "lines": lines}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for row in found:
        print(f"{'holds ' if row['holds'] else 'FAILS '} {row['claim']:70} {row['measured']}")
    return 0 if all(row["holds"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
