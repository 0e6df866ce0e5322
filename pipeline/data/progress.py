"""How far a file is: a bar on a terminal, otherwise a line in the log each 10 %; showers and MB per second.

Progress goes to standard error (or `logging`), never into a result.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)
_STEP = 0.1
Advance = Callable[[int], None]


@contextmanager
def shower_progress(name: str, total: int, shower_bytes: int) -> Iterator[Advance]:
    """Yields `advance(n)`, called for each n showers done out of `total`; a shower counts `shower_bytes` raw bytes."""
    if sys.stderr.isatty():
        with _bar(name, total, shower_bytes) as advance:
            yield advance
        return
    start, done, said = time.monotonic(), 0, 0.0

    def log(n: int) -> None:
        nonlocal done, said
        done += n
        if done / total >= said + _STEP or done == total:
            said = done / total
            _LOG.info("%s: %.0f %%, %s", name, 100 * said, _speed(done, shower_bytes, time.monotonic() - start))

    yield log


def _speed(showers: int, shower_bytes: int, seconds: float) -> str:
    rate = showers / max(seconds, 1e-9)
    return f"{rate:,.0f} showers/s, {rate * shower_bytes / 1e6:,.0f} MB/s"


@contextmanager
def _bar(name: str, total: int, shower_bytes: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} showers"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    start, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, speed="")

        def advance(n: int) -> None:
            nonlocal done
            done += n
            bar.update(task, completed=done, speed=_speed(done, shower_bytes, time.monotonic() - start))

        yield advance
