"""Download: published raw files onto the disk, whole and verified, or not there at all.

In: a `DownloadSpec`. Out: the files in the folder where the data set's `files` look, each with a small record of where
it came from. A file is written under a temporary name that a later call resumes by HTTP ranges, its size and checksum
are verified, and then it is renamed; a finished one is never fetched again. Zenodo's API lists a record's files with
size, MD5 and address. Only the standard library; nothing is unpacked.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlparse

from pipeline import __version__
from pipeline.config.download import DownloadSpec
from pipeline.provenance import fsync_file, fsync_folder, read_json, write_json

ATTEMPTS = 6
TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_LONGEST_WAIT_S = 120.0
Advance = Callable[[int], None]


class DownloadError(RuntimeError):
    """A file that could not be fetched or is not what was published; names the address, the file and what to do."""


@dataclass(frozen=True)
class Remote:
    """One published file; `n_bytes` and `checksum` (`md5:…`) are None where the publisher does not say."""

    name: str
    url: str
    n_bytes: int | None
    checksum: str | None


# ------------------------------------------------------------------------------------- listing


def listing(spec: DownloadSpec, folder: Path) -> list[Remote]:
    """The published files that the specification asks for; raises DownloadError when they cannot be listed."""
    if spec.urls:
        last = [unquote(PurePosixPath(urlparse(address.url).path).name) for address in spec.urls]
        return [Remote(_safe(n, a.url), a.url, None, a.checksum) for n, a in zip(last, spec.urls, strict=True)]
    url = f"{spec.base_url.rstrip('/')}/api/records/{spec.record}"
    try:
        with _open(url, folder) as answer:
            content = json.load(answer)
        found = [_remote(entry, spec) for entry in content["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(f"{url}: expected a record with a list of files, got other content ({error!r})") from None
    wanted = [remote for remote in found if any(fnmatch(remote.name, pattern) for pattern in spec.files)]
    if not wanted:
        names = ", ".join(remote.name for remote in found) or "none"
        raise DownloadError(f"{url}: expected files matching {', '.join(spec.files)}, found {names}; correct `files:`")
    return wanted


def _remote(entry: dict[str, Any], spec: DownloadSpec) -> Remote:
    name = str(entry["key"])
    page = f"{spec.base_url.rstrip('/')}/records/{spec.record}/files/{quote(name)}?download=1"
    url = entry.get("links", {}).get("self", page)
    return Remote(_safe(name, url), url, int(entry["size"]), entry.get("checksum"))


def _safe(name: str, url: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise DownloadError(f"{url}: expected a plain file name, got '{name}'; fetch it by hand under another name")
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{name}: expected an address of http or https, got {url}")
    return name


# ------------------------------------------------------------------------------------- fetching


def is_finished(remote: Remote, folder: Path) -> bool:
    """Whether the file is there with the record of the same published content; its bytes are not read again."""
    path, record = folder / remote.name, source_record(folder / remote.name)
    if not (path.is_file() and record.is_file()):
        return False
    known = read_json(record)
    if not isinstance(known, dict):
        return False
    same = known.get("checksum") == remote.checksum if remote.checksum else known.get("url") == remote.url
    return bool(same and known.get("n_bytes") == path.stat().st_size)


def source_record(path: Path) -> Path:
    """The record beside a downloaded file."""
    return path.with_name(f"{path.name}.source.json")


def require_space(remotes: Sequence[Remote], folder: Path) -> None:
    """Raise DownloadError when the disk cannot hold what is still to be fetched."""
    present = sum(_partial(folder / r.name).stat().st_size for r in remotes if _partial(folder / r.name).exists())
    needed = sum(remote.n_bytes or 0 for remote in remotes) - present
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: expected {needed / 1e9:.3g} GB of free disk, found {free / 1e9:.3g} GB; make room, "
            "or ask for fewer files by download.files"
        )


def fetch(
    remote: Remote, folder: Path, advance: Advance = lambda n: None, pause: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch one file, resuming what an earlier call left; returns its path.

    `advance` is told the bytes that came (negative when a file begins anew). Raises DownloadError.
    """
    path = folder / remote.name
    if is_finished(remote, folder):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():  # fetched by hand
        _verify(remote, path, by_hand=True)
    else:
        partial = _partial(path)
        with _locked(partial, remote):
            _fill(remote, partial, folder, advance, pause)
            _verify(remote, partial)
            fsync_file(partial)
            partial.rename(path)
            fsync_folder(folder)
    content = {"url": remote.url, "n_bytes": path.stat().st_size, "checksum": remote.checksum}
    write_json(source_record(path), content)
    return path


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.download")


