"""Careful HDF5: files are opened, checked and read so that whatever is wrong becomes a `FormatError`.

Nothing outside the file is followed (no soft or external links, virtual data sets, external storage).
Rows are read in blocks aligned to the file's chunks. What is written has the same bytes each time:
no times, a fixed library version, chunks filled in order whatever the size of the blocks that arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.data.formats.inflation import check_inflation
from pipeline.data.formats.patience import patience
from pipeline.data.formats.reader import FormatError

_BLOCK_BYTES = 32 << 20
_LARGEST_CHUNK_ROW_BYTES = 512 << 20
_LARGEST_CHUNK_BYTES = 1 << 30
_LARGEST_RATIO = 4096  # deflate reaches 1032; beyond this, declared values were never written
WRITTEN_CHUNK = 64


@contextmanager
def open_raw(path: Path) -> Iterator[h5py.File]:
    """The file opened for reading; what the library cannot open or read raises `FormatError`."""
    with patience(), _opened(path) as handle:
        yield handle


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        handle = h5py.File(path, "r", locking="best-effort")
    except FileNotFoundError:
        raise FormatError(f"{path}: expected an HDF5 file, found no file; check `files:`") from None
    except PermissionError:
        raise PermissionError(
            f"{path}: expected a file that may be read, found one without permission; ask its owner (chmod a+r)"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(
            f"{path}: expected a whole HDF5 file, found: {error}; it is truncated or of another "
            "type: copy it again or take it out of `files:`"
        ) from None
    try:
        with handle:
            yield handle
    except FormatError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, ArithmeticError) as error:
        raise FormatError(
            f"{path}: expected readable HDF5, found: {error}; the file is damaged or uses a filter "
            "that h5py lacks: copy it again"
        ) from None


def attributes_of(handle: h5py.File) -> dict[str, Any]:
    """Root attributes as plain Python values."""
    plain = {
        key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for key, value in handle.attrs.items()
    }
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in plain.items()}


def values_of(handle: h5py.File, key: str, where: Path, *, integer: bool = False) -> h5py.Dataset:
    """The data set `key`, held in this very file, of type float32 or float64 (or integer) and of a credible size."""
    if key not in handle:
        raise FormatError(
            f"{where}: data set {key}: expected it at the file's root, found {_names(handle)}; "
            "check `format:` of the data set's YAML"
        )
    if not isinstance(handle.get(key, getlink=True), h5py.HardLink):
        raise FormatError(
            f"{where}: data set {key}: expected values in this file, found a link; copy the values into the file"
        )
    dataset = handle[key]
    if not isinstance(dataset, h5py.Dataset):
        raise FormatError(
            f"{where}: data set {key}: expected an array, found a group; check `format:` of the data set's YAML"
        )
    if dataset.is_virtual or dataset.external:
        kind = "a virtual data set" if dataset.is_virtual else "external storage"
        raise FormatError(
            f"{where}: data set {key}: expected values in this file, found {kind}; "
            "copy the values into the file (h5repack)"
        )
    fits = dataset.dtype.kind in "iu" if integer else dataset.dtype.kind == "f" and dataset.dtype.itemsize in (4, 8)
    if not fits:
        expected = "integers" if integer else "float32 or float64"
        raise FormatError(f"{where}: data set {key}: expected {expected}, found {dataset.dtype}; convert the values")
    _check_size(dataset, key, where)
    return dataset


def _names(handle: h5py.File) -> list[str]:
    return sorted(handle.keys())[:8]


def _check_size(dataset: h5py.Dataset, key: str, where: Path) -> None:
    if dataset.ndim == 0 or dataset.shape is None:
        raise FormatError(f"{where}: data set {key}: expected an array, found a single value; check the file")
    if dataset.shape[0] == 0:
        raise FormatError(
            f"{where}: data set {key}: expected showers, found none (shape {dataset.shape}); "
            "take the file out of `files:`"
        )
    if dataset.chunks and not 0 < math.prod(dataset.chunks) * dataset.dtype.itemsize <= _LARGEST_CHUNK_BYTES:
        raise FormatError(
            f"{where}: data set {key}: expected chunks of 1 byte to {_LARGEST_CHUNK_BYTES >> 20} MiB, found "
            f"{dataset.chunks} of {dataset.dtype}; write the file again in smaller chunks (h5repack)"
        )
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if declared > _LARGEST_RATIO * stored + (1 << 16):
        raise FormatError(
            f"{where}: data set {key}: expected values for shape {dataset.shape} ({declared} bytes), "
            f"found {stored} bytes stored; the file is incomplete: write or copy it again"
        )


def rows_of(dataset: h5py.Dataset, rows: slice) -> NDArray[Any]:
    """A row range as it is stored; `FormatError` where a chunk of it inflates to more than it may."""
    check_inflation(dataset, rows)
    return np.asarray(dataset[rows])


def read_rows(dataset: h5py.Dataset, rows: slice) -> NDArray[np.float32]:
    """A row range as native float32."""
    return np.asarray(rows_of(dataset, rows), dtype=np.float32)


def row_blocks_of(dataset: h5py.Dataset) -> Iterator[slice]:
    """Row ranges of about 32 MiB, aligned to the data set's chunks so that each is decompressed once."""
    row_bytes = max(1, dataset.size // dataset.shape[0]) * dataset.dtype.itemsize
    chunk = dataset.chunks[0] if dataset.chunks else 1
    if chunk * row_bytes > _LARGEST_CHUNK_ROW_BYTES:
        chunk = 1
    step = chunk * max(1, _BLOCK_BYTES // (row_bytes * chunk))
    for start in range(0, dataset.shape[0], step):
        yield slice(start, min(start + step, dataset.shape[0]))


def create_raw(path: Path) -> h5py.File:
    """A new file whose bytes depend on what is written only."""
    return h5py.File(path, "w", libver=("earliest", "v110"), track_order=False)


def set_attributes(handle: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Root attributes in sorted order; a None is left out."""
    for key in sorted(attributes):
        if attributes[key] is not None:
            handle.attrs[key] = attributes[key]


class GrowingRows:
    """A chunked, compressed data set that rows are appended to, of float32 unless said otherwise.

    Rows are written in whole chunks of 64, so the bytes do not depend on the blocks that arrive.
    """

    def __init__(
        self,
        handle: h5py.File,
        key: str,
        row_shape: tuple[int, ...],
        *,
        dtype: Any = "<f4",
        chunk: int = WRITTEN_CHUNK,
    ) -> None:
        """Create the data set, empty."""
        self._chunk = chunk
        self.dataset = handle.create_dataset(
            key,
            shape=(0, *row_shape),
            maxshape=(None, *row_shape),
            chunks=(chunk, *row_shape),
            dtype=dtype,
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            track_times=False,
        )
        self._waiting: list[NDArray[Any]] = []
        self._n_waiting = 0

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows; whole chunks are written at once, the rest waits."""
        self._waiting.append(np.asarray(rows, dtype=self.dataset.dtype))
        self._n_waiting += len(rows)
        if self._n_waiting >= self._chunk:
            self._write(self._n_waiting - self._n_waiting % self._chunk)

    def close(self) -> None:
        """Write what waits."""
        self._write(self._n_waiting)

    def _write(self, n: int) -> None:
        if n:
            rows = np.concatenate(self._waiting)
            start = self.dataset.shape[0]
            self.dataset.resize(start + n, axis=0)
            for i in range(0, n, self._chunk):
                self.dataset[start + i : start + min(i + self._chunk, n)] = rows[i : min(i + self._chunk, n)]
            self._waiting = [rows[n:]] if len(rows) > n else []
            self._n_waiting = len(rows) - n
