"""Chunks that inflate to more than they may: a file of kilobytes would fill the memory, for HDF5 inflates to the end.

In: a data set and the rows about to be read through the HDF5 library. Out: nothing, or a `FormatError`. Chunks behind
gzip are inflated here first, to their declared size and a little more; a chunk stored in much more than that is refused
whatever its filter (LZF, shuffle and scale-offset cannot grow by more than a known factor). Rows read beside the
library are bounded by `chunks`. Source: HDF5 2.0 `H5Zdeflate.c`, which doubles its buffer until zlib is done.
"""

from __future__ import annotations

import itertools
import math
import zlib

import h5py

from pipeline.data.formats.reader import FormatError

_GZIP, _CHECKSUM = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
_SLACK = 4096


def check_inflation(dataset: h5py.Dataset, rows: slice) -> None:
    """Raise `FormatError` when a chunk of these rows holds more than a chunk."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if dataset.chunks is None or not filters:
        return
    behind = [code for code in filters if code != _CHECKSUM]
    if behind.count(_GZIP) > 1 or (_GZIP in behind and behind[-1] != _GZIP):
        raise FormatError(
            f"{dataset.file.filename}: data set {dataset.name.lstrip('/')}: expected gzip once, as the last filter, "
            f"found filters {filters}; write the file again (h5repack)"
        )
    most = math.prod(dataset.chunks) * dataset.dtype.itemsize + _SLACK
    start, stop, _ = rows.indices(dataset.shape[0])
    first = range(start - start % dataset.chunks[0], stop, dataset.chunks[0])
    others = (range(0, n, chunk) for n, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
    for origin in itertools.product(first, *others):
        stored = dataset.id.get_chunk_info_by_coord(origin)
        if stored.byte_offset is None:
            continue
        inflated = _inflated(dataset, origin, most) if _GZIP in filters else 0
        if stored.size > 2 * most or inflated > most:
            raise FormatError(
                f"{dataset.file.filename}: data set {dataset.name.lstrip('/')}: expected chunks of at most "
                f"{most - _SLACK} bytes, found one that inflates to more, in row {origin[0]}; the file is damaged or "
                "made to harm: get it again"
            )


def _inflated(dataset: h5py.Dataset, origin: tuple[int, ...], most: int) -> int:
    """Bytes of a chunk behind gzip, at most one more than `most`; 0 where the library must decide."""
    skipped, raw = dataset.id.read_direct_chunk(origin)
    if skipped:
        return 0
    try:
        return len(zlib.decompressobj().decompress(raw, most + 1))
    except zlib.error:
        return 0
