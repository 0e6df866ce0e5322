"""The tables of a paper: plain rows, written as CSV with every digit and as LaTeX with those the error allows.

In: metric rows and the records of what jobs took; out: `<name>.csv` and `<name>.tex` (booktabs, to be \\input).
Measured times come from `*.measured.json` files only and go to `*.measured.csv` and `.tex`: they differ each run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cost import cost_table
from pipeline.evaluation.comparisons import ROW_KEYS, Row
from pipeline.evaluation.published import published_table
from pipeline.evaluation.summary import summarise
from pipeline.figures.page import plain_text
from pipeline.figures.style import shown
from pipeline.figures.summary import number, sigmas
from pipeline.plan import Plan
from pipeline.provenance import atomic_path, read_json

Cells = Sequence[Sequence[Any]]
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "σ": r"$\sigma$", "–": "--"}
LONG = 40  # rows; a longer table goes over pages


@dataclass(frozen=True)
class PaperTable:
    """One table: header and rows as numbers for the CSV, the same or a narrower view as LaTeX text."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Cells
    latex_header: Sequence[str]
    latex_rows: Sequence[Sequence[str]]


def paper_tables(plan: Plan, rows: Sequence[Row]) -> list[PaperTable]:
    """All tables that there are rows for."""
    compared = [_summary(rows), _overview(rows), _predictions(rows), _metrics(rows), _published(plan, rows)]
    found = [*compared, _times(plan), _cost(plan)]
    return [table for table in found if table is not None and table.rows]


def write_table(table: PaperTable, folder: Path) -> list[Path]:
    """Write `<name>.csv` and `<name>.tex`; returns both paths."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.header, *(["" if cell is None else cell for cell in row] for row in table.rows)])
    written = {f"{table.name}.csv": text.getvalue(), f"{table.name}.tex": latex(table)}
    for name, content in written.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [folder / name for name in written]


def latex(table: PaperTable) -> str:
    """The table as LaTeX for the packages booktabs and, where it is long, longtable."""
    long = len(table.latex_rows) > LONG
    columns = "l" * len(table.latex_header)
    head = f"\\toprule\n{_line(table.latex_header)}\n\\midrule\n"
    body = "".join(f"{_line(row)}\n" for row in table.latex_rows)
    label = f"\\caption{{{table.caption}}}\\label{{tab:{table.name.replace('.', '-')}}}"
    if long:
        return (
            f"% needs \\usepackage{{booktabs,longtable}}\n\\begin{{longtable}}{{{columns}}}\n{label}\\\\\n"
            f"{head}\\endfirsthead\n{head}\\endhead\n\\bottomrule\n\\endfoot\n{body}\\end{{longtable}}\n"
        )
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n{label}\n\\begin{{tabular}}{{{columns}}}\n"
        f"{head}{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def escaped(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def measure(value: float | None, error: float | None = None) -> str:
    """A value with its error in LaTeX's mathematics; an empty cell for none."""
    if value is None:
        return ""
    text = number(value, error).replace("±", r"\pm")
    return f"${re.sub(r'e([+-]?)0*([0-9]+)$', _power, text)}$"


def _power(match: re.Match[str]) -> str:
    return rf" \times 10^{{{match[1].replace('+', '')}{match[2]}}}"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _name(sample: str) -> str:
    return escaped(shown(sample))


# ------------------------------------------------------------------------------- the tables


def _metrics(rows: Sequence[Row]) -> PaperTable:
    """Every metric row."""
    texts = [
        [
            *(_name(str(row[key])) for key in ("sample", "observable", "metric", "selection")),
            measure(row["value"], row["error"]),
            measure(row["floor"]),
            "" if row["sigma"] is None else f"${sigmas(row['sigma'])}$",
        ]
        for row in rows
    ]
    header = ["sample", "observable", "metric", "selection", "value", "floor", r"$\sigma$"]
    return PaperTable("metrics", "All metric rows.", ROW_KEYS, [[r[k] for k in ROW_KEYS] for r in rows], header, texts)


def _summary(rows: Sequence[Row]) -> PaperTable:
    """Observables x samples over all energies."""
    data = summarise(rows)
    header = ["group", "observable", "metric", "sample", "value", "error", "sigma", "n"]
    plain = [
        [
            line["group"],
            line["observable"],
            line["metric"],
            sample,
            *(cell[k] for k in ("value", "error", "sigma", "n")),
        ]
        for line in data["lines"]
        for sample, cell in line["cells"].items()
    ]
    texts = [
        [line["label"], *(_summary_cell(line["cells"].get(sample)) for sample in data["samples"])]
        for line in data["lines"]
    ]
    caption = r"Observables over all energies; in brackets the distance from the Geant4 floor in $\sigma$."
    return PaperTable("summary", caption, header, plain, ["observable", *map(_name, data["samples"])], texts)


