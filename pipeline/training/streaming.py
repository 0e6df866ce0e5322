"""Batches of showers that do not fit into memory: random pieces of the parts, shuffled in windows.

A pass visits all pieces of all data sets in random order. Pieces that follow each other form a window of bounded
memory, whose showers are shuffled as one; two windows are in memory, one in use and one being read. Order and
windows depend on (seed, epoch), on the data and on the budget: any number of samples can be gone on from by reading
one window, and the batch there is a function of (seed, samples, data, budget) alone. Each rank reads all windows
and writes its slice. The showers of a window come from many pieces, but those of one piece stay within a window: it
is not the global shuffle of `loading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentSpec
from pipeline.data.stream import Piece
from pipeline.training.batches import Batch, Buffers
from pipeline.training.loading import draw_turns, share
from pipeline.training.sources import Source, write_batch
from pipeline.training.stored import PIECE_BYTES, StoredShowers

WINDOW_BYTES = 1 << 29
PIECES = 4  # at least, in a window; 64 where the budget allows
READERS = 4
_PIECE_ORDER, _SHOWER_ORDER = 2, 3
_NO_SYMMETRY = AugmentSpec()
Key = tuple[int, int]


@dataclass(frozen=True)
class _Pass:
    """The pieces of one pass in order, the window of each, and the showers before each window."""

    order: NDArray[np.int64]
    window: NDArray[np.int64]
    first: NDArray[np.int64]


@dataclass(frozen=True)
class _Window:
    """A shuffled window: its sources as they are being read; for each place the source, the row in it, the data set."""

    sources: list[Future[Source]]
    which: NDArray[np.int64]
    row: NDArray[np.int64]
    domain: NDArray[np.int64]


class StreamLoader:
    """Batches of data sets on disk, in at most `memory_gb` (1e9 bytes); data set i is domain i."""

    def __init__(
        self, stored: Sequence[StoredShowers], seed: int, augment: AugmentSpec = _NO_SYMMETRY, *, memory_gb: float
    ) -> None:
        """Reads the sizes of all showers, no hits."""
        self.stored, self.seed, self.augment, self.memory_gb = stored, seed, augment, memory_gb
        self._window_bytes = min(WINDOW_BYTES, int(memory_gb * 1e9 / 2.5))
        piece_bytes = min(PIECE_BYTES, self._window_bytes // PIECES)
        pieces = [(domain, piece) for domain, own in enumerate(stored) for piece in own.pieces(piece_bytes)]
        self._pieces: list[tuple[int, Piece]] = pieces
        self._showers = np.array([len(piece.rows) for _, piece in pieces])
        self._bytes = np.array([stored[domain].n_bytes[piece.places].sum() for domain, piece in pieces])
        self._passes: dict[int, _Pass] = {}
        self._windows: dict[Key, _Window] = {}
        self._readers: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return int(self._showers.sum())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) of a shower in network space."""
        return self.stored[0].transform.mesh.shape

    @property
    def order(self) -> dict[str, Any]:
        """The budget decides which pieces are shuffled together."""
        return {"mode": "stream", "memory_gb": self.memory_gb}

    # ---------------------------------------------------------------------------------- order

    def _pass(self, epoch: int) -> _Pass:
        if epoch not in self._passes:
            for old in sorted(self._passes)[:-1]:
                del self._passes[old]
            order = np.random.default_rng([self.seed, epoch, _PIECE_ORDER]).permutation(len(self._pieces))
            before = np.cumsum(self._bytes[order]) - self._bytes[order]
            window = np.unique(before // self._window_bytes, return_inverse=True)[1]
            first = np.concatenate([[0], np.cumsum(np.bincount(window, self._showers[order]))]).astype(np.int64)
            self._passes[epoch] = _Pass(order, window, first)
        return self._passes[epoch]

    def _spans(self, samples: int, batch_size: int) -> Iterator[tuple[Key, slice]]:
        """The windows that a batch is taken from, and which of their shuffled showers."""
        while batch_size:
            epoch, start = divmod(samples, len(self))
            first = self._pass(epoch).first
            window = int(np.searchsorted(first, start, side="right")) - 1
            begin, end = (
                start - int(first[window]),
                min(start + batch_size, int(first[window + 1])) - int(first[window]),
            )
            yield (epoch, window), slice(begin, end)
            samples, batch_size = samples + end - begin, batch_size - (end - begin)

    def _after(self, key: Key) -> Key:
        epoch, window = key
        return (epoch, window + 1) if window + 2 < len(self._pass(epoch).first) else (epoch + 1, 0)

    def _window(self, key: Key, readers: ThreadPoolExecutor) -> _Window:
        """A window whose pieces begin to be read now."""
        epoch, window = key
        plan = self._pass(epoch)
        pieces = plan.order[plan.window == window]
        sizes = self._showers[pieces]
        order = np.random.default_rng([self.seed, *key, _SHOWER_ORDER]).permutation(int(sizes.sum()))
        which = np.repeat(np.arange(len(sizes)), sizes)[order]
        row = order - (np.cumsum(sizes) - sizes)[which]
        chosen = [self._pieces[i] for i in pieces]
        domain = np.array([domain for domain, _ in chosen])[which]
        return _Window([readers.submit(self.stored[d].read, piece) for d, piece in chosen], which, row, domain)

    # -------------------------------------------------------------------------------- batches

    def training_batch(
        self, samples: int, batch_size: int, rank: int = 0, world: int = 1, into: Buffers | None = None
    ) -> Batch:
        """Rank's slice of the batch after `samples`."""
        return self.training_slice(samples, batch_size, share(batch_size, rank, world), into)

    def training_slice(self, samples: int, batch_size: int, own: slice, into: Buffers | None = None) -> Batch:
        """Some of the showers of the batch after `samples`."""
        spans = list(self._spans(samples, batch_size))
        self._keep([key for key, _ in spans])
        sources: list[Source] = []
        which, rows, domain = [], [], []
        for key, span in spans:
            window = self._windows[key]
            which.append(window.which[span] + len(sources))
            rows.append(window.row[span])
            domain.append(window.domain[span])
            sources += [future.result() for future in window.sources]
        domains = np.concatenate(domain)
        n_phi = [stored.stream.mesh.n_phi for stored in self.stored]
        turns = draw_turns(self.augment, domains, n_phi, self.seed, samples)
        into = into or Buffers.empty(own.stop - own.start, self.shape)
        chosen = np.concatenate(which)[own], np.concatenate(rows)[own]
        write_batch(sources, *chosen, turns and turns.take(own), into)
        into.domain.numpy()[:] = domains[own]
        return into.batch()

    def in_order(self, batch_size: int, limit: int | None = None, domain: int | None = None) -> Iterator[Batch]:
        """At most `limit` showers, always the same ones, from random pieces; without random symmetries."""
        stored = self.stored if domain is None else [self.stored[domain]]
        plain = StreamLoader(stored, 0, memory_gb=self.memory_gb)
        n = min(len(plain), limit or len(plain))
        try:
            for start in range(0, n, batch_size):
                batch = plain.training_batch(start, min(batch_size, n - start))
                batch.conditions.domain.add_(domain or 0)
                yield batch
        finally:
            plain.close()

    def close(self) -> None:
        """Stop reading and drop what was read."""
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
        self._readers, self._windows = None, {}

    def _keep(self, keys: Sequence[Key]) -> None:
        """Have these windows read, and the next one where that makes two; drop all others."""
        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="window")
        wanted = [*keys, self._after(keys[-1])] if len(keys) == 1 else list(keys)
        for key in self._windows.keys() - set(wanted):
            for future in self._windows.pop(key).sources:
                future.cancel()
        for key in wanted:
            if key not in self._windows:
                self._windows[key] = self._window(key, self._readers)
