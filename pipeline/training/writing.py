"""Writes checkpoints while the training goes on: a copy of the state, then a thread.

In: states as copies on the CPU. At most one is being written; the next waits for it. An error of the thread is raised
at the next save or at the end; leaving the context waits until what was given is on disk, also behind an error.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.provenance import is_leftover
from pipeline.training.checkpoint import save_checkpoint

log = logging.getLogger(__name__)


class CheckpointWriter:
    """A context that saves the states of one run into `folder` and keeps the newest `keep`."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Nothing is written yet."""
        self._folder, self._keep = folder, keep
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def __enter__(self) -> CheckpointWriter:
        """Remove what dead processes left half written."""
        for path in self._folder.glob(".*.tmp"):
            if is_leftover(path):
                path.unlink(missing_ok=True)
        return self

    def save(self, samples: int, state: Mapping[str, Any]) -> None:
        """Begin to write the state after `samples` showers; nobody may change it any more."""
        self._wait()
        self._thread = threading.Thread(target=self._write, args=(samples, state), name="checkpoint")
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for the last one; its error is raised, or logged behind another."""
        if error is None:
            self._wait()
        elif self._thread is not None:
            self._thread.join()
            if self._failed is not None:
                log.error("%s: the last checkpoint was not written: %s", self._folder, self._failed)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            raise self._failed

    def _write(self, samples: int, state: Mapping[str, Any]) -> None:
        try:
            save_checkpoint(self._folder, samples, state, self._keep)
        except BaseException as error:  # handed to the training
            self._failed = error
