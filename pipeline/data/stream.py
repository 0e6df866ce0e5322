"""Showers in blocks: a chosen set of showers of many parts that is never in memory at once.

In: parts (or showers in memory) and which of their rows; out: blocks of `RaggedShowers` in visible MeV, rebinned and
cut as asked, each with the places of its showers in the stream's own order. Blocks follow the parts' rows, for rows
scattered over compressed chunks are read once that way; whoever reduces blocks puts them back by their places.
The blocks are the same however many threads read them. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import SplitSpec
from pipeline.data.store import Choice, Half, Part, SplitName, StoreError, held_out_rows, places_by_part, training_rows

_MOST_ROWS_READ = 4  # rows of a part that one block may span, per shower asked for


class Source(Protocol):
    """What a stream reads from: a `Part`, or showers in memory."""

    @property
    def mesh(self) -> CylinderMesh:
        """The mesh of the showers."""

    @property
    def detector(self) -> str:
        """Name of the detector."""

    @property
    def particle(self) -> str:
        """Name of the particle."""

    @property
    def incident_energy(self) -> NDArray[Any]:
        """Incident energies, shape (shower,), MeV."""

    @property
    def theta(self) -> NDArray[Any]:
        """Polar angles, shape (shower,), rad."""

    def read(self, rows: slice) -> RaggedShowers:
        """A range of showers in file order."""


@dataclass(frozen=True)
class InMemory:
    """Showers in memory as a source."""

    showers: RaggedShowers

    @property
    def mesh(self) -> CylinderMesh:
        """The mesh of the showers."""
        return self.showers.mesh

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return self.showers.detector

    @property
    def particle(self) -> str:
        """Name of the particle."""
        return self.showers.particle

    @property
    def incident_energy(self) -> NDArray[Any]:
        """Incident energies, shape (shower,), MeV."""
        return self.showers.incident_energy

    @property
    def theta(self) -> NDArray[Any]:
        """Polar angles, shape (shower,), rad."""
        return self.showers.theta

    def read(self, rows: slice) -> RaggedShowers:
        """A range of showers."""
        return self.showers.take(np.arange(*rows.indices(len(self.showers))))


@dataclass(frozen=True)
class Piece:
    """Showers of one part that are read together: `rows` of it, ascending, and their `places` in the stream."""

    part: int
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True)
class ShowerStream:
    """Chosen showers, in an order of their own.

    part, row: (shower,) which part and which of its rows; factors: cells summed along (r, phi, z); threshold_mev:
    cells below it are dropped. Raises `StoreError` when the parts are of different meshes, detectors or particles.
    """

    parts: tuple[Source, ...]
    part: NDArray[np.int64]
    row: NDArray[np.int64]
    factors: tuple[int, int, int] = (1, 1, 1)
    threshold_mev: float = 0.0

    def __post_init__(self) -> None:
        kinds = {(str(p.mesh), p.detector, p.particle) for p in self.parts}
        if len(kinds) != 1:
            raise StoreError(
                f"stream of showers: expected parts of one mesh, detector and particle, got {sorted(kinds)}; "
                "keep them in different data sets"
            )

    @classmethod
    def of(cls, source: Source | RaggedShowers) -> ShowerStream:
        """All showers of a part, or in memory, in their order."""
        if isinstance(source, RaggedShowers):
            source = InMemory(source)
        n = len(source.incident_energy)
        return cls((source,), np.zeros(n, np.int64), np.arange(n))

    @classmethod
    def chosen(cls, parts: Sequence[Source], choice: Choice) -> ShowerStream:
        """Chosen rows of parts, in the order of the choice."""
        return cls(tuple(parts), choice.part, choice.row)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def mesh(self) -> CylinderMesh:
        """The mesh of the blocks."""
        return self.parts[0].mesh.rebinned(self.factors)

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return self.parts[0].detector

    @property
    def particle(self) -> str:
        """Name of the particle."""
        return self.parts[0].particle

    @property
    def incident_energy(self) -> NDArray[np.float64]:
        """Incident energies, shape (shower,), MeV."""
        return self._column([p.incident_energy for p in self.parts])

    @property
    def theta(self) -> NDArray[np.float64]:
        """Polar angles, shape (shower,), rad."""
        return self._column([p.theta for p in self.parts])

    def _column(self, columns: list[NDArray[Any]]) -> NDArray[np.float64]:
        values = np.empty(len(self))
        for column, own in zip(columns, places_by_part(self.part, len(columns)), strict=True):
            values[own] = column[self.row[own]]
        return values

    def take(self, rows: NDArray[np.integer]) -> ShowerStream:
        """The showers at these places, in that order."""
        return replace(self, part=self.part[rows], row=self.row[rows])

    def first(self, n: int) -> ShowerStream:
        """At most n showers from the start; of showers in order of their hash, a random choice."""
        return replace(self, part=self.part[:n], row=self.row[:n])

    def rebin(self, factors: tuple[int, int, int]) -> ShowerStream:
        """Groups of cells summed in every block; comes before `cut`. ValueError when they do not divide the mesh."""
        if self.threshold_mev > 0:
            raise ValueError("stream of showers: expected rebin before cut, got a stream that is cut; swap them")
        both = tuple(a * b for a, b in zip(self.factors, factors, strict=True))
        self.parts[0].mesh.rebinned((both[0], both[1], both[2]))
        return replace(self, factors=(both[0], both[1], both[2]))

    def cut(self, threshold_mev: float) -> ShowerStream:
        """Hits below the threshold dropped in every block."""
        return replace(self, threshold_mev=max(threshold_mev, self.threshold_mev))

    def pieces(self, showers: int) -> list[Piece]:
        """What is read together: at most `showers` of a part, from at most four times as many of its rows."""
        pieces = []
        for i, places in enumerate(places_by_part(self.part, len(self.parts))):
            places = places[np.argsort(self.row[places], kind="stable")]
            rows, start = self.row[places], 0
            while start < len(rows):
                reach = int(np.searchsorted(rows, rows[start] + _MOST_ROWS_READ * showers))
                stop = min(start + showers, reach)
                pieces.append(Piece(i, rows[start:stop], places[start:stop]))
                start = stop
        return pieces

    def block(self, piece: Piece) -> RaggedShowers:
        """The showers of a piece, rebinned and cut."""
        first, last = int(piece.rows[0]), int(piece.rows[-1])
        showers = self.parts[piece.part].read(slice(first, last + 1))
        if len(showers) != len(piece.rows) or (np.diff(piece.rows) != 1).any():
            keep = np.zeros(len(showers), dtype=bool)
            keep[piece.rows - first] = True
            once = np.count_nonzero(keep) == len(piece.rows)
            showers = showers.where(keep) if once else showers.take(piece.rows - first)
        return (
            showers.rebin(self.factors).cut(self.threshold_mev) if self.threshold_mev else showers.rebin(self.factors)
        )

    def blocks(self, showers: int) -> Iterator[tuple[NDArray[np.int64], RaggedShowers]]:
        """Places and showers of every block, one after another."""
        for piece in self.pieces(showers):
            yield piece.places, self.block(piece)

    def read(self) -> RaggedShowers:
        """All showers at once, in the stream's order; memory follows their number."""
        places, blocks = zip(*self.blocks(2048), strict=True) if len(self) else ((), ())
        if not blocks:
            return self.parts[0].read(slice(0, 0)).rebin(self.factors)
        return RaggedShowers.concatenate(blocks).take(np.argsort(np.concatenate(places), kind="stable"))


def held_out_stream(parts: Sequence[Part], splits: SplitSpec, half: Half, n: int) -> ShowerStream:
    """The n test showers of a half with the smallest hashes, in order of their hash; see `store.held_out`."""
    return ShowerStream.chosen(parts, held_out_rows(parts, splits, half, n))


def training_stream(
    parts: Sequence[Part], splits: SplitSpec, split: SplitName = "train", limit: int | None = None
) -> ShowerStream:
    """The showers of a split in order of their hash; see `store.training_set`."""
    return ShowerStream.chosen(parts, training_rows(parts, splits, split, limit))
