"""Which showers a batch holds: their order, their random symmetries, and the share of each rank.

In: sources that hold all showers of each data set in memory. Out: `Batch`. The order is a permutation of all showers
that depends on (seed, epoch), the symmetries depend on (seed, samples seen): the batch after `samples` showers is a
function of these alone. Rank r of R writes its slice of that batch; the slices of all ranks in a row are the batch.
`streaming` does the same for data that do not fit, in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AugmentSpec
from pipeline.training.batches import Batch, Buffers, Turns
from pipeline.training.sources import Source, write_batch

_NO_SYMMETRY = AugmentSpec()


class Batches(Protocol):
    """Where training and validation take their batches from; showers of data set i have domain i."""

    def __len__(self) -> int:
        """Showers in one pass."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) of a shower in network space."""

    def training_batch(
        self, samples: int, batch_size: int, rank: int = 0, world: int = 1, into: Buffers | None = None
    ) -> Batch:
        """Rank's slice of the batch that follows after `samples` showers have been seen by all ranks."""

    def training_slice(self, samples: int, batch_size: int, own: slice, into: Buffers | None = None) -> Batch:
        """Some of the showers of that batch."""

    def in_order(self, batch_size: int, limit: int | None = None, domain: int | None = None) -> Iterator[Batch]:
        """At most `limit` showers, always the same ones, without random symmetries; of one data set if asked."""

    def close(self) -> None:
        """Stop what runs in the background."""

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the showers depends on besides seed and data; part of a run's identity."""


@dataclass(frozen=True)
class Loader:
    """Batches over sources in memory; source i is domain i."""

    sources: Sequence[Source]
    seed: int
    augment: AugmentSpec = _NO_SYMMETRY
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) of a shower in network space."""
        return self.sources[0].shape

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        return np.cumsum([0] + [len(source) for source in self.sources])

    def rows(self, samples: int, batch_size: int) -> NDArray[np.int64]:
        """The showers that follow after `samples` have been seen: one pass after another, each in its own order."""
        pieces, n = [], len(self)
        while batch_size:
            epoch, start = divmod(samples, n)
            pieces.append(self._order(epoch)[start : start + batch_size])
            samples, batch_size = samples + len(pieces[-1]), batch_size - len(pieces[-1])
        return np.concatenate(pieces)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The showers of one pass; the newest two passes are kept."""
        if epoch not in self._orders:
            for old in sorted(self._orders)[:-1]:
                del self._orders[old]
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        return self._orders[epoch]

    def batch(self, rows: NDArray[np.int64], turns: Turns | None = None, into: Buffers | None = None) -> Batch:
        """The showers at `rows` (numbered through all sources), in that order."""
        into = into or Buffers.empty(len(rows), self.shape)
        which = np.searchsorted(self._first, rows, side="right") - 1
        write_batch(self.sources, which, rows - self._first[which], turns, into)
        into.domain.numpy()[:] = which
        return into.batch()

    def training_batch(
        self, samples: int, batch_size: int, rank: int = 0, world: int = 1, into: Buffers | None = None
    ) -> Batch:
        """Rank's slice of the batch after `samples`; a function of (seed, samples) alone."""
        return self.training_slice(samples, batch_size, share(batch_size, rank, world), into)

    def training_slice(self, samples: int, batch_size: int, own: slice, into: Buffers | None = None) -> Batch:
        """Some of the showers of the batch after `samples`; their symmetries are drawn with the whole batch's."""
        rows = self.rows(samples, batch_size)
        which = np.searchsorted(self._first, rows, side="right") - 1
        n_phi = [source.mesh.n_phi for source in self.sources]
        turns = draw_turns(self.augment, which, n_phi, self.seed, samples)
        return self.batch(rows[own], turns and turns.take(own), into)

    def in_order(self, batch_size: int, limit: int | None = None, domain: int | None = None) -> Iterator[Batch]:
        """The first `limit` showers in stored order, of all data sets or of one, without random symmetries."""
        first, end = (0, len(self)) if domain is None else self._first[domain : domain + 2].tolist()
        end = end if limit is None else min(end, first + limit)
        for start in range(first, end, batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, end)))

    def close(self) -> None:
        """Nothing runs in the background."""

    @property
    def order(self) -> dict[str, Any]:
        """The global order depends on nothing else."""
        return {"mode": "memory"}


def share(batch_size: int, rank: int, world: int) -> slice:
    """Which showers of a batch are rank's; ValueError when they cannot be shared equally."""
    if not 0 <= rank < world or batch_size % world:
        raise ValueError(
            f"rank {rank} of {world}: expected a batch that all ranks can share equally, got {batch_size} showers; "
            "change training.batch_size"
        )
    own = batch_size // world
    return slice(rank * own, (rank + 1) * own)


def draw_turns(
    augment: AugmentSpec, domain: NDArray[np.integer], n_phi: Sequence[int], seed: int, samples: int
) -> Turns | None:
    """The random symmetries of the batch after `samples`, None when the run asks for none."""
    if not (augment.rotate_phi or augment.reflect_phi):
        return None
    return Turns.draw(augment, domain, n_phi, [seed, samples, 1])
