"""A progress bar on a terminal, and nothing anywhere else; `rich` is optional."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, float], None]


@contextmanager
def progress_bar(name: str, total: int, start: int) -> Iterator[Advance]:
    """Yields `advance(samples, loss)`; a bar on standard error when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda samples, loss: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda samples, loss: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} showers"),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=start, loss=float("nan"))
        yield lambda samples, loss: bar.update(task, completed=samples, loss=loss)
