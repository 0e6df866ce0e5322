"""The showers of one data set that a run is trained on, while they still lie on disk.

In: parts and which of their rows, and the fitted transform. Out: how much memory they need, which decides between
`Loader` and `StreamLoader`, and sources: all showers in memory, or one piece of a part. A piece is read, transformed
and put in its place before the next, so memory follows the showers that are kept and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.calorimeter.showers import index_dtype
from pipeline.data.store import Choice, Part, places_by_part
from pipeline.data.stream import Piece, ShowerStream
from pipeline.data.transforms import Transform
from pipeline.training.batches import Buffers
from pipeline.training.dense_source import BYTES_PER_CELL, DenseSource
from pipeline.training.sources import RaggedSource, ReadySource, Source, StoreSource, prefix_source

PIECE_BYTES = 1 << 23  # several compressed chunks of a part, for those at its ends are read in vain


@dataclass(frozen=True)
class StoredShowers:
    """Chosen showers of parts on one mesh; `from_prefix`: the parts hold the recipe's prefix, not raw showers."""

    parts: tuple[Part, ...]
    choice: Choice
    transform: Transform
    from_prefix: bool

    def __len__(self) -> int:
        return len(self.choice.row)

    @cached_property
    def stream(self) -> ShowerStream:
        """The same showers, to be read; `StoreError` when parts are of different meshes, detectors or particles."""
        return ShowerStream.chosen(self.parts, self.choice)

    @cached_property
    def n_hits(self) -> NDArray[np.int64]:
        """Hits of each shower."""
        sizes = np.empty(len(self), dtype=np.int64)
        for part, own in self._of_parts:
            sizes[own] = part.row_size[self.choice.row[own]]
        return sizes

    @cached_property
    def _of_parts(self) -> list[tuple[Part, NDArray[np.int64]]]:
        """The parts that hold some of the showers, and the places of these."""
        places = places_by_part(self.choice.part, len(self.parts))
        return [(part, own) for part, own in zip(self.parts, places, strict=True) if len(own)]

    @cached_property
    def n_bytes(self) -> NDArray[np.int64]:
        """Memory of each shower as a source holds it: cells, values, layer energies, labels."""
        mesh = self.stream.mesh
        return self.n_hits * (index_dtype(mesh).itemsize + 4) + 4 * mesh.n_z + 64

    def pieces(self, n_bytes: int = PIECE_BYTES) -> list[Piece]:
        """What is read together, about `n_bytes` of memory each."""
        return self.stream.pieces(max(1, int(n_bytes / self.n_bytes.mean())))

    def source(self, showers: RaggedShowers) -> RaggedSource:
        """Some of the showers, ready to be written into batches."""
        if self.from_prefix:
            return prefix_source(showers, self.parts[0].fill, self.transform)
        return StoreSource(showers, self.transform)

    def read(self, piece: Piece) -> RaggedSource:
        """The showers of a piece."""
        return self.source(self.stream.block(piece))

    @property
    def dense_bytes(self) -> int:
        """Memory of all showers as `DenseSource` holds them."""
        mesh = self.transform.mesh
        return len(self) * (BYTES_PER_CELL * mesh.n_cells + 4 * mesh.n_z + 64)

    def in_memory(self, dense: bool = False) -> Source:
        """All showers, in the order of the choice; `dense` only for showers of the prefix."""
        return self._dense() if dense else self._ragged()

    def _dense(self) -> DenseSource:
        held = Buffers.empty(len(self), self.transform.mesh.shape)
        for piece in self.pieces():
            source = self.read(piece)
            source.write(np.arange(len(source)), piece.places, None, held)
        return DenseSource(held, self.transform.mesh)

    def _ragged(self) -> Source:
        offsets = np.concatenate([[0], np.cumsum(self.n_hits)])
        cell = np.empty(offsets[-1], dtype=index_dtype(self.stream.mesh))
        energy = np.empty(offsets[-1], dtype=np.float32)
        layer_energy = np.empty((len(self), self.stream.mesh.n_z), dtype=np.float32)
        source, distinct = self.source(self.parts[0].read(slice(0, 0))), True
        for piece in self.pieces():
            source = self.read(piece)
            own = source.showers
            starts, ends = own.offsets[:-1].tolist(), own.offsets[1:].tolist()
            for place, start, stop in zip(offsets[piece.places].tolist(), starts, ends, strict=True):
                cell[place : place + stop - start] = own.cell[start:stop]
                energy[place : place + stop - start] = own.energy[start:stop]
            if isinstance(source, ReadySource):
                layer_energy[piece.places] = source.layer_energy
                distinct &= source.distinct
        labels: dict[str, Any] = {name: self._label(name) for name in ("incident_energy", "theta", "phi")}
        showers = replace(source.showers, row_size=self.n_hits, cell=cell, energy=energy, **labels)
        if isinstance(source, ReadySource):
            return ReadySource(showers, layer_energy, source.empty, distinct)
        return self.source(showers)

    def _label(self, name: str) -> NDArray[np.float32]:
        values = np.empty(len(self), dtype=np.float32)
        for part, own in self._of_parts:
            values[own] = getattr(part, name)[self.choice.row[own]]
        return values

    @property
    def theta(self) -> NDArray[np.float32]:
        """Polar angle of each shower, rad."""
        return self._label("theta")


def total_bytes(stored: Sequence[StoredShowers]) -> int:
    """Memory of all showers of all data sets."""
    return sum(int(showers.n_bytes.sum()) for showers in stored)
