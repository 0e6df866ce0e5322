"""Records are written whole or not at all; digests cover content only."""

from __future__ import annotations

import socket

import pytest

from pipeline.provenance import (
    FingerprintCache,
    ProvenanceError,
    atomic_path,
    file_digest,
    fingerprint,
    read_json,
    tree_digest,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path) -> None:
    target = tmp_path / "record.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path) -> None:
    (tmp_path / f".record.json.{socket.gethostname()}-99999999.tmp").write_text("half")
    (tmp_path / f".record.json.{socket.gethostname()}-99999999.old.tmp").mkdir()
    elsewhere = tmp_path / ".record.json.another-host-99999999.tmp"
    elsewhere.write_text("perhaps alive")
    write_json(tmp_path / "record.json", {})
    assert {p.name for p in tmp_path.iterdir()} == {"record.json", elsewhere.name}


def test_nan_is_refused_in_records(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_missing_and_damaged_records_say_what_to_do(tmp_path) -> None:
    with pytest.raises(ProvenanceError, match="found no file; run the stage"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ProvenanceError, match=r"bad.json: expected JSON.*delete the file"):
        read_json(tmp_path / "bad.json")


def test_tree_digest_sees_names_and_content(tmp_path) -> None:
    (tmp_path / "a").write_text("1")
    first = tree_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = tree_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, tree_digest(tmp_path)}) == 3


def test_fingerprint_sees_size_and_content_of_small_files(tmp_path) -> None:
    path = tmp_path / "raw.h5"
    path.write_bytes(b"a" * 10)
    first = fingerprint(path)
    path.write_bytes(b"a" * 11)
    assert fingerprint(path) != first
    path.write_bytes(b"b" * 10)
    assert fingerprint(path) != first


def test_fingerprint_cache_reads_a_file_once(tmp_path, monkeypatch) -> None:
    path = tmp_path / "raw.h5"
    path.write_bytes(b"a")
    cache = FingerprintCache(tmp_path / "cache.json")
    value = cache(path)
    cache.save()
    monkeypatch.setattr("pipeline.provenance.fingerprint", lambda p: pytest.fail("read again"))
    assert FingerprintCache(tmp_path / "cache.json")(path) == value


def test_a_fingerprint_of_another_algorithm_is_taken_again(tmp_path) -> None:
    """It would be told as a file that changed under the run."""
    (tmp_path / "a").write_bytes(b"a")
    cache = FingerprintCache(tmp_path / "cache.json")
    value = cache(tmp_path / "a")
    cache.save()
    ((*state, _, _),) = read_json(tmp_path / "cache.json").values()
    for old in ([*state, "0" * 32], [*state, "blake2b", "0" * 32]):
        write_json(tmp_path / "cache.json", {str(tmp_path / "a"): old})
        assert FingerprintCache(tmp_path / "cache.json")(tmp_path / "a") == value


def test_file_digest_of_nothing_is_blake3(tmp_path) -> None:
    (tmp_path / "empty").touch()
    assert file_digest(tmp_path / "empty") == "af1349b9f5f9a1a6a0404dea36dcc949"
