"""Columns of hits in the shards of a Zarr v3 array, compressed and written, or read, without the library in between.

In: values as they arrive. Out: the same bytes that zarr writes for chunks of 2^18 values in shards of 2^23 (Zarr v3
core, "sharding_indexed": chunks, then an index of offset and size for each, then its CRC-32C), compressed in threads
while the next values are made. A shard of zeros alone, which zarr leaves out, is written: a missing one is lost. A
column of a single chunk has no shards and is left to zarr, as are arrays of any other layout. Nothing is synced here:
`make_durable` does that. Compressed is by lz4 behind a shuffle: hardly larger than zstd, and faster both ways.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numcodecs.blosc
import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

CHUNK = 1 << 18
SHARD = 1 << 23
_ABSENT = 2**64 - 1
_CODEC: Literal["lz4"] = "lz4"
_LEVEL = 5


class ShardError(RuntimeError):
    """A shard that is missing, or whose index does not fit its checksum."""


def create_column(
    group: zarr.Group,
    name: str,
    dtype: Any,
    n: int,
    dimensions: tuple[str, ...],
    attributes: dict[str, Any],
) -> zarr.Array[Any]:
    """An array of n values in chunks of 2^18, in shards of 2^23 when one chunk does not hold it."""
    return group.create_array(
        name,
        shape=(n,),
        dtype=np.dtype(dtype),
        chunks=(CHUNK if n > CHUNK else max(n, 1),),
        shards=(SHARD,) if n > CHUNK else None,
        compressors=BloscCodec(cname=_CODEC, clevel=_LEVEL, shuffle=_shuffle(np.dtype(dtype))),
        fill_value=0,
        dimension_names=dimensions,
        attributes=attributes,
    )


def _shuffle(dtype: np.dtype[Any]) -> Literal["shuffle", "bitshuffle"]:
    """Bits of floats, for most bits of an energy's mantissa are noise; bytes of cells and counts."""
    return "bitshuffle" if dtype.kind == "f" else "shuffle"


class ColumnWriter:
    """One column of a group below `folder`, of a length that is known in the end; `pool` compresses."""

    def __init__(
        self,
        group: zarr.Group,
        folder: Path,
        name: str,
        dtype: Any,
        attributes: dict[str, Any],
        pool: Executor,
    ) -> None:
        self._group, self._folder, self._name, self._attributes = group, folder / name / "c", name, attributes
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._pool, self._n, self._shard = pool, 0, 0
        self._chunk = np.zeros(CHUNK, self._dtype)
        self._chunks: list[Future[bytes]] = []

    def append(self, values: NDArray[Any]) -> None:
        """Add values behind those before."""
        done = 0
        while done < len(values):
            start = self._n % CHUNK
            if start == 0 and self._n:
                self._compress()
            n = min(CHUNK - start, len(values) - done)
            self._chunk[start : start + n] = values[done : done + n]
            done, self._n = done + n, self._n + n

    def close(self) -> None:
        """Write what is left, and the array's metadata."""
        if self._n > CHUNK:
            self._compress()
            self._write()
        array = create_column(self._group, self._name, self._dtype, self._n, ("hit",), self._attributes)
        if 0 < self._n <= CHUNK:
            array[:] = self._chunk[: self._n]

    def _compress(self) -> None:
        """The chunk to the pool, and a shard to its file when it is complete."""
        if len(self._chunks) == SHARD // CHUNK:
            self._write()
        self._chunks.append(self._pool.submit(_encoded, self._chunk))
        self._chunk = np.zeros(CHUNK, self._dtype)

    def _write(self) -> None:
        chunks = [chunk.result() for chunk in self._chunks]
        index = np.full((SHARD // CHUNK, 2), _ABSENT, "<u8")
        sizes = np.array([len(chunk) for chunk in chunks], dtype=np.uint64)
        offsets = np.cumsum(sizes) - sizes
        present = np.flatnonzero(sizes)
        index[present] = np.stack([offsets, sizes], axis=1)[present]
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / str(self._shard), "wb") as file:
            file.writelines(chunks)
            file.write(index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little"))
        self._chunks, self._shard = [], self._shard + 1


def _encoded(chunk: NDArray[Any]) -> bytes:
    """A compressed chunk; nothing for zeros, the array's fill value."""
    shuffle = Blosc.BITSHUFFLE if _shuffle(chunk.dtype) == "bitshuffle" else Blosc.SHUFFLE
    return bytes(Blosc(_CODEC, _LEVEL, shuffle).encode(chunk)) if chunk.any() else b""


def read_column(array: zarr.Array[Any], folder: Path, start: int, stop: int) -> NDArray[Any]:
    """Values start to stop of the array whose files lie in `folder`; ShardError when a shard is missing or damaged."""
    if array.shards != (SHARD,) or array.chunks != (CHUNK,) or not isinstance(array.compressors[0], BloscCodec):
        check_chunks(array, folder)
        return np.asarray(array[start:stop])
    values = np.zeros(max(stop - start, 0), np.dtype(array.dtype).newbyteorder("<"))
    for shard in range(start // SHARD, -(-stop // SHARD) if stop > start else 0):
        _read_shard(folder / "c" / str(shard), shard * SHARD, start, stop, values)
    return values


def check_chunks(array: zarr.Array[Any], folder: Path) -> None:
    """Raise ShardError when a file of a column without shards is not as long as its chunk says.

    Blosc believes its header: of a chunk that is cut it decompresses what lies behind it in memory. A shard's index has
    a checksum and says how long the chunks are. Source: c-blosc `README_CHUNK_FORMAT.rst`, bytes 12 to 15.
    """
    if array.shards is not None or not isinstance(array.compressors[0], BloscCodec):
        return
    for path in (folder / "c").glob("*"):
        with open(path, "rb") as file:
            said, found = int.from_bytes(file.read(16)[12:16], "little"), os.fstat(file.fileno()).st_size
        if found < 16 or said != found:
            raise ShardError(f"{path}: expected a chunk of {said} bytes, found {found}; make the part again")


def _read_shard(path: Path, first: int, start: int, stop: int, values: NDArray[Any]) -> None:
    """Fill in what of the shard, which begins at value `first`, lies in start to stop."""
    if not path.exists():
        raise ShardError(f"{path}: expected a shard, found no file; make the part again")
    with open(path, "rb") as file:
        end, n_index = os.fstat(file.fileno()).st_size, 16 * (SHARD // CHUNK) + 4
        index = _index(os.pread(file.fileno(), n_index, max(end - n_index, 0)), path)
        for i in range(max(start - first, 0) // CHUNK, min(SHARD // CHUNK, -(-(stop - first) // CHUNK))):
            offset, size = (int(x) for x in index[i])
            if offset == _ABSENT:
                continue
            chunk, low = os.pread(file.fileno(), size, offset), first + i * CHUNK
            if start <= low and low + CHUNK <= stop:
                numcodecs.blosc.decompress(chunk, values[low - start : low - start + CHUNK])
            else:
                whole = np.frombuffer(numcodecs.blosc.decompress(chunk), values.dtype)
                a, b = max(start, low), min(stop, low + CHUNK)
                values[a - start : b - start] = whole[a - low : b - low]


def _index(content: bytes, path: Path) -> NDArray[np.uint64]:
    """(chunk, 2) offset and size."""
    found = int.from_bytes(content[-4:], "little")
    if len(content) < 4 or google_crc32c.value(content[:-4]) != found:
        raise ShardError(f"{path}: expected a shard with an index at its end, found other bytes; make the part again")
    return np.frombuffer(content[:-4], "<u8").reshape(SHARD // CHUNK, 2)
