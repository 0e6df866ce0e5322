"""The paper of an experiment: all that a co-author or referee needs, in one folder, each number linked to its data.

`write_paper(plan)` writes `results/<experiment>/paper/`: the figures (PDF), tables (CSV, LaTeX), HEPData tables (YAML),
the configuration, the lock, and last `figures.json`, which links every figure and table to what it was made from and
holds the digest of every file behind them. Nothing is drawn, compared or measured here; what was measured (times) is
copied from recorded files into `*.measured.*`, which no digest covers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.evaluation.summary import gather
from pipeline.paper.hepdata import write_submission
from pipeline.paper.record import paper_record
from pipeline.paper.tables import paper_tables, write_table
from pipeline.plan import Plan
from pipeline.provenance import atomic_path, read_json, write_json

FOLDERS = ("figures", "tables", "hepdata")


def write_paper(plan: Plan) -> Path:
    """Write the paper's folder anew and return its `figures.json`; all else must have been made before.

    Raises ProvenanceError naming the first record that is missing.
    """
    paths = plan.paths
    folder = paths.paper.parent
    paths.paper.unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    drawn = [copy(paths.figure(figure), folder / "figures") for figure in plan.figures()]
    rows = read_json(paths.metrics) if plan.config.evaluation else []
    tables = {table.name: write_table(table, folder / "tables") for table in paper_tables(plan, rows)}
    evaluations = gather(plan.config, [paths.evaluation(subject) for subject in plan.subjects()])
    submitted = write_submission(evaluations, {pdf.stem: paths.figure(pdf.stem) for pdf in drawn}, folder / "hepdata")
    own = [*drawn, *(path for written in tables.values() for path in written), *submitted, *_configuration(plan)]
    write_json(paths.paper, paper_record(plan, own, tables))
    return paths.paper


def copy(path: Path, folder: Path) -> Path:
    """The file's copy in the folder, whole or not at all."""
    with atomic_path(folder / path.name) as temporary:
        shutil.copyfile(path, temporary)
    return folder / path.name


def _configuration(plan: Plan) -> Sequence[Path]:
    """The configuration as it was given, so that it runs, and the lock where there is one."""
    folder = plan.paths.paper.parent
    content: dict[str, Any] = plan.config.model_dump(mode="json", exclude_unset=True)
    with atomic_path(folder / "configuration.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    lock = folder / "lock.json"
    lock.unlink(missing_ok=True)
    if plan.config.data_lock is None:
        return [folder / "configuration.yaml"]
    with atomic_path(lock) as temporary:
        shutil.copyfile(plan.config.data_lock, temporary)
    return [folder / "configuration.yaml", lock]
