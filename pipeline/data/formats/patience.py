"""Ends a process that the HDF5 library does not come back to.

In some damaged files the library follows a list in a circle, for ever and holding Python's lock, so that no thread,
no signal handler and no Ctrl-C gets through. Then the process ends with status 1 and `Timeout` and a traceback on
stderr: the job fails like any other, and the others go on. The clock starts anew at each opening of a file.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 900.0
"""How long one opening, or one block, may take: more than a slow file system needs."""

_counting = threading.Lock()
_inside = 0


@contextmanager
def patience() -> Iterator[None]:
    """A block of calls of the library, on any number of threads, none of which may take longer than `PATIENCE_S`."""
    global _inside
    if sys.__stderr__ is None:
        yield
        return
    with _counting:
        _inside += 1
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        with _counting:
            _inside -= 1
            if not _inside:
                faulthandler.cancel_dump_traceback_later()