@contextmanager
def _locked(partial: Path, remote: Remote) -> Iterator[None]:
    """Only one process fetches a file; the lock goes with its process."""
    with open(partial, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadError(f"{remote.name}: another process is fetching it; wait until it ends") from None
        yield


def _fill(remote: Remote, partial: Path, folder: Path, advance: Advance, pause: Callable[[float], None]) -> None:
    """Append until the file is complete; what came before a cut stays, and only attempts that bring nothing count."""
    failures, wait = 0, 1.0
    advance(partial.stat().st_size)
    while remote.n_bytes is None or partial.stat().st_size != remote.n_bytes:
        before = partial.stat().st_size
        if remote.n_bytes is not None and before > remote.n_bytes:
            _empty(partial, advance)
            before = 0
        try:
            _append(remote, partial, folder, advance)
            if remote.n_bytes is None:
                return
            reason: Exception = DownloadError("the connection ended early")
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and not _may_pass(error):
                raise _refused(remote.url, error, folder) from None
            reason = error
            wait = max(wait, _asked_wait(error))
        failures = 0 if partial.stat().st_size > before else failures + 1
        if failures >= ATTEMPTS:
            raise _refused(remote.url, reason, folder)
        if partial.stat().st_size != remote.n_bytes:
            pause(min(wait, _LONGEST_WAIT_S))
            wait = 1.0 if failures == 0 else wait * 2


def _append(remote: Remote, partial: Path, folder: Path, advance: Advance) -> None:
    """One request for what is missing, written behind what is there; from the start where ranges are not served."""
    start = partial.stat().st_size
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = _request(remote.url, headers)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _empty(partial, advance)
        answer = _request(remote.url, {})
        start = 0
    with answer, open(partial, "ab") as handle:
        if start and not _continues(answer, start):
            _empty(partial, advance)
        while block := answer.read(_BLOCK):
            handle.write(block)
            handle.flush()
            advance(len(block))
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)


def _continues(answer: Any, start: int) -> bool:
    """Whether the server sends what was asked for, and not the whole file again."""
    return answer.status == http.HTTPStatus.PARTIAL_CONTENT and str(answer.headers.get("Content-Range", "")).startswith(
        f"bytes {start}-"
    )


def _empty(partial: Path, advance: Advance) -> None:
    advance(-partial.stat().st_size)
    with open(partial, "r+b") as handle:
        handle.truncate(0)


def _verify(remote: Remote, path: Path, by_hand: bool = False) -> None:
    """Size and checksum as published; a partial file that fails is removed, one fetched by hand is left alone."""
    size, problem = path.stat().st_size, ""
    if remote.n_bytes is not None and size != remote.n_bytes:
        problem = f"expected {remote.n_bytes} bytes as published, got {size}"
    elif remote.checksum:
        kind, _, expected = remote.checksum.partition(":")
        found = _checksum(path, kind)
        if found != expected.lower():
            problem = f"expected checksum {remote.checksum}, got {kind}:{found}"
    if not problem:
        return
    if by_hand:
        raise DownloadError(f"{path}: {problem}; the file was there already: move it away and run again")
    path.unlink()
    raise DownloadError(f"{remote.url}: {problem}; what came was removed: run again, or ask who published it")


def _checksum(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------- HTTP


def _request(url: str, headers: dict[str, str]) -> Any:
    agent = {"User-Agent": f"caloforge/{__version__}", "Accept-Encoding": "identity"}
    return urllib.request.urlopen(urllib.request.Request(url, headers={**agent, **headers}), timeout=TIMEOUT_S)


def _open(url: str, folder: Path, pause: Callable[[float], None] = time.sleep) -> Any:
    """An answer, with patience for servers that are busy for a moment."""
    wait = 1.0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _request(url, {"Accept": "application/json"})
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or not _may_pass(error):
                raise _refused(url, error, folder) from None
            pause(min(max(wait, _asked_wait(error)), _LONGEST_WAIT_S))
            wait *= 2
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    """Whether the same request may do better later; no network at all is told at once."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    return not isinstance(error, urllib.error.URLError) or isinstance(error.reason, TimeoutError)


def _asked_wait(error: Exception) -> float:
    """Seconds that the server asks for by `Retry-After`."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return float(asked) if asked and asked.isdigit() else 0.0


def _refused(url: str, error: Exception, folder: Path) -> DownloadError:
    if isinstance(error, urllib.error.HTTPError):
        found = f"status {error.code} ({error.reason})"
    else:
        found = str(getattr(error, "reason", error)) or type(error).__name__
    return DownloadError(
        f"{url}: expected an answer, got {found}; try again later (what came is kept), "
        f"or fetch the file by hand and put it into {folder}/"
    )
