"""Raw files straight to ragged showers, block by block, on many threads, in the order and to the bit of `Reader.read`.

In: a reader, its description of a file, the row blocks wanted. Out: `RaggedShowers` in visible MeV. Where a block's
chunks can be read beside the HDF5 library (`chunks.py`), the cells above zero are taken chunk by chunk, as 64-bit
keys (row 16 bits, cell 16 bits, energy 32 bits) that one sort per band of rows puts in order; dense showers are never
made. Everything else, a block with an odd chunk or an impossible value included, goes through `Reader.read`, which
decides and whose errors are the ones raised. A few blocks are in work at a time: memory follows neither the file's
size nor, beyond one block each, the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.data.formats.chunks import ChunkIndex, OddChunk, strides_of
from pipeline.data.formats.hdf5 import open_raw
from pipeline.data.formats.reader import Description, Labels, Reader, Voxels

_MOST = 1 << 16  # cells of a mesh, rows of a block: what 16 bits of a key number
_BAND_BYTES = 32 << 20
_AHEAD_BYTES = 32 << 20
_TASK_CHUNKS = 32
_PIECE = 1 << 17  # values looked at together: they stay in a core's cache
_ROW, _CELL = np.uint64(48), np.uint64(32)

Keys = NDArray[np.uint64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Direct:
    """A data set whose chunks are read directly, and the descriptor of its file."""

    file: int
    voxels: Voxels
    index: ChunkIndex

    def holds(self, rows: slice) -> bool:
        return bool(self.voxels.first <= rows.start and rows.stop <= self.voxels.first + self.voxels.n_showers)

    @property
    def in_order(self) -> bool:
        """Whether hits come out of the chunks in the order of cells: whole rows, and the mesh's own order."""
        return self.voxels.cells is None and self.index.chunk[1:] == self.index.shape[1:]


