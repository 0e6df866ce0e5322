"""Ingest: one raw file becomes one immutable part.

In: a raw HDF5 file of any layout in `READERS`. Out: a Zarr store of visible MeV beside a manifest JSON,
which is written last and holds the digests of source and store, and neither host nor time. The file is
streamed in row blocks aligned to its chunks, so memory does not follow its size: `threads` of them decode and
extract the hits, one compresses and writes in file order, one takes the file's digest while its pages are warm.
The number of threads changes no byte.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calorimeter import RaggedShowers
from pipeline.config import DatasetSpec, DetectorSpec
from pipeline.data.formats import READERS, Description
from pipeline.data.formats.claims import is_generated
from pipeline.data.formats.ragged import RaggedReader
from pipeline.data.part_writer import PartWriter, mesh_attributes
from pipeline.data.plausibility import EnergyCheck
from pipeline.data.progress import shower_progress
from pipeline.data.selection import wanted
from pipeline.data.store import shower_hashes
from pipeline.provenance import Digest, fingerprint, write_json

_DIGEST_BLOCK = 1 << 20
_WRITES_AHEAD = 1


class IngestError(RuntimeError):
    """A raw file that changed under the job; says what to do."""


Hashed = tuple[RaggedShowers, NDArray[np.uint64]]


def ingest(
    raw: Path,
    manifest: Path,
    dataset: DatasetSpec,
    detector: DetectorSpec,
    name: str,
    threads: int | None = None,
    expected: str | None = None,
) -> dict[str, Any]:
    """Turn a raw file into the part of `manifest` (store: the same name with `.zarr`); returns the manifest.

    `name` is the data set's; `threads` default to the CPUs there are; `expected` is the fingerprint that the file had
    when it was found. Leaves nothing behind when it raises: `FormatError` when the file is refused, `IngestError` when
    it is not the one that was found, or did not stay as it was.
    """
    raw, manifest = Path(raw), Path(manifest)
    manifest.unlink(missing_ok=True)
    with _unchanged(raw, expected) as still:
        content = _ingest(raw, manifest, dataset, detector, name, threads, still)
    write_json(manifest, content)
    return content


def _ingest(
    raw: Path,
    manifest: Path,
    dataset: DatasetSpec,
    detector: DetectorSpec,
    name: str,
    threads: int | None,
    still: Callable[[], None],
) -> dict[str, Any]:
    """Write the store, if the raw file is `still` what it was when all is read; returns the manifest's content."""
    reader = READERS[dataset.format]
    description = reader.describe(raw, dataset, detector)
    labels = reader.labels(raw, description, slice(None))
    rows = wanted(dataset.select, description, labels)
    check = None if is_generated(dataset) else EnergyCheck(description)
    writer = PartWriter(manifest.with_suffix(".zarr"), description.mesh, _attributes(raw, description))
    with writer, _Digest(raw) as digest:
        ragged = RaggedReader(reader, description, labels, threads or _cpus(), _hashed, rows)
        hashes = _stream(ragged, list(reader.row_blocks(raw, description)), writer, digest, check)
        source = {"name": raw.name, "size": raw.stat().st_size, "digest": digest.result()}
        source["fingerprint"] = fingerprint(raw)
        still()
    incident = labels.incident_energy[rows].astype(np.float32)
    return {
        "kind": "part",
        "dataset": name,
        "ingest_version": dataset.ingest_version,
        "source": source | ({"n_showers": description.n_showers} if dataset.select else {}),
        "specs": {"dataset": dataset.reading_digest(), "detector": detector.digest()},
        **_facts(description),
        "layout": writer.layout,
        "n_showers": len(hashes),
        "n_hits": writer.n_hits,
        "occupancy": float(f"{writer.n_hits / (len(hashes) * description.mesh.n_cells):.6g}"),
        "duplicates": int(np.count_nonzero(np.diff(np.sort(hashes)) == 0)),
        "incident_energy_mev": [float(incident.min()), float(incident.max())],
        "store_digest": writer.digest,
    }


@contextmanager
def _unchanged(raw: Path, expected: str | None) -> Iterator[Callable[[], None]]:
    """A block in which the file must stay as it is, with a function that raises IngestError when it did not.

    An error in a block in which the file changed is that of the change.
    """
    before = _identity(raw)
    if expected is not None and before is not None and (found := fingerprint(raw)) != expected:
        raise IngestError(
            f"{raw}: expected the content that was found when this run began (fingerprint {expected}), found {found}; "
            "it was replaced meanwhile: run again"
        )

    def still() -> None:
        if before is not None and _identity(raw) != before:
            found = "another one" if raw.exists() else "none"
            raise IngestError(f"{raw}: expected the file that was there when ingest began, found {found}; run again")

    try:
        yield still
    except IngestError:
        raise
    except Exception:
        still()
        raise


def _identity(raw: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written to; None when there is none."""
    try:
        stat = raw.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _stream(
    ragged: RaggedReader[Hashed], blocks: list[slice], writer: PartWriter, digest: _Digest, check: EnergyCheck | None
) -> NDArray[np.uint64]:
    """Append all wanted showers of the file to the store; returns their hashes."""
    path, n = ragged.path, int(np.count_nonzero(ragged.wanted))
    hashes, done = [], 0
    with (
        ragged,
        shower_progress(path.name, n, 4 * writer.mesh.n_cells) as advance,
        ThreadPoolExecutor(1, thread_name_prefix="write") as behind,
    ):
        writing: deque[Future[None]] = deque()
        for showers, own in ragged.blocks(blocks):
            if check:
                check.add(showers)
            writing.append(behind.submit(writer.append, showers, own))
            while len(writing) > _WRITES_AHEAD:
                writing.popleft().result()
            hashes.append(own)
            done += len(showers)
            digest.advance(done / n)
            advance(len(showers))
        for written in writing:
            written.result()
    if check:
        check.judge()
    return np.concatenate(hashes)


def _hashed(showers: RaggedShowers) -> Hashed:
    return showers, shower_hashes(showers)


class _Digest:
    """The digest of a file, taken in steps by a thread of its own, so that a file is read from disk once."""

    def __init__(self, path: Path) -> None:
        self._path, self._size, self._digest = path, path.stat().st_size, Digest()

    def __enter__(self) -> _Digest:
        self._file = open(self._path, "rb")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        return self

    def advance(self, share: float) -> None:
        """Take the file up to this share of it; returns at once."""
        self._thread.submit(self._to, int(share * self._size))

    def result(self) -> str:
        """The digest of the whole file."""
        self._thread.submit(self._to, None).result()
        return self._digest.hexdigest()

    def _to(self, end: int | None) -> None:
        while end is None or self._file.tell() < end:
            if not (block := self._file.read(_DIGEST_BLOCK)):
                return
            self._digest.update(block)

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._file.close()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts(description: Description) -> dict[str, Any]:
    """What is known of the showers, as plain JSON."""
    return {**description.facts(), "mesh": mesh_attributes(description.mesh)}


def _attributes(raw: Path, description: Description) -> dict[str, Any]:
    """Attributes of the store's root: enough to understand it without its manifest."""
    facts = {key: value for key, value in _facts(description).items() if key != "mesh" and value is not None}
    return {"title": "Calorimeter showers, visible energy", "source": raw.name, "units": "MeV", **facts}
