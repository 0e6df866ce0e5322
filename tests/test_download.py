"""Downloads from a server of our own that misbehaves on demand: cuts, wrong content, no ranges, busy, gone."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import ConfigError, load_config
from pipeline.config.download import DownloadSpec
from pipeline.data import download
from pipeline.data.download import DownloadError, Remote, fetch, is_finished, listing, require_space
from pipeline.plan import Plan

CONTENT = np.random.default_rng(1).bytes(3_000_000)
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `files`; `cuts` are byte counts after which a connection ends, `answers` statuses given instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"siw_1.h5": CONTENT, "siw_2.h5": CONTENT[:1000], "readme.txt": b"words"}
        self.cuts: list[int] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.ranges = True
        self.slow_s = 0.0
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def record(self) -> bytes:
        """What Zenodo's API says of a record."""
        files = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}",
                "links": {"self": f"{self.url}/api/records/42/files/{name}/content"},
            }
            for name, content in self.files.items()
        ]
        return json.dumps({"id": 42, "files": files}).encode()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if self.server.answers:
            status, headers = self.server.answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        if self.path == "/api/records/42":
            content, start = self.server.record(), 0
        else:
            name = next((n for n in self.server.files if f"/{n}" in self.path), None)
            if name is None:
                self.send_error(404)
                return
            content = self.server.files[name]
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        time.sleep(self.server.slow_s)
        body = content[start:]
        if self.server.cuts and "files" in self.path:
            body = body[: self.server.cuts.pop(0)]
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def remote(server: Server) -> Remote:
    return Remote("siw_1.h5", f"{server.url}/files/siw_1.h5", len(CONTENT), MD5)


def get(remote: Remote, folder: Path, waits: list[float] | None = None) -> Path:
    return fetch(remote, folder, pause=(waits if waits is not None else []).append)


def test_a_record_is_listed_by_pattern(server, tmp_path) -> None:
    found = listing(DownloadSpec(record=42, files="siw*", base_url=server.url), tmp_path)
    assert [(r.name, r.n_bytes) for r in found] == [("siw_1.h5", len(CONTENT)), ("siw_2.h5", 1000)]
    assert found[0].checksum == MD5 and found[0].url.endswith("/files/siw_1.h5/content")


def test_plain_addresses_need_no_record(server, tmp_path) -> None:
    spec = DownloadSpec(urls=[{"url": f"{server.url}/files/siw_1.h5?download=1", "checksum": MD5}])
    (found,) = listing(spec, tmp_path)
    assert found.name == "siw_1.h5" and get(found, tmp_path).read_bytes() == CONTENT


def test_a_file_comes_whole_with_its_record_and_is_never_fetched_again(server, remote, tmp_path) -> None:
    seen: list[int] = []
    fetch(remote, tmp_path, advance=seen.append)
    assert (tmp_path / "siw_1.h5").read_bytes() == CONTENT and sum(seen) == len(CONTENT)
    assert json.loads((tmp_path / "siw_1.h5.source.json").read_text())["checksum"] == MD5
    assert is_finished(remote, tmp_path)
    asked = len(server.asked)
    get(remote, tmp_path)
    assert len(server.asked) == asked
    assert sorted(p.name for p in tmp_path.iterdir()) == ["siw_1.h5", "siw_1.h5.source.json"]


