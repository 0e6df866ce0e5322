"""Showers that occur in more than one part, found by the hashes that ingest stored beside them.

In: manifests of parts. Out: for each part with such showers, how many of its showers lie in a part before it, and
which part shares most. Only the hashes are read (8 bytes per shower); the answer is kept in one JSON file under the
digests of the stores, so that asking again costs nothing until a part comes or goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.config import digest_of
from pipeline.data.part_writer import array_of
from pipeline.provenance import ProvenanceError, read_json, write_json

CACHE = Path("data") / "duplicates.json"
_AT_ONCE = 1 << 22  # hashes sorted together: 0.2 GB


def duplicated(manifests: Sequence[Path], cache: Path = CACHE) -> dict[str, dict[str, Any]]:
    """`{part: {"showers": n, "also_in": other part}}` over the parts in their order; those without any are left out."""
    key = digest_of([[path.as_posix(), read_json(path)["store_digest"]] for path in manifests])
    known = _load(cache)
    if key not in known:
        known = {**dict(list(known.items())[-20:]), key: _count(manifests)}
        write_json(cache, known)
    found: dict[str, dict[str, Any]] = known[key]
    return found


def _count(manifests: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """A shower is duplicated where an equal hash comes from a part before its own; a range of hashes at a time."""
    hashes = [np.sort(_hashes(path)) for path in manifests]
    ranges = 1 + sum(map(len, hashes)) // _AT_ONCE
    cuts = np.array([i * 2**64 // ranges for i in range(1, ranges)], dtype=np.uint64)
    ends = [[0, *np.searchsorted(h, cuts), len(h)] for h in hashes]
    shared: dict[int, Counter[int]] = {}
    for i in range(ranges):
        for part, other, n in _shared([h[end[i] : end[i + 1]] for h, end in zip(hashes, ends, strict=True)]):
            shared.setdefault(part, Counter())[other] += n
    found = {}
    for part, others in sorted(shared.items()):
        most = max(sorted(others), key=lambda other: others[other])
        found[manifests[part].stem] = {"showers": others.total(), "also_in": manifests[most].stem}
    return found


def _shared(hashes: Sequence[np.ndarray[Any, np.dtype[np.uint64]]]) -> list[list[int]]:
    """`[part, the first part before it that has the hash, how many hashes]`, by one sort over all."""
    owner = np.repeat(np.arange(len(hashes)), [len(h) for h in hashes])
    every = np.concatenate([np.empty(0, np.uint64), *hashes])
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(every), 1), bool), every[1:] != every[:-1]]))
    first = np.repeat(owner[starts], np.diff(np.append(starts, len(every))))
    repeated = owner != first
    pairs, counts = np.unique(np.stack([owner[repeated], first[repeated]]), axis=1, return_counts=True)
    return np.column_stack([pairs.T, counts]).tolist()  # type: ignore[no-any-return]


def _hashes(manifest: Path) -> np.ndarray[Any, np.dtype[np.uint64]]:
    group = zarr.open_group(manifest.with_suffix(".zarr"), mode="r", zarr_format=3, use_consolidated=False)
    return np.asarray(array_of(group, "shower_hash")[:], dtype=np.uint64)


def _load(cache: Path) -> dict[str, Any]:
    try:
        content = read_json(cache)
    except (ProvenanceError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
