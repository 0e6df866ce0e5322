"""The data path, measured: `make bench-data`.

In: raw files of two meshes and the sizes asked for (made once, see workloads.py). Out: benchmarks/results/data.json,
and its table between the marks of docs/data-path.md.
Each part of the path has a module with `rows(sizes_gb, repetitions)`; `--only` measures some of them and leaves
the other rows of the file as they are.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from measure import REPETITIONS, RESULTS, Row, quoted, write
from workloads import MESHES

PAGE = Path(__file__).parents[1] / "docs" / "data-path.md"

PARTS = {
    "ingest": "data_ingest",
    "preprocess": "data_preprocess",
    "loader": "data_loader",
    "workflow": "data_workflow",
}
UNITS = {"x": "×", "showers/s": "/s"}


def merged(new: Sequence[Row], parts: Sequence[str]) -> list[Row]:
    """The new rows behind those of the file that belong to other parts of the path."""
    path = RESULTS / "data.json"
    old = json.loads(path.read_text()) if path.exists() else []
    return [row for row in old if row["part"] not in parts] + list(new)


def table(rows: Sequence[Row], part: str) -> str:
    """The rows of a part of the path as Markdown: a line for each name and size, a column for each mesh."""
    own = [row for row in rows if row["part"] == part]
    meshes = [mesh for mesh in MESHES if any(row["workload"].startswith(mesh) for row in own)]
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in own:
        mesh = next((mesh for mesh in meshes if row["workload"].startswith(mesh)), "")
        about = row["workload"].removeprefix(f"{mesh}, ")
        cells = lines.setdefault((row["name"], about, row["against"] or ""), {})
        cells[mesh] = f"{_digits(row['value'])} {UNITS.get(row['unit'], row['unit'])}"
    head = ["row", "workload", *(meshes or [""]), "against"]
    body = [
        [f"`{name}`", about, *(cells.get(mesh, "") for mesh in meshes or [""]), against]
        for (name, about, against), cells in lines.items()
    ]
    made = sorted({f"{row['date']}, {row['machine']}" for row in own})
    text = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join([*text, "", f"Measured {'; '.join(made)}."])


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def main() -> None:
    """Measure the parts asked for and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4], help="sizes of the raw files")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    for part in options.only:
        rows = importlib.import_module(PARTS[part]).rows(options.gigabytes, options.repetitions)
        every = merged([{"part": part, **row} for row in rows], [part])
        write("data", every)
        PAGE.write_text(quoted(PAGE.read_text(encoding="utf-8"), {part: table(every, part)}), encoding="utf-8")


if __name__ == "__main__":
    main()
