"""The data path, measured: `make bench-data`.

In: raw files of two meshes and the sizes asked for (made once, see workloads.py). Out: benchmarks/results/data.json.
Each part of the path has a module with `rows(sizes_gb, repetitions)`; `--only` measures some of them and leaves
the other rows of the file as they are.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence

from measure import REPETITIONS, RESULTS, Row, write

PARTS = {
    "ingest": "data_ingest",
    "preprocess": "data_preprocess",
    "loader": "data_loader",
    "workflow": "data_workflow",
}


def merged(new: Sequence[Row], parts: Sequence[str]) -> list[Row]:
    """The new rows behind those of the file that belong to other parts of the path."""
    path = RESULTS / "data.json"
    old = json.loads(path.read_text()) if path.exists() else []
    return [row for row in old if row["part"] not in parts] + list(new)


def main() -> None:
    """Measure the parts asked for and write their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4], help="sizes of the raw files")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    for part in options.only:
        rows = importlib.import_module(PARTS[part]).rows(options.gigabytes, options.repetitions)
        write("data", merged([{"part": part, **row} for row in rows], [part]))


if __name__ == "__main__":
    main()
