"""Tables of the commands: drawn by rich on a terminal, plain aligned text where something else reads the output."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below a header; columns whose entries are all numbers stand to the right."""
    if sys.stdout.isatty():
        _rich(title, header, rows)
        return
    print(title)
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    right = [_numeric([row[i] for row in rows]) for i in range(len(header))]
    for line in lines:
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        print(f"  {'  '.join(cells)}".rstrip())
    print()


def _rich(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if _numeric([row[i] for row in rows]) else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table, markup=False)
    console.print()


def _numeric(cells: Sequence[str]) -> bool:
    return bool(cells) and all(not cell or cell[0].isdigit() for cell in cells)


def size(n_bytes: float) -> str:
    """A size as people write it: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """A time as people write it: 4.2 s, 12 min, 3.1 h."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 3600 else f"{seconds / 3600:.2g} h"
