"""Raw chunks of an HDF5 data set, read and decompressed beside the HDF5 library, which has one lock for all threads.

In: a chunked data set of IEEE floats behind no filter, gzip, shuffle, or both. Out: the values of a chunk, native
float32, without its padding. `chunk_iter` lists where chunks lie, `os.pread` reads them, libdeflate inflates them to
their declared size and not a byte more. Whatever is not understood is `OddChunk`, never an answer: the library
decides then. Source: HDF5 file format specification 3.0, IV.A.2.l (filters) and VII.A (chunk indexing).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import deflate
import h5py
import numpy as np
from numpy.typing import NDArray

_GZIP, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
_LARGEST_CHUNK = 128 << 20
_LARGEST_READ = 4 << 20
Buffer = memoryview | bytearray | NDArray[np.uint8]
_FLOATS = {
    np.dtype("<f4"): h5py.h5t.IEEE_F32LE,
    np.dtype(">f4"): h5py.h5t.IEEE_F32BE,
    np.dtype("<f8"): h5py.h5t.IEEE_F64LE,
    np.dtype(">f8"): h5py.h5t.IEEE_F64BE,
}


class OddChunk(Exception):
    """A chunk, or a value in it, that the HDF5 library and the reader must decide about."""


@dataclass(frozen=True, eq=False)
class ChunkIndex:
    """Where the n chunks of one data set lie in its file.

    origin: (n, axis) first index of each chunk, ordered by rows and then by place in the file;
    address, size: (n,) bytes; skipped: (n,) bit i set where the i-th filter was not applied.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[np.floating]
    filters: tuple[int, ...]
    zero_fill: bool
    origin: NDArray[np.int64]
    address: NDArray[np.int64]
    size: NDArray[np.int64]
    skipped: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> ChunkIndex | None:
        """The index of a data set, None when its chunks must be left to the HDF5 library."""
        properties = dataset.id.get_create_plist()
        filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
        float_type = _FLOATS.get(dataset.dtype)
        if (
            dataset.chunks is None
            or dataset.file.userblock_size
            or filters not in ((), (_GZIP,), (_SHUFFLE,), (_SHUFFLE, _GZIP))
            or float_type is None
            or not dataset.id.get_type().equal(float_type)
            or math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK
        ):
            return None
        found: list[tuple[int, ...]] = []
        dataset.id.chunk_iter(
            lambda chunk: found.append((*chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask))
        )
        if max(map(max, found), default=0) >= 1 << 62:
            return None
        table = np.array(found, np.int64).reshape(len(found), dataset.ndim + 3)
        if not _sound(table, dataset.shape, dataset.chunks):
            return None
        table = table[np.lexsort((table[:, -3], table[:, 0]))]
        written = properties.get_fill_time() != h5py.h5d.FILL_TIME_NEVER
        return cls(
            shape=dataset.shape,
            chunk=dataset.chunks,
            dtype=dataset.dtype,
            filters=filters,
            zero_fill=bool(written and dataset.fillvalue == 0),
            origin=np.ascontiguousarray(table[:, :-3]),
            address=table[:, -3].copy(),
            size=table[:, -2].copy(),
            skipped=table[:, -1].copy(),
        )

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of a decompressed chunk."""
        return math.prod(self.chunk) * self.dtype.itemsize

    def of_rows(self, start: int, stop: int) -> range:
        """The numbers of the chunks of whole rows of chunks; `OddChunk` when one that holds no zeros is missing."""
        first, last = np.searchsorted(self.origin[:, 0], [start, stop])
        per_row = math.prod(-(-n // c) for n, c in zip(self.shape[1:], self.chunk[1:], strict=True))
        whole = start % self.chunk[0] == 0 and (stop % self.chunk[0] == 0 or stop == self.shape[0])
        complete = last - first == per_row * -(-(stop - start) // self.chunk[0])
        if not whole or not (complete or self.zero_fill):
            raise OddChunk(f"rows {start} to {stop}")
        return range(int(first), int(last))

    def read(self, file: int, chunks: range) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """First row, first voxel of a row in C order, and values without padding, of each chunk; values are contiguous.

        `file` is a descriptor open for reading.
        """
        origin = self.origin[chunks.start : chunks.stop]
        shapes = np.minimum(self.chunk, self._shape - origin).tolist()
        voxels = (origin[:, 1:] @ np.array(strides_of(self.shape[1:]), np.int64)).tolist()
        for row, voxel, shape, data in zip(origin[:, 0].tolist(), voxels, shapes, self._raw(file, chunks), strict=True):
            values = np.frombuffer(data, self.dtype).reshape(self.chunk)
            if (inside := tuple(shape)) != self.chunk:
                values = values[tuple(map(slice, inside))]
            if self.dtype != np.float32:
                with np.errstate(over="ignore"):
                    values = values.astype(np.float32)
            yield row, voxel, np.ascontiguousarray(values)

    def _raw(self, file: int, chunks: range) -> Iterator[Buffer]:
        """The decompressed bytes of each chunk; neighbours in the file are read together."""
        part = slice(chunks.start, chunks.stop)
        runs: list[list[tuple[int, int, int]]] = []
        length = 0
        for piece in zip(*(a[part].tolist() for a in (self.address, self.size, self.skipped)), strict=True):
            address, size, _ = piece
            if size > 2 * self.nbytes + 4096:
                raise OddChunk(f"a chunk of {size} bytes")
            if not runs or address != sum(runs[-1][-1][:2]) or length + size > _LARGEST_READ:
                runs, length = [*runs, []], 0
            runs[-1].append(piece)
            length += size
        for run in runs:
            first, length = run[0][0], sum(size for _, size, _ in run)
            try:
                data = memoryview(os.pread(file, length, first))
            except OSError as error:
                raise OddChunk(f"a chunk: {error}") from None
            if len(data) != length:
                raise OddChunk("a chunk behind the end of the file")
            for address, size, skipped in run:
                yield self._undone(data[address - first : address - first + size], skipped)

    def _undone(self, data: Buffer, skipped: int) -> Buffer:
        for position in reversed(range(len(self.filters))):
            if not skipped >> position & 1:
                undo = self._inflate if self.filters[position] == _GZIP else self._unshuffle
                data = undo(data)
        if len(data) != self.nbytes:
            raise OddChunk(f"a chunk of {len(data)} bytes")
        return data

    @functools.cached_property
    def _shape(self) -> NDArray[np.int64]:
        return np.array(self.shape)

    def _inflate(self, data: Buffer) -> bytearray:
        try:
            return deflate.zlib_decompress(data, self.nbytes)
        except deflate.DeflateError as error:
            raise OddChunk(str(error)) from None

    def _unshuffle(self, data: Buffer) -> NDArray[np.uint8]:
        width = self.dtype.itemsize
        if len(data) != self.nbytes:
            raise OddChunk(f"{len(data)} shuffled bytes")
        planes = np.frombuffer(data, np.uint8).reshape(width, -1)
        return np.ascontiguousarray(planes.T).reshape(-1)


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The distance in C order between neighbours along each axis."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _sound(table: NDArray[np.int64], shape: tuple[int, ...], chunk: tuple[int, ...]) -> bool:
    """Whether each chunk lies at a place of its own inside the data set; in a damaged file some may not."""
    origin, grid = table[:, :-3], [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    if (table < 0).any() or (origin % chunk).any() or (origin >= shape).any():
        return False
    places = np.sort(np.ravel_multi_index(tuple((origin // chunk).T), grid))
    return bool((np.diff(places) > 0).all())
