"""Published results as a reference table beside ours: the official rows of the CaloChallenge.

In: the evaluation's mesh and our metric rows; out: a table of plain values. The numbers lie in
`calochallenge_results.json` and are quoted, never computed. Source: CaloChallenge, arXiv:2410.21611.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.evaluation.comparisons import Row

RESULTS = Path(__file__).with_name("calochallenge_results.json")
OURS = {
    "fpd_1e3": ("features", "fpd", 1e3),
    "auc_low": ("classifier", "auc_low", 1.0),
    "auc_high": ("classifier", "auc_high", 1.0),
    "auc_cnn": ("classifier", "auc_cnn", 1.0),
}  # published column: our observable, metric and the factor between them
COLUMNS = ("parameters_million", *OURS, "gpu_ms_batch_1", "gpu_ms_batch_100", "cpu_ms_batch_1", "cpu_ms_batch_100")


def calochallenge_results() -> dict[str, Any]:
    """The whole file: source, caption, data sets, rows, acceptance bands."""
    content: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return content


def published_dataset(config: Config) -> str | None:
    """`ds2` or `ds3`: what the configuration names, else the one on whose mesh the evaluation is; None otherwise."""
    if config.evaluation is None:
        return None
    if config.evaluation.published is not None:
        return config.evaluation.published.removeprefix("calochallenge_")
    cells = config.raw_mesh(config.evaluation.reference).cells
    mesh = [n // f for n, f in zip(cells, config.evaluation.rebin, strict=True)]
    return next((name for name, data in calochallenge_results()["data"].items() if data["mesh"] == mesh), None)


def published_table(config: Config, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Published rows of the data set, then our samples with what can be set beside them; None where nothing fits."""
    dataset = published_dataset(config)
    if dataset is None:
        return None
    content = calochallenge_results()
    theirs = [
        [row["model"], *(row[column] for column in COLUMNS)] for row in content["rows"] if row["dataset"] == dataset
    ]
    known = {(row["sample"], row["observable"], row["metric"]): row for row in rows if row["selection"] == "all"}
    ours = []
    for sample in ["floor", *config.samples]:
        found = {c: known.get((sample, observable, metric)) for c, (observable, metric, _) in OURS.items()}
        if any(found.values()):
            values = [_scaled(found.get(column), OURS[column][2]) if column in OURS else None for column in COLUMNS]
            ours.append([sample, *values])
    return {
        "title": f"Published: CaloChallenge {content['data'][dataset]['name']}",
        "source": content["source"],
        "caption": content["caption"],
        "columns": list(COLUMNS),
        "published": theirs,
        "ours": ours,
        "acceptance": content["acceptance"],
    }


def _scaled(row: Row | None, factor: float) -> float | None:
    return None if row is None or row["value"] is None else float(row["value"]) * factor