def test_cut_connections_are_resumed_where_they_ended(server, remote, tmp_path) -> None:
    server.cuts = [1_000_000, 500_000]
    assert get(remote, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_killed_download_goes_on_in_the_next_call(server, remote, tmp_path) -> None:
    (tmp_path / ".siw_1.h5.download").write_bytes(CONTENT[:2_000_000])
    assert get(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("/files/siw_1.h5", "bytes=2000000-")]


def test_a_server_without_ranges_is_asked_for_all(server, remote, tmp_path) -> None:
    server.ranges, server.cuts = False, [1_000_000]
    assert get(remote, tmp_path).read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_begun_anew(server, remote, tmp_path) -> None:
    (tmp_path / ".siw_1.h5.download").write_bytes(b"x" * (len(CONTENT) + 5))
    assert get(remote, tmp_path).read_bytes() == CONTENT


def test_a_range_that_does_not_exist_is_begun_anew(server, remote, tmp_path) -> None:
    (tmp_path / ".siw_1.h5.download").write_bytes(CONTENT[:10])
    server.answers = [(416, {})]
    assert get(Remote(remote.name, remote.url, None, MD5), tmp_path).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_removed(server, remote, tmp_path) -> None:
    server.files["siw_1.h5"] = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"siw_1.h5: expected checksum md5:.*, got md5:.*; what came was removed"):
        get(remote, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_given_time(server, remote, tmp_path) -> None:
    server.answers = [(429, {"Retry-After": "7"}), (503, {}), (500, {})]
    waits: list[float] = []
    assert get(remote, tmp_path, waits).read_bytes() == CONTENT
    assert waits[0] == 7 and len(waits) == 3 and waits[2] > waits[1]


def test_a_server_that_stays_busy_is_given_up(server, remote, tmp_path) -> None:
    server.answers = [(503, {})] * 20
    with pytest.raises(DownloadError, match=r"expected an answer, got status 503 .*put it into"):
        get(remote, tmp_path)
    assert len(server.asked) == download.ATTEMPTS


def test_a_file_that_is_gone_is_told_at_once(server, tmp_path) -> None:
    waits: list[float] = []
    with pytest.raises(DownloadError, match=r"files/none.h5: expected an answer, got status 404"):
        get(Remote("none.h5", f"{server.url}/files/none.h5", 5, None), tmp_path, waits)
    assert waits == []


def test_a_slow_server_is_not_waited_for_without_end(server, remote, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.slow_s = 2.0
    with pytest.raises(DownloadError, match="timed out"):
        get(remote, tmp_path)


def test_without_a_network_the_address_and_the_folder_are_named(tmp_path) -> None:
    spec = DownloadSpec(record=42, base_url="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9/api/records/42: expected an answer, got .*by hand"):
        listing(spec, tmp_path / "raw")


def test_a_full_disk_is_told_before(remote, tmp_path) -> None:
    with pytest.raises(DownloadError, match=r"expected 1e\+09 GB of free disk, found"):
        require_space([Remote("huge.h5", remote.url, 10**18, None)], tmp_path)


def test_a_file_fetched_by_hand_is_verified(remote, tmp_path) -> None:
    (tmp_path / "siw_1.h5").write_bytes(CONTENT)
    get(remote, tmp_path)
    assert is_finished(remote, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "siw_1.h5").write_bytes(b"else")
    with pytest.raises(DownloadError, match="expected 3000000 bytes as published, got 4; the file was there already"):
        get(remote, tmp_path / "other")


def test_two_processes_do_not_fetch_one_file(remote, tmp_path) -> None:
    with (
        download._locked(tmp_path / ".siw_1.h5.download", remote),
        pytest.raises(DownloadError, match="another process"),
    ):
        get(remote, tmp_path)


@pytest.mark.parametrize("name", ["../evil.h5", ".hidden", "a/b.h5"])
def test_names_that_lead_elsewhere_are_refused(server, name, tmp_path) -> None:
    server.files = {name: b"x"}
    with pytest.raises(DownloadError, match="expected a plain file name"):
        listing(DownloadSpec(record=42, base_url=server.url), tmp_path)


def test_what_is_no_record_is_explained(server, tmp_path) -> None:
    with pytest.raises(DownloadError, match=r"expected files matching \*.hdf5, found siw_1.h5, siw_2.h5, readme.txt"):
        listing(DownloadSpec(record=42, files="*.hdf5", base_url=server.url), tmp_path)
    server.record = lambda: b"<html>"
    with pytest.raises(DownloadError, match="expected a record with a list of files"):
        listing(DownloadSpec(record=42, base_url=server.url), tmp_path)


def configure(folder: Path, server: Server, test_config) -> Path:
    spec = test_config["datasets"]["test_siw"]
    del spec["simulate"]
    spec |= {"files": "raw/siw/*.h5", "download": {"record": 42, "files": "*.h5", "base_url": server.url}}
    path = folder / "mine.yaml"
    path.write_text(json.dumps(test_config))
    return path


def test_the_command_lists_fetches_and_is_named_where_files_are_missing(
    server, tmp_path, monkeypatch, test_config, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    path = configure(tmp_path, server, test_config)
    with pytest.raises(ConfigError, match=r"found none below .*; run `caloforge download test_siw`"):
        Plan.discover(load_config(path))
    assert main(["download", "--config", str(path), "--dry-run"]) == 0
    assert "2 files, 3 MB to fetch" in capsys.readouterr().out and not Path("raw").exists()
    assert main(["download", "test_siw", "--config", str(path)]) == 0
    assert Path("raw/siw/siw_1.h5").read_bytes() == CONTENT
    assert Plan.discover(load_config(path)).parts("test_siw") == ["siw_1", "siw_2"]
    assert main(["download", "--config", str(path)]) == 0
    assert "0 files, 0 B to fetch" in capsys.readouterr().out
    assert main(["download", "nobody", "--config", str(path)]) == 1
    assert "expected a data set with `download:`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("download", "message"),
    [
        ({}, "expected 'record' or 'urls'"),
        ({"record": "x"}, "string should match pattern"),
        ({"urls": [{"url": "ftp://x/y.h5"}]}, "string should match pattern"),
        ({"urls": [{"url": "http://x/y.h5", "checksum": "crc:1"}]}, "string should match pattern"),
    ],
)
def test_a_wrong_specification_is_refused(test_config, download, message) -> None:
    test_config["datasets"]["test_siw"]["download"] = download
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        load_config(test_config)


def test_where_files_come_from_does_not_touch_their_parts(test_config) -> None:
    before = load_config(test_config).reading_key("test_siw")
    test_config["datasets"]["test_siw"]["download"] = {"record": "42"}
    assert load_config(test_config).reading_key("test_siw") == before
