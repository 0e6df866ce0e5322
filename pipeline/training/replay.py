"""Batches of new showers among which old ones are replayed, so that what was learned before is not forgotten.

In: two loaders, of the new data sets and of those that a run before this one was trained on. Out: `Batch`, of whose
showers `share` are old (experience replay, arXiv:1811.11682). They are spread evenly: shower c of the training is old
where floor((c + 1) share) is above floor(c share), so any row of n showers holds n share of them within one, the
slice of a rank included. Each side goes through its own showers in its own order; a batch is a function of (seed,
samples) as those of the two loaders are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training.batches import Batch, Buffers
from pipeline.training.loading import Batches, share


@dataclass(frozen=True)
class Replay:
    """Both sides and the share of `old`; `of_new`, `of_old`: which data set of the run each of a side's domains is."""

    new: Batches
    old: Batches
    share: float
    of_new: tuple[int, ...]
    of_old: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.new) + len(self.old)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) of a shower in network space."""
        return self.new.shape

    def is_old(self, samples: int, n: int) -> NDArray[np.bool_]:
        """(n,) which of the showers after `samples` are replayed."""
        counts = np.floor(np.arange(samples, samples + n + 1) * self.share)
        old: NDArray[np.bool_] = np.diff(counts) > 0
        return old

    def training_batch(
        self, samples: int, batch_size: int, rank: int = 0, world: int = 1, into: Buffers | None = None
    ) -> Batch:
        """Rank's slice of the batch after `samples`; a function of (seed, samples) alone."""
        return self.training_slice(samples, batch_size, share(batch_size, rank, world), into)

    def training_slice(self, samples: int, batch_size: int, own: slice, into: Buffers | None = None) -> Batch:
        """Some of the showers of the batch after `samples`."""
        old = self.is_old(samples, batch_size)
        before = int(np.floor(samples * self.share))
        into = into or Buffers.empty(own.stop - own.start, self.shape)
        sides = (self.new, ~old, samples - before, self.of_new), (self.old, old, before, self.of_old)
        for loader, chosen, seen, domains in sides:
            places = np.flatnonzero(chosen[own])
            if len(places):
                first = int(chosen[: own.start].sum())
                part = loader.training_slice(seen, int(chosen.sum()), slice(first, first + len(places)))
                into.put(places, part, domains)
        return into.batch()

    def in_order(self, batch_size: int, limit: int | None = None, domain: int | None = None) -> Iterator[Batch]:
        """At most `limit` showers, always the same ones, data set by data set."""
        left = len(self) if limit is None else limit
        for which in sorted((*self.of_new, *self.of_old)) if domain is None else [domain]:
            loader, domains = (self.new, self.of_new) if which in self.of_new else (self.old, self.of_old)
            for batch in loader.in_order(batch_size, left, domains.index(which)) if left else ():
                batch.conditions.domain.fill_(which)
                left -= len(batch)
                yield batch

    def close(self) -> None:
        """Stop what runs in the background."""
        self.new.close()
        self.old.close()

    @property
    def order(self) -> dict[str, Any]:
        """That of both sides; the share stands in the run's spec."""
        return {"mode": "replay", "new": self.new.order, "old": self.old.order}