def _summary_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    away = "" if cell["sigma"] is None else f" (${sigmas(cell['sigma'])}$)"
    return measure(cell["value"], cell["error"]) + away


def _overview(rows: Sequence[Row]) -> PaperTable:
    """Samples and known faults x groups of observables: the farthest of each group."""
    data = summarise(rows)
    plain: list[list[Any]] = []
    texts: list[list[str]] = []
    for row in data["overview"]:
        cells = [row["cells"].get(group) or {"sigma": None, "of": ""} for group in data["groups"]]
        plain += [
            [row["kind"], row["sample"], group, cell["sigma"], plain_text(cell["of"])]
            for group, cell in zip(data["groups"], cells, strict=True)
        ]
        known = [f"${sigmas(c['sigma'])}$, {c['of']}" if c["sigma"] is not None else "" for c in cells]
        texts.append([escaped(row["label"]), *known])
    caption = (
        r"Of each group the observable farthest from the Geant4 floor, in $\sigma$; known faults below the samples."
    )
    return PaperTable(
        "overview", caption, ["kind", "sample", "group", "sigma", "observable"], plain, ["", *data["groups"]], texts
    )


def _predictions(rows: Sequence[Row]) -> PaperTable:
    """Predictors of the incident energy."""
    chosen = [row for row in rows if row["observable"] == "incident_energy"]
    header = ["sample", "metric", "selection", "value", "error", "n"]
    texts = [[*(_name(str(r[k])) for k in header[:3]), measure(r["value"], r["error"]), f"{r['n']}"] for r in chosen]
    plain = [[row[key] for key in header] for row in chosen]
    return PaperTable(
        "predictions", "Predictors of the incident energy.", header, plain, [*header[:3], "value", "showers"], texts
    )


def _published(plan: Plan, rows: Sequence[Row]) -> PaperTable | None:
    """The CaloChallenge's published rows beside ours, where they can be set side by side."""
    data = published_table(plan.config, rows)
    if data is None:
        return None
    header = ["model", *data["columns"], "source"]
    plain = [[*row, data["source"]] for row in data["published"]] + [[*row, "here"] for row in data["ours"]]
    texts = [
        [escaped("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)) for cell in row]
        for row in [*data["published"], *data["ours"]]
    ]
    return PaperTable(
        "published", escaped(data["title"]), header, plain, [escaped(shown(h)) for h in header[:-1]], texts
    )


def _times(plan: Plan) -> PaperTable:
    """What training and generation took, as recorded when they ran; the file stands beside each number."""
    rows = []
    for path in measured_records(plan):
        for name, value in sorted(read_json(path).items()):
            if isinstance(value, int | float | str):
                rows.append([path.relative_to(plan.paths.results).as_posix(), name, value])
    texts = [
        [
            escaped(of.removesuffix(".measured.json")),
            escaped(shown(name)),
            measure(value) if isinstance(value, float) else escaped(str(value)),
        ]
        for of, name, value in rows
    ]
    caption = "Measured when training and generation ran; not reproduced to the byte."
    return PaperTable(
        "times.measured", caption, ["record", "quantity", "value"], rows, ["", "quantity", "value"], texts
    )


def measured_records(plan: Plan) -> list[Path]:
    """What training and generation recorded of their own cost."""
    folders = (plan.paths.results / stage for stage in ("train", "generate"))
    return sorted(path for folder in folders for path in folder.rglob("*.measured.json"))


def _cost(plan: Plan) -> PaperTable | None:
    """Core hours, GPU hours and energy by run, sample and stage, from the records of all jobs."""
    rows = cost_table(plan)["rows"]
    if not any(row["jobs"] for row in rows):
        return None
    header = list(dict.fromkeys(key for row in rows for key in row))
    plain = [[row.get(key) for key in header] for row in rows]
    texts = [
        [measure(c) if isinstance(c, float) else escaped("" if c is None else str(c)) for c in row] for row in plain
    ]
    caption = "What the jobs cost, as recorded when they ran; not reproduced to the byte."
    return PaperTable("cost.measured", caption, header, plain, [escaped(shown(key)) for key in header], texts)
