"""Showers of one data set held dense, as a batch holds them: loading is a copy.

In: any source of the showers, written once into buffers of all of them. Out: the same batches, bit for bit, for 5 bytes
of memory per cell instead of 6 per hit; `StoredShowers.in_memory` takes it where the budget allows. Symmetries in phi
turn the network's cells, which is right where the recipe commutes with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh
from pipeline.data.compute import default_threads
from pipeline.training.batches import Buffers, Turns
from pipeline.training.sources import Rows

BYTES_PER_CELL = 5  # a value and whether it is a hit
_BYTES_PER_THREAD = 1 << 23  # less is copied before a thread has begun
Pairs = Sequence[tuple[NDArray[Any], NDArray[Any]]]  # what is held, and the memory of a batch


@dataclass(frozen=True)
class DenseSource:
    """n showers on the network's `mesh` as `held` buffers."""

    held: Buffers
    mesh: CylinderMesh

    def __len__(self) -> int:
        return len(self.held.theta)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells (r, phi, z) in network space."""
        return self.mesh.shape

    def write(self, rows: Rows, places: Rows, turns: Turns | None, into: Buffers) -> None:
        """A copy of each shower, in one go where they are all of the batch."""
        whole = turns is None and len(places) == len(into.theta)  # places ascend, so they are 0, 1, ...
        for name in ("layer_energy", "incident_energy", "theta"):
            getattr(into, name).numpy()[places] = getattr(self.held, name).numpy()[rows]
        pairs = [(getattr(self.held, name).numpy(), getattr(into, name).numpy()) for name in ("values", "hit")]
        if whole:
            _copied(pairs, rows)
            return
        for own, batch in pairs:
            if turns is not None:
                _turned(own, rows, places, turns, batch)
            else:
                for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                    batch[place] = own[row]


def _copied(pairs: Pairs, rows: Rows) -> None:
    """The showers at `rows`, in that order, in threads where they are large: one core cannot fill the bus."""
    n = max(1, min(default_threads(), sum(batch.nbytes for _, batch in pairs) // _BYTES_PER_THREAD))

    def piece(i: int) -> None:
        some = slice(i * len(rows) // n, (i + 1) * len(rows) // n)
        for own, batch in pairs:
            np.take(own, rows[some], axis=0, out=batch[some], mode="clip")

    if n == 1:
        piece(0)
        return
    with ThreadPoolExecutor(n) as pool:
        others = [pool.submit(piece, i) for i in range(1, n)]
        piece(0)
        for other in others:
            other.result()


def _turned(own: NDArray[np.generic], rows: Rows, places: Rows, turns: Turns, batch: NDArray[np.generic]) -> None:
    """Each shower (r, phi, z) mirrored, then moved by `shift` cells in phi."""
    chosen = zip(rows.tolist(), places.tolist(), turns.mirror.tolist(), turns.shift.tolist(), strict=True)
    for row, place, mirror, shift in chosen:
        shower = own[row, :, ::-1] if mirror else own[row]
        batch[place, :, shift:] = shower[:, : shower.shape[1] - shift]
        batch[place, :, :shift] = shower[:, shower.shape[1] - shift :]
