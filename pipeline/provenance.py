"""What made a file: digests, fingerprints, and small JSON records that are written whole or not at all.

Records hold no host and no time, so that the same inputs give the same bytes; timings go to
`*.measured.json` files, which no digest covers.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

_BLOCK = 1 << 20
_SAMPLED_BLOCKS = 16
_SAMPLE = 1 << 16
_HASHING_THREADS = 4
_SMALL_FILE = 64 << 20
_ALGORITHM = "blake3"


class ProvenanceError(RuntimeError):
    """A record and the file it speaks of do not belong together."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` (fsync, rename) when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """A name beside the path that no other process uses, on this host or another."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders that dead processes of this host left behind for this path."""
    for leftover in path.parent.glob(f".{path.name}.{socket.gethostname()}-*.tmp"):
        if is_leftover(leftover, of_this_process=True):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def is_leftover(path: Path, of_this_process: bool = False) -> bool:
    """Whether a temporary name is of a dead process of this host (or of this one, which asks before it begins)."""
    host, _, pid = path.name.removesuffix(".tmp").removesuffix(".old").rpartition("-")
    if not (path.name.endswith(".tmp") and host.endswith(f".{socket.gethostname()}") and pid.isdigit()):
        return False
    return of_this_process if int(pid) == os.getpid() else not alive(int(pid))


def alive(pid: int) -> bool:
    """Whether a process of this host lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def fsync_folder(folder: Path) -> None:
    """Make a rename inside the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any, sort_keys: bool = True) -> None:
    """Write sorted (unless told otherwise), indented JSON atomically; NaN is refused."""
    text = json.dumps(content, sort_keys=sort_keys, indent=1, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def read_json(path: str | Path) -> Any:
    """The content of a JSON record; `ProvenanceError` naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ProvenanceError(f"{path}: expected a record, found no file; run the stage that makes it") from None
    except (ValueError, RecursionError) as error:
        raise ProvenanceError(f"{path}: expected JSON, got {error}; delete the file and run again") from None


class Digest:
    """BLAKE3-128 of what it is fed in pieces; chosen for its speed on large files."""

    def __init__(self) -> None:
        self._hash = blake3()

    def update(self, piece: bytes) -> None:
        """Feed the next piece."""
        self._hash.update(piece)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return str(self._hash.hexdigest(length=16))


def file_digest(path: str | Path) -> str:
    """BLAKE3-128 of a whole file, hexadecimal."""
    digest = Digest()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tree_digest(folder: str | Path) -> str:
    """BLAKE3-128 over the names and contents of all files below a folder, hexadecimal."""
    folder = Path(folder)
    digest = Digest()
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        for path, content in zip(paths, pool.map(file_digest, paths), strict=True):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def code_digest() -> str:
    """BLAKE3-128 over the package's source files: the version of the code, released or not."""
    package = Path(__file__).parent
    sources = sorted(p for p in package.rglob("*") if p.suffix in (".py", ".json", ".j2"))
    return joined_digest(f"{path.relative_to(package).as_posix()} {file_digest(path)}" for path in sources)


def joined_digest(digests: Iterable[str]) -> str:
    """One digest over many, in the given order."""
    joined = Digest()
    joined.update("\n".join(digests).encode())
    return joined.hexdigest()


def fingerprint(path: str | Path) -> str:
    """A fast stand-in for the digest: all of a file up to 64 MiB, else its size and 16 sampled blocks of 64 KiB."""
    path = Path(path)
    size = path.stat().st_size
    if size <= _SMALL_FILE:
        return file_digest(path)
    digest = Digest()
    digest.update(str(size).encode())
    with open(path, "rb") as handle:
        for i in range(_SAMPLED_BLOCKS):
            handle.seek(max(0, (size - _SAMPLE) * i // (_SAMPLED_BLOCKS - 1)))
            digest.update(handle.read(_SAMPLE))
    return digest.hexdigest()


class FingerprintCache:
    """Fingerprints by (path, size, mtime_ns, ctime_ns), kept in one JSON file; a touched file is read again, once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._known: dict[str, list[Any]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def __call__(self, path: str | Path) -> str:
        """The fingerprint of the file."""
        stat = os.stat(path)
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # a copy may keep its date, but never its ctime
        entry = self._known.get(str(path))
        if entry is None or entry[:-1] != [*state, _ALGORITHM]:
            entry = [*state, _ALGORITHM, fingerprint(path)]
            self._known[str(path)] = entry
            self._changed = True
        return str(entry[-1])

    def save(self) -> None:
        """Write the cache when it changed; a read-only folder only costs the next start some milliseconds."""
        if self._changed:
            try:
                write_json(self.path, self._known)
            except OSError:
                return
            self._changed = False
