"""Builds the next batches in a background thread while the current one is used.

The bits of a batch are those that the loader gives without it. Memory is bounded: a batch is written into one of
`AHEAD` + 1 sets of buffers, so it is valid until the next one is asked for. An error in the thread is raised where
the batch is asked for; leaving the context ends the thread.
"""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from types import TracebackType

from pipeline.training.batches import Batch, Buffers
from pipeline.training.loading import Batches, share

AHEAD = 2


class Prefetcher:
    """A context that gives the batches from `start` to `stop` samples in turn.

    Each batch holds `batch_size` samples over all ranks, of which this rank gets its slice. `pinned` keeps the
    buffers page-locked, for copies to a GPU. `waited_seconds` is how long batches were waited for.
    """

    def __init__(
        self,
        loader: Batches,
        start: int,
        stop: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        pinned: bool = False,
    ) -> None:
        """Nothing is read before the context is entered."""
        self._loader, self._next, self._stop, self._batch_size = loader, start, stop, batch_size
        self._rank, self._world = rank, world
        own = share(batch_size, rank, world)
        self._buffers = [Buffers.empty(own.stop - own.start, loader.shape, pinned) for _ in range(AHEAD + 1)]
        self._free: SimpleQueue[Buffers | None] = SimpleQueue()
        self._ready: SimpleQueue[tuple[Buffers, Batch] | BaseException] = SimpleQueue()
        self._in_use: Buffers | None = None
        self._failed: BaseException | None = None
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._work, args=(start,), name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        """Start to build the first batches."""
        for buffers in self._buffers:
            self._free.put(buffers)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the thread, behind the batch that it is building."""
        while not self._free.empty():
            self._free.get()
        self._free.put(None)
        self._thread.join()

    def training_batch(self, samples: int, batch_size: int) -> Batch:
        """The batch after `samples`, valid until the next call; they must be asked for in turn, up to `stop`."""
        if self._failed is not None:
            raise self._failed
        if (samples, batch_size) != (self._next, self._batch_size) or samples >= self._stop:
            raise ValueError(
                f"prefetch: expected to be asked for {self._batch_size} showers after {self._next}, before "
                f"{self._stop}, got {batch_size} after {samples}; start another Prefetcher"
            )
        if self._in_use is not None:
            self._free.put(self._in_use)
        asked = time.monotonic()
        found = self._ready.get()
        self.waited_seconds += time.monotonic() - asked
        if isinstance(found, BaseException):
            self._failed = found
            raise found
        self._in_use, batch = found
        self._next += batch_size
        return batch

    def _work(self, samples: int) -> None:
        try:
            while samples < self._stop and (buffers := self._free.get()) is not None:
                batch = self._loader.training_batch(samples, self._batch_size, self._rank, self._world, buffers)
                self._ready.put((buffers, batch))
                samples += self._batch_size
        except BaseException as error:  # handed to whoever asks for the batch
            self._ready.put(error)
