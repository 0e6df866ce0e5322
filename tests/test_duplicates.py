"""Showers that occur in more than one part: one sort, or a range of hashes at a time, and the obvious search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline.data.duplicates as duplicates


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Six parts of 40 hashes, of 60 different ones over the whole range."""
    drawn = np.random.default_rng(0).integers(0, 60, (6, 40)).astype(np.uint64)
    parts = list(drawn * np.uint64(2**64 // 60))
    monkeypatch.setattr(duplicates, "_hashes", lambda manifest: parts[int(manifest.stem)])
    return parts


@pytest.mark.parametrize("at_once", [1 << 22, 7, 1])
def test_each_hash_is_counted_for_the_first_part_that_has_it(hashes, monkeypatch, at_once) -> None:
    monkeypatch.setattr(duplicates, "_AT_ONCE", at_once)
    expected = {}
    for k, part in enumerate(hashes):
        firsts = [next(j for j in range(k) if h in hashes[j]) for h in part if any(h in p for p in hashes[:k])]
        if firsts:
            expected[str(k)] = {"showers": len(firsts), "also_in": str(np.bincount(firsts).argmax())}
    assert len(expected) == 5
    assert duplicates._count([Path(f"{i}.json") for i in range(6)]) == expected


def test_no_parts_and_parts_without_common_showers_have_none(hashes) -> None:
    hashes[1] = hashes[0] + np.uint64(1)
    assert duplicates._count([]) == {}
    assert duplicates._count([Path("0.json"), Path("1.json")]) == {}
