"""Files damaged byte by byte: read, or refused by name, or the HDF5 library takes its process with it.

Each file is ingested in a process of its own with little memory; when that process dies, the file counts as refused.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_files import valid

from pipeline.data.formats import READERS, FormatError, patience
from pipeline.data.formats.chunks import _sound
from pipeline.data.ingest import ingest

LAYOUTS = sorted(READERS)
SECONDS, MEMORY_BYTES = 30, 4 << 30


@pytest.mark.parametrize("origin", [[[0, 0], [2, 0], [2, 0]], [[0, 0], [1, 0]], [[0, 0], [6, 0]], [[0, -3], [2, 0]]])
def test_chunks_out_of_their_places_are_not_sound(origin: list[list[int]]) -> None:
    table = np.array([[*row, 100 * i, 10, 0] for i, row in enumerate(origin)], np.int64)
    assert not _sound(table, (5, 3), (2, 3))
    assert _sound(table[:1], (5, 3), (2, 3)) == (origin[0] == [0, 0])


def outcome(path: str, layout: str) -> str:
    """In a process of its own, with little memory: 'read', 'refused', or the traceback's last line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.fsync = lambda _: None
    patience.PATIENCE_S = SECONDS / 3
    raw = Path(path)
    try:
        ingest(raw, raw.with_suffix(".json"), *valid(layout).configured(raw.parent), layout, threads=2)
    except FormatError as error:
        return "refused" if path in str(error) else f"does not name the file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


class Reading:
    """One process that reads files, replaced when it dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __call__(self, path: Path, layout: str) -> str:
        answer = self.pool.submit(outcome, str(path), layout)
        try:
            for _ in range(2):  # a machine that was stopped meanwhile is given a second chance
                with suppress(TimeoutError):
                    return answer.result(timeout=SECONDS)
            return answer.result(timeout=SECONDS)
        except BrokenProcessPool:
            self._start()
            return "died"


@pytest.fixture(scope="module")
def reading() -> Iterator[Reading]:
    process = Reading()
    yield process
    process.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, reading: Reading, layout: str, libver: str) -> None:
    raw = valid(layout)
    whole = tmp_path / "whole.h5"
    raw.write(whole, compression="gzip")
    if libver == "latest":
        with h5py.File(whole) as old, h5py.File(tmp_path / "new.h5", "w", libver="latest") as new:
            for key in old:
                old.copy(key, new)
            new.attrs.update(old.attrs)
        whole = tmp_path / "new.h5"
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    rng = np.random.default_rng(len(layout))
    seen = set()
    for i in range(30):
        flipped = content.copy()
        places = rng.integers(0, len(content), size=1 + i % 8)
        flipped[places] = rng.integers(0, 256, size=len(places))
        path = tmp_path / "flipped.h5"
        path.write_bytes(flipped.tobytes())
        found = reading(path, layout)
        assert found in ("read", "refused", "died"), found
        seen.add(found)
    assert "refused" in seen


@pytest.mark.parametrize("layout", ["calochallenge", "par04"])
def test_a_file_in_which_the_library_runs_in_circles_ends_its_process(tmp_path: Path, layout: str) -> None:
    """The free list of the local heap (HDF5 file format, III.D) leads back to its own head."""
    path = valid(layout).write(tmp_path / "circle.h5")
    content = bytearray(path.read_bytes())
    _, head, address = struct.unpack_from("<QQQ", content, content.index(b"HEAP") + 8)
    struct.pack_into("<Q", content, address + head, head)
    path.write_bytes(content)
    code = "\n".join(
        [
            "import sys; from pathlib import Path; from pipeline.data.formats import patience, hdf5",
            "patience.PATIENCE_S = 2",
            "with hdf5.open_raw(Path(sys.argv[1])) as handle: print('showers' in handle)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1 and "Timeout" in done.stderr
