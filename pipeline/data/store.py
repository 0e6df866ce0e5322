"""Parts: immutable stores of showers, read through their manifests, split by a hash of each shower.

In: a manifest JSON beside a Zarr store. Out: `RaggedShowers` in visible MeV (or, for a preprocessed part,
the prefix's values), in file order or sorted by hash. train / validation / test depend on a shower's
content only: new files, their order and their compression move nothing. Writing is `part_writer`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from blake3 import blake3
from numpy.typing import NDArray

from pipeline.calorimeter import CylinderMesh, RaggedShowers, Showers
from pipeline.config import SplitSpec
from pipeline.data.part_writer import array_of, mesh_of
from pipeline.data.shards import check_chunks, read_column
from pipeline.provenance import ProvenanceError, read_json, tree_digest

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
SplitName = Literal["train", "validation", "test"]
Half = Literal["reference", "floor"]

_BLOCK_SHOWERS = 2048
_KEYS = {"store_digest": str, "detector": str, "particle": str, "layout": str, "n_showers": int, "n_hits": int}
_WHOLE = 1 << 64


class StoreError(RuntimeError):
    """A part that is missing, changed, or too small for what is asked; names the manifest or the key."""


@dataclass(frozen=True)
class Part:
    """One part: its manifest and the Zarr store beside it.

    Raises `StoreError` when the store is missing or does not fit its manifest.
    """

    path: Path
    manifest: dict[str, Any]
    group: zarr.Group

    @classmethod
    def open(cls, manifest: str | Path) -> Part:
        """Open a part by its manifest; checks that the store exists and that row and hit counts match."""
        path = Path(manifest)
        try:
            content = read_json(path)
        except ProvenanceError as error:
            raise StoreError(str(error)) from None
        if isinstance(content, dict) and content.get("kind") == "refused":
            raise StoreError(
                f"{path}: expected a part, found the record of a refused raw file ({content.get('reason')}); "
                "replace the file, or take it out of `files:`"
            )
        if not isinstance(content, dict) or "store_digest" not in content:
            raise StoreError(f"{path}: expected the manifest of a part, found other JSON; name a part's manifest")
        _check_manifest(path, content)
        store = path.with_suffix(".zarr")
        try:
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        except (OSError, RuntimeError, ValueError, LookupError, TypeError):
            raise StoreError(
                f"{path}: expected the store {store.name} beside it, found none that can be read; "
                f"delete {path} and run again"
            ) from None
        part = cls(path, content, group)
        part._check_counts()
        return part

    def _check_counts(self) -> None:
        ragged = self.manifest["layout"] == "ragged"
        expected = {
            "row_size": self.manifest["n_showers"],
            "energy" if ragged else "shower_energy": self.manifest["n_hits" if ragged else "n_showers"],
        }
        for name, n in expected.items():
            found = self._length(name)
            if found != n:
                raise StoreError(
                    f"{self.path}: expected {n} values of {name} in the store, found {found}; "
                    f"the store is damaged: delete {self.path} and run again"
                )

    def _length(self, name: str) -> int | None:
        """Values of a column, None when it has none; read from its metadata, which is cheap for thousands of parts."""
        metadata = self.store / name / "zarr.json"
        if not metadata.exists():
            return None
        with self._readable(name):
            return int(read_json(metadata)["shape"][0])

    def verify(self) -> None:
        """Hash the whole store again; `StoreError` when it is not what the manifest was written for."""
        found = tree_digest(self.store)
        if found != self.manifest["store_digest"]:
            raise StoreError(
                f"{self.path}: expected store digest {self.manifest['store_digest']}, found {found}; "
                f"the store was changed: delete {self.path} and run again"
            )

    @property
    def store(self) -> Path:
        """The folder of the Zarr store."""
        return self.path.with_suffix(".zarr")

    @property
    def digest(self) -> str:
        """The digest of the store's content."""
        return str(self.manifest["store_digest"])

    @property
    def n_showers(self) -> int:
        """Number of showers."""
        return int(self.manifest["n_showers"])

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return str(self.manifest["detector"])

    @property
    def particle(self) -> str:
        """Name of the particle."""
        return str(self.manifest["particle"])

    @property
    def mesh(self) -> CylinderMesh:
        """The mesh of the stored showers."""
        return mesh_of(self.manifest["mesh"])

    @property
    def fill(self) -> float:
        """The value of a cell without hit: 0, or what the preprocessing prefix makes of 0."""
        return float(self.manifest.get("fill", 0.0))

    @cached_property
    def incident_energy(self) -> NDArray[np.float32]:
        """Incident energy of each shower, shape (shower,), MeV."""
        energies = self._column("incident_energy", np.float32)
        return self._sound(energies, bool((energies > 0).all()), "incident energies above 0")

    @cached_property
    def theta(self) -> NDArray[np.float32]:
        """Polar angle of each particle, shape (shower,), rad."""
        theta = self._column("incident_theta", np.float32)
        return self._sound(theta, bool(theta.any()) or not len(theta), "polar angles")

    @cached_property
    def phi(self) -> NDArray[np.float32]:
        """Azimuth of each particle, shape (shower,), rad."""
        return self._column("incident_phi", np.float32)

    @cached_property
    def shower_hash(self) -> NDArray[np.uint64]:
        """Hash of each raw shower's content, shape (shower,)."""
        hashes = self._column("shower_hash", np.uint64)
        return self._sound(hashes, bool(hashes.all()), "hashes")

    @cached_property
    def row_size(self) -> NDArray[np.int64]:
        """Hits of each shower, shape (shower,)."""
        sizes = self._column("row_size", np.int64)
        return self._sound(sizes, int(sizes.sum()) == self.manifest["n_hits"], f"{self.manifest['n_hits']} hits")

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.row_size)])

    @cached_property
    def _hit_columns(self) -> dict[str, zarr.Array[Any]]:
        return {name: array_of(self.group, name) for name in ("cell", "energy")}

    def _column(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        with self._readable(name):
            array = array_of(self.group, name)
            check_chunks(array, self.store / name)
            return np.asarray(array[:]).astype(dtype)

    def _sound(self, values: NDArray[Any], right: bool, expected: str) -> NDArray[Any]:
        """The values; `StoreError` where they are those of a missing chunk, which Zarr takes for zeros."""
        if not right:
            raise StoreError(
                f"{self.path}: expected {expected} in the store, found zeros or others; a chunk is missing or "
                f"damaged: delete {self.path} and run again"
            )
        return values

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """A block that reads the store; what its libraries cannot read is a `StoreError`."""
        try:
            yield
        except StoreError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
            raise StoreError(
                f"{self.path}: expected readable {name} in the store, found: {error}; the store is damaged: "
                f"delete {self.path} and run again"
            ) from None

    def read(self, rows: slice | None = None) -> RaggedShowers:
        """A range of showers in file order (default: all); only their chunks are read."""
        start, stop, step = (rows or slice(None)).indices(self.n_showers)
        if step != 1:
            raise StoreError(f"{self.path}: expected a contiguous range of rows, got step {step}; use take")
        stop = max(start, stop)
        labels = (self.incident_energy[start:stop], self.theta[start:stop], self.phi[start:stop])
        if self.manifest["layout"] == "dense":
            with self._readable("shower_energy"):
                energy = array_of(self.group, "shower_energy")[start:stop]
            return RaggedShowers.from_dense(Showers(energy, *labels, self.mesh, self.detector, self.particle))
        hits = slice(int(self._offsets[start]), int(self._offsets[stop]))
        with self._readable("hits"):
            cell, energy = (
                read_column(array, self.store / name, hits.start, hits.stop)
                for name, array in self._hit_columns.items()
            )
        raw = self.manifest.get("kind") == "part"
        self._sound(energy, not raw or bool(energy.all()), "energies above 0")
        several = self.row_size[start:stop].max(initial=0) > 1
        self._sound(cell, not several or bool(cell.any()), "cells of several hits")
        return RaggedShowers(self.row_size[start:stop], cell, energy, *labels, self.mesh, self.detector, self.particle)

    def take(self, rows: NDArray[np.integer]) -> RaggedShowers:
        """The showers at `rows`, in that order; read in blocks, so memory follows what is taken."""
        order = np.argsort(rows, kind="stable")
        ascending = np.asarray(rows, dtype=np.int64)[order]
        pieces = []
        for start in range(0, self.n_showers, _BLOCK_SHOWERS):
            low, high = np.searchsorted(ascending, [start, start + _BLOCK_SHOWERS])
            if low < high:
                wanted = ascending[low:high]
                block = self.read(slice(int(wanted[0]), int(wanted[-1]) + 1))
                pieces.append(block.take(wanted - wanted[0]))
        if not pieces:
            return self.read(slice(0, 0))
        return RaggedShowers.concatenate(pieces).take(np.argsort(order, kind="stable"))


def _check_manifest(path: Path, content: dict[str, Any]) -> None:
    """Refuse a manifest that lost a key, or has one of another type."""
    wrong = [key for key, kind in _KEYS.items() if type(content.get(key)) is not kind]
    if not wrong and (content["layout"] not in ("ragged", "dense") or min(content["n_showers"], content["n_hits"]) < 0):
        wrong = ["layout, n_showers, n_hits"]
    try:
        wrong = wrong or [] if mesh_of(content["mesh"]) and math.isfinite(content.get("fill", 0.0)) else ["fill"]
    except (KeyError, TypeError, ValueError):
        wrong = wrong or ["mesh, fill"]
    if wrong:
        raise StoreError(
            f"{path}: expected the manifest of a part, found other {', '.join(wrong)}; delete it and run again"
        )


def shower_hashes(showers: RaggedShowers) -> NDArray[np.uint64]:
    """One hash per shower, shape (shower,): the first 8 bytes (little-endian) of BLAKE3 over its content.

    Content: cell indices as little-endian u32, visible energies (MeV) as f32, incident energy as f32.
    """
    cell, energy, incident = (
        memoryview(np.ascontiguousarray(values, dtype=dtype).view(np.uint8))  # type: ignore[arg-type]
        for values, dtype in ((showers.cell, "<u4"), (showers.energy, "<f4"), (showers.incident_energy, "<f4"))
    )
    digests = []
    for i, (low, high) in enumerate(itertools.pairwise((4 * showers.offsets).tolist())):
        digest = blake3(cell[low:high])
        digest.update(energy[low:high])
        digest.update(incident[4 * i : 4 * i + 4])
        digests.append(digest.digest(8))
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


# -------------------------------------------------------------------------------------- splits


def _bounds(splits: SplitSpec) -> tuple[int, int, int]:
    """Ends of train, validation and of the reference half of test, among hashes in [0, 2^64)."""
    train = int(splits.train * _WHOLE)
    validation = _WHOLE if splits.test == 0 else int((splits.train + splits.validation) * _WHOLE)
    return train, validation, validation + (_WHOLE - validation) // 2


def _at_least(hashes: NDArray[np.uint64], bound: int) -> NDArray[np.bool_]:
    return np.zeros(hashes.shape, bool) if bound >= _WHOLE else hashes >= np.uint64(bound)


def split_code(shower_hash: NDArray[np.uint64], splits: SplitSpec) -> NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each hash; fractions are intervals of the hash, nothing else decides."""
    train, validation, _ = _bounds(splits)
    codes = _at_least(shower_hash, train).astype(np.int8)
    return np.asarray(codes + _at_least(shower_hash, validation), dtype=np.int8)


def rows_of(part: Part, splits: SplitSpec, split: SplitName) -> NDArray[np.int64]:
    """Rows of a split in file order."""
    return np.flatnonzero(split_code(part.shower_hash, splits) == SPLITS[split]).astype(np.int64)


def held_out(parts: Sequence[Part], splits: SplitSpec, half: Half, n: int) -> RaggedShowers:
    """The n test showers of a half with the smallest hashes, sorted by hash, duplicates dropped."""
    return _gather(parts, held_out_rows(parts, splits, half, n))


def held_out_rows(parts: Sequence[Part], splits: SplitSpec, half: Half, n: int) -> Choice:
    """Where the showers of `held_out` lie, in their order; `StoreError` when there are fewer than n."""
    middle = _bounds(splits)[2]
    chosen = _unique_rows(parts, splits, "test")
    inside = _at_least(chosen.hashes, middle) == (half == "floor")
    chosen = chosen.where(inside)
    if len(chosen.hashes) < n:
        raise StoreError(
            f"held-out showers, half '{half}': expected {n} in {len(parts)} part(s), found "
            f"{len(chosen.hashes)}; add data, lower `evaluation.showers` or raise `splits.test`"
        )
    return chosen.where(np.arange(len(chosen.hashes)) < n)


def training_set(
    parts: Sequence[Part], splits: SplitSpec, split: SplitName = "train", limit: int | None = None
) -> RaggedShowers:
    """The showers of a split, sorted by hash, duplicates dropped; `limit` keeps the smallest hashes."""
    return _gather(parts, training_rows(parts, splits, split, limit))


def training_rows(parts: Sequence[Part], splits: SplitSpec, split: SplitName, limit: int | None = None) -> Choice:
    """Where the showers of `training_set` lie, in their order; `StoreError` when there are too few."""
    chosen = _unique_rows(parts, splits, split)
    n = len(chosen.hashes) if limit is None else limit
    if len(chosen.hashes) < max(n, 1):
        raise StoreError(
            f"split '{split}': expected {max(n, 1)} showers in {len(parts)} part(s), found "
            f"{len(chosen.hashes)}; add data, lower the run's `showers` or raise `splits.{split}`"
        )
    return chosen.where(np.arange(len(chosen.hashes)) < n)


@dataclass(frozen=True)
class Choice:
    """Chosen showers of many parts: hash, index of the part, row; each of shape (chosen,)."""

    hashes: NDArray[np.uint64]
    part: NDArray[np.int64]
    row: NDArray[np.int64]

    def where(self, keep: NDArray[np.bool_]) -> Choice:
        """The showers for which `keep` holds."""
        return Choice(self.hashes[keep], self.part[keep], self.row[keep])


def _unique_rows(parts: Sequence[Part], splits: SplitSpec, split: SplitName) -> Choice:
    """Rows of a split over all parts, sorted by hash, one per hash."""
    rows = [rows_of(part, splits, split) for part in parts]
    hashes = np.concatenate([np.zeros(0, np.uint64), *(p.shower_hash[r] for p, r in zip(parts, rows, strict=True))])
    part = np.repeat(np.arange(len(parts)), [len(r) for r in rows])
    unique, first = np.unique(hashes, return_index=True)
    return Choice(unique, part[first], np.concatenate([np.zeros(0, np.int64), *rows])[first])


def places_by_part(part: NDArray[np.integer], n: int) -> list[NDArray[np.int64]]:
    """For each of n parts the places of its showers, ascending: one sort, not one search per part."""
    order = np.argsort(part, kind="stable")
    return np.split(order, np.cumsum(np.bincount(part, minlength=n))[:-1])


def _gather(parts: Sequence[Part], chosen: Choice) -> RaggedShowers:
    pieces, places = [], []
    for part, place in zip(parts, places_by_part(chosen.part, len(parts)), strict=True):
        if len(place):
            pieces.append(part.take(chosen.row[place]))
            places.append(place)
    if not pieces:
        return replace(parts[0].read(slice(0, 0)))
    return RaggedShowers.concatenate(pieces).take(np.argsort(np.concatenate(places), kind="stable"))