class RaggedReader(Generic[T]):
    """Reads blocks of a raw file as ragged showers; a context, which holds the file and the threads."""

    def __init__(
        self,
        reader: Reader,
        description: Description,
        labels: Labels,
        threads: int,
        then: Callable[[RaggedShowers], T],
        wanted: NDArray[np.bool_] | None = None,
    ) -> None:
        """A reader of one described file, whose labels are read; nothing is opened before the context is entered.

        `then` is called for each piece on the thread that made it; `blocks` yields what it returns.
        `wanted`: (shower,) which showers to keep, default all; a block without one is not read.
        """
        self.reader, self.description, self.labels, self.threads = reader, description, labels, threads
        self.then, self.path = then, description.path
        self.wanted = np.ones(description.n_showers, bool) if wanted is None else wanted
        self._stack = contextlib.ExitStack()
        self._direct: list[_Direct] = []

    def __enter__(self) -> RaggedReader[T]:
        """Locate all chunks, start the threads."""
        if self.description.mesh.n_cells <= _MOST and sys.byteorder == "little":
            self._locate()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ingest")
        self._stack.callback(self._pool.shutdown, cancel_futures=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads, close the file."""
        self._stack.close()

    def _locate(self) -> None:
        file = os.open(self.path, os.O_RDONLY)
        self._stack.callback(os.close, file)
        with open_raw(self.path) as handle:
            for voxels in self.reader.voxels(self.path, self.description):
                index = ChunkIndex.of(handle[voxels.key])
                if index is not None:
                    self._direct.append(_Direct(file, voxels, index))

    def blocks(self, rows: Sequence[slice]) -> Iterator[T]:
        """The showers of the row ranges, in order, in pieces; raises `FormatError`."""
        waiting: deque[_Block[T]] = deque()
        for block in rows:
            if not self.wanted[block].any():
                continue
            waiting.append(self._start(block))
            while waiting and sum(b.nbytes for b in waiting) > self.threads * _AHEAD_BYTES:
                yield from self._finish(waiting.popleft())
        while waiting:
            yield from self._finish(waiting.popleft())

    # ------------------------------------------------------------------------------- one block

    def _start(self, rows: slice) -> _Block[T]:
        mesh = self.description.mesh
        block: _Block[T] = _Block(rows, (rows.stop - rows.start) * mesh.n_cells * 4)
        direct = next((d for d in self._direct if d.holds(rows)), None)
        if direct is not None and rows.stop - rows.start < _MOST and _possible(self.labels, rows):
            with contextlib.suppress(OddChunk):
                own = slice(rows.start - direct.voxels.first, rows.stop - direct.voxels.first)
                chunks = direct.index.of_rows(own.start, own.stop)
                step = max(1, _BAND_BYTES // (4 * mesh.n_cells))
                block.direct = direct
                block.edges = [*range(0, rows.stop - rows.start, step), rows.stop - rows.start]
                block.tasks = [
                    self._pool.submit(_keys_of, direct, own.start, some, block.edges) for some in _shared(chunks)
                ]
        if block.direct is None:
            block.dense = self._pool.submit(self._read, rows)
        return block

    def _finish(self, block: _Block[T]) -> list[T]:
        if block.dense is not None:
            return [block.dense.result()]
        try:
            pieces = [task.result() for task in block.tasks]
            block.tasks.clear()
            bands = [
                self._pool.submit(self._band, block, i, [keys for p in pieces for keys in p[i]]) for i in block.bands
            ]
            del pieces
            return [band.result() for band in bands]
        except OddChunk:
            return [self._read(block.rows)]

    def _read(self, rows: slice) -> T:
        sparse = getattr(self.reader, "read_ragged", None)  # a layout that is sparse itself
        if sparse is not None:
            return self.then(sparse(self.path, self.description, rows))
        return self._kept(rows, RaggedShowers.from_dense(self.reader.read(self.path, self.description, rows)))

    def _kept(self, rows: slice, showers: RaggedShowers) -> T:
        if not self.wanted[rows].all():
            showers = showers.take(np.flatnonzero(self.wanted[rows]))
        return self.then(showers)

    def _band(self, block: _Block[T], i: int, pieces: list[Keys]) -> T:
        """Some rows of a block from the keys of all its chunks."""
        assert block.direct is not None
        low, high = block.edges[i], block.edges[i + 1]
        keys = np.concatenate([np.zeros(0, np.uint64), *pieces])
        pieces.clear()
        if block.direct.voxels.cells is not None:
            cell = keys.view(np.uint16)[2::4]
            cell[:] = block.direct.voxels.cells.astype(np.uint16)[cell]
        if not block.direct.in_order:
            keys.sort()
        row_size = np.diff(np.searchsorted(keys, np.arange(low, high + 1, dtype=np.uint64) << _ROW))
        rows = slice(block.rows.start + low, block.rows.start + high)
        cell, energy = keys.view(np.uint16)[2::4].copy(), keys.view(np.float32)[0::2].copy()
        return self._kept(rows, self._showers(rows, row_size, cell, energy))

    def _showers(
        self, rows: slice, row_size: NDArray[np.int64], cell: NDArray[np.uint16], energy: NDArray[np.float32]
    ) -> RaggedShowers:
        known, labels = self.description, self.labels
        if known.to_visible != 1:
            energy *= np.float32(known.to_visible)
        lowest, highest = (energy.min(), energy.max()) if len(energy) else (1, 1)
        if not (lowest > 0 and highest < np.inf):
            if not (lowest >= 0 and highest < np.inf):
                raise OddChunk(f"rows {rows.start} to {rows.stop}: an impossible energy")
            keep = energy > 0  # a negative zero, or a product below the smallest float
            row_size = np.add.reduceat(np.append(keep, False), np.cumsum(row_size) - row_size, dtype=np.int64) * (
                row_size > 0
            )
            cell, energy = cell[keep], energy[keep]
        return RaggedShowers(
            row_size,
            cell,
            energy,
            labels.incident_energy[rows],
            labels.theta[rows],
            labels.phi[rows],
            known.mesh,
            known.detector,
            known.particle,
        )


class _Block(Generic[T]):
    """A row range in work: its tasks, or one task that reads it dense."""

    def __init__(self, rows: slice, nbytes: int) -> None:
        self.rows, self.nbytes = rows, nbytes
        self.direct: _Direct | None = None
        self.dense: Future[T] | None = None
        self.edges: list[int] = []
        self.tasks: list[Future[list[list[Keys]]]] = []

    @property
    def bands(self) -> range:
        """The numbers of the bands of rows."""
        return range(len(self.edges) - 1)


def _possible(labels: Labels, rows: slice) -> bool:
    incident = labels.incident_energy[rows]
    finite = all(np.isfinite(values[rows]).all() for values in (labels.incident_energy, labels.theta, labels.phi))
    return bool(finite and (incident > 0).all())


def _shared(chunks: range) -> list[range]:
    """The chunks in groups of at most 32, each the work of one task."""
    return [chunks[i : i + _TASK_CHUNKS] for i in range(0, len(chunks), _TASK_CHUNKS)]


def _keys_of(direct: _Direct, start: int, chunks: range, edges: Sequence[int]) -> list[list[Keys]]:
    """The keys of the values that are not zero in some chunks of the block that begins at row `start`, by band."""
    strides = strides_of(direct.index.shape[1:])
    bounds = np.array(edges[1:-1], np.uint64) << _ROW
    bands: list[list[Keys]] = [[] for _ in edges[1:]]
    for row, voxel, values in direct.index.read(direct.file, chunks):
        step = max(1, _PIECE // (values.size // len(values)))
        for first in range(0, len(values), step):
            keys = _keys_at(values[first : first + step], strides, row - start + first, voxel)
            ends = [0, *(keys.searchsorted(bounds).tolist() if len(bounds) else ()), len(keys)]
            for band, low, high in zip(bands, ends[:-1], ends[1:], strict=True):
                if low < high:
                    band.append(keys[low:high])
    return bands


def _keys_at(values: NDArray[np.float32], strides: tuple[int, ...], row: int, voxel: int) -> Keys:
    """The keys of the values that are not zero in a piece of a chunk which begins at a row and voxel."""
    bits = values.reshape(-1).view(np.uint32)
    hits = (bits != 0).nonzero()[0]
    keys: Keys = _places(values.shape, strides)[hits]
    keys += np.uint64((row << 48) + (voxel << 32))
    keys |= bits[hits]
    return keys


@functools.lru_cache(maxsize=64)
def _places(shape: tuple[int, ...], strides: tuple[int, ...]) -> Keys:
    """The keys, but for the energy, of all values of a chunk at the origin; (values,)."""
    place = np.zeros(shape, np.uint64)
    for axis, (n, stride) in enumerate(zip(shape, (1 << 16, *strides), strict=True)):
        along = np.arange(n, dtype=np.uint64) * np.uint64(stride)
        place += along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return (place << _CELL).reshape(-1)
