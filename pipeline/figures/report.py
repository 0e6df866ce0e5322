"""The page one reads first: one self-contained HTML file with summary, figures, numbers, configuration, lineage.

In: plain records and the figures' PNGs beside their PDFs; out: report.html, which works from disk, loads nothing from
anywhere, and escapes everything it shows. PDFs are linked relative to the page. Measured times are shown, so the page
itself is outside digests; everything else in it is deterministic.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.figures import CATEGORIES
from pipeline.figures.captions import CAPTIONS
from pipeline.figures.page import (
    binned_table,
    cost_page,
    facts,
    flat,
    legend_entries,
    lineage_tables,
    overview_table,
    prediction_table,
    pretty,
    published_page,
    summary_table,
)
from pipeline.figures.style import shown
from pipeline.provenance import atomic_path

Record = dict[str, Any]

_WIDE = {
    "summary",
    "energy_response",
    "moments",
    "shower_images",
    "shower_unrolled",
    "shower_space",
    "average_showers",
    "front",
    "pulls",
    "energy_prediction",
    "training_curves",
    "angular_dependence",
    "attention",
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
    models: Mapping[str, Any] | None = None,
    data: Mapping[str, Sequence[Record]] | None = None,
    samples: Mapping[str, Sequence[Record]] | None = None,
    showers: Mapping[str, Any] | None = None,
    measured: Mapping[str, Any] | None = None,
    quarantined: Sequence[Mapping[str, str]] = (),
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write the page; `figures` maps names to PDFs whose PNGs lie beside them, in the order of the page.

    summary: what `pipeline.evaluation.summary.summarise` returns; published: what `published_table` does; notes: lines
    by sample; models: what each run recorded of itself; data, samples: manifests of parts by name; showers: what
    `showers.in_space` returns; measured: any JSON-able records by name; quarantined: data set, path and reason of
    each raw file that was refused and left out; cost: what `pipeline.cost.cost_table` returns.
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
        lineage=lineage_tables(models or {}, data or {}, samples or {}),
        models={name: pretty(record) for name, record in (models or {}).items()},
        showers=dict(showers or {}),
        cost=cost_page(cost),
        quarantined=list(quarantined),
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
            "numbers": _relative(Path(pdf).with_suffix(".json"), folder / "report.html"),
        }
        categories.setdefault(CATEGORIES.get(name, "Figures"), []).append(record)
    return [
        {"name": name, "anchor": name.lower().replace(" ", "-"), "figures": members}
        for name, members in categories.items()
    ]


def _relative(pdf: Path, page: Path) -> str:
    """The PDF as seen from the page."""
    return Path(os.path.relpath(pdf, Path(page).parent)).as_posix()
