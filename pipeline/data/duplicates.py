"""Showers that occur in more than one part, found by the hashes that ingest stored beside them.

In: manifests of parts. Out: for each part with such showers, how many of its showers lie in a part before it, and
which part shares most. Only the hashes are read (8 bytes per shower); the answer is kept in one JSON file under the
digests of the stores, so that asking again costs nothing until a part comes or goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.config import digest_of
from pipeline.data.part_writer import array_of
from pipeline.provenance import ProvenanceError, read_json, write_json

CACHE = Path("data") / "duplicates.json"


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
    """One sort over all hashes: a shower is duplicated where an equal hash comes from a part before its own."""
    if not manifests:
        return {}
    hashes = [_hashes(path) for path in manifests]
    owner = np.repeat(np.arange(len(hashes)), [len(h) for h in hashes])
    every = np.concatenate(hashes)
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    starts = np.flatnonzero(np.concatenate([[True], every[1:] != every[:-1]]))
    first = np.repeat(owner[starts], np.diff(np.append(starts, len(every))))
    repeated = owner != first
    found = {}
    for part in np.unique(owner[repeated]):
        others = first[repeated & (owner == part)]
        also_in = int(np.bincount(others).argmax())
        found[manifests[part].stem] = {"showers": len(others), "also_in": manifests[also_in].stem}
    return found


def _hashes(manifest: Path) -> np.ndarray[Any, np.dtype[np.uint64]]:
    group = zarr.open_group(manifest.with_suffix(".zarr"), mode="r", zarr_format=3, use_consolidated=False)
    return np.asarray(array_of(group, "shower_hash")[:], dtype=np.uint64)


def _load(cache: Path) -> dict[str, Any]:
    try:
        content = read_json(cache)
    except (ProvenanceError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
