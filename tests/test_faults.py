"""Faults of disks, files, clocks and processes: told in a line, nothing damaged, and the next run goes on.

Others have their place beside what they concern: truncated checkpoints in `test_training`, interrupted downloads in
`test_download`, manifests without stores in `test_store`, ends at every file operation in `test_crash`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import dataset, detector_with, make_part, same, write_raw
from test_quarantine import content
from workflow_fixtures import Workspace, environment

from pipeline import stages
from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.config import ComputeSpec, load_config
from pipeline.data.compute import client_for
from pipeline.data.formats import FormatError
from pipeline.data.ingest import IngestError, ingest
from pipeline.data.preprocess import preprocess_part
from pipeline.data.store import Part, StoreError
from pipeline.jobs import JOBS
from pipeline.plan import Plan
from pipeline.provenance import FingerprintCache, fingerprint

MESH = CylinderMesh(4, 6, 5, dr_mm=2.0, dz_mm=3.0)
NOBODY = 65534


def showers_of(n: int, seed: int = 0) -> Showers:
    rng = np.random.default_rng(seed)
    energy = (rng.exponential(0.5, (n, *MESH.shape)) * (rng.uniform(size=(n, *MESH.shape)) < 0.3)).astype(np.float32)
    return Showers(energy, rng.uniform(1000, 4000, n), np.full(n, np.pi / 2), np.zeros(n), MESH, "SiW")


def ingested(raw: Path, manifest: Path, expected: str | None = None) -> dict[str, Any]:
    return ingest(raw, manifest, dataset(), detector_with(MESH), "siw", 1, expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


# ------------------------------------------------------------------------------------------ disks


def test_a_full_disk_leaves_nothing_half_written_and_the_next_run_goes_on(tmp_path: Path, small_disk: Path) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20_000))
    with pytest.raises(OSError, match="No space left on device"):
        ingested(raw, small_disk / "part.json")
    assert not list(small_disk.iterdir())
    remount(small_disk, "size=16m")
    assert ingested(raw, small_disk / "part.json") == ingested(raw, tmp_path / "part.json")
    config = load_config(content())
    filling = small_disk / "filling"
    with pytest.raises(OSError, match="No space"), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 14))
    with pytest.raises(OSError, match="No space left on device"):
        preprocess_part(
            small_disk / "part.json", small_disk / "prefix.json", config.preprocessing["log"], config.splits
        )
    filling.unlink()
    assert {path.name for path in small_disk.iterdir()} == {"part.json", "part.zarr"}


def test_a_read_only_disk_is_told_and_leaves_what_is_there(tmp_path: Path, small_disk: Path) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20))
    before = ingested(raw, small_disk / "part.json")
    remount(small_disk, "ro")
    with pytest.raises(OSError, match="Read-only file system"):
        ingested(raw, small_disk / "part.json")
    with pytest.raises(OSError, match="Read-only file system"):
        ingested(raw, small_disk / "other.json")
    Part.open(small_disk / "part.json").verify()
    remount(small_disk, "rw")
    assert ingested(raw, small_disk / "part.json") == before


def as_nobody(function: Callable[[], object]) -> str:
    """The error of the function in a process without root's rights, as `Type: words`."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            function()
            words = "nothing"
        except BaseException as error:
            words = f"{type(error).__name__}: {error}"
        os.write(write, words.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        words = answer.read()
    os.waitpid(pid, 0)
    return words


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter."""
    if os.getuid():
        pytest.skip("becoming another user needs root")
    folder = Path(tempfile.mkdtemp(prefix="caloforge-faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_named(shared: Path) -> None:
    raw = write_raw(shared / "raw.h5", showers_of(3))
    raw.chmod(0o644)
    (shared / "store").mkdir(0o755)
    assert as_nobody(lambda: ingested(raw, shared / "store" / "part.json")).startswith("PermissionError: ")
    assert not list((shared / "store").iterdir())


def test_a_raw_file_without_permission_is_no_bad_file(shared: Path) -> None:
    raw = write_raw(shared / "raw.h5", showers_of(3))
    raw.chmod(0o600)
    with pytest.raises(AssertionError):
        assert as_nobody(raw.read_bytes) == "nothing"
    (shared / "store").mkdir()
    (shared / "store").chmod(0o777)
    words = as_nobody(lambda: ingested(raw, shared / "store" / "part.json"))
    assert words.startswith(f"PermissionError: {raw}: expected a file that may be read"), words


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def while_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Makes something happen once, when the first block of a raw file has been read."""

    def happen(what: Callable[[], object]) -> None:
        from pipeline.data import ingest as module

        original, waiting = module.shower_hashes, [what]

        def hashes(showers: Any) -> Any:
            if waiting:
                waiting.pop()()
            return original(showers)

        monkeypatch.setattr(module, "shower_hashes", hashes)

    return happen


def test_a_file_that_vanishes_while_it_is_read_is_no_part(tmp_path: Path, while_read: Any) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20))
    while_read(raw.unlink)
    with pytest.raises(IngestError, match=r"raw.h5: expected the file that was there when ingest began, found none"):
        ingested(raw, tmp_path / "part.json")
    assert not list(tmp_path.glob("*part*"))


@pytest.mark.parametrize("how", ["replaced", "overwritten", "truncated"])
def test_a_file_replaced_under_a_running_job_is_no_part(tmp_path: Path, while_read: Any, how: str) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20))
    other = write_raw(tmp_path / "other.h5", showers_of(20, seed=1))
    change = {
        "replaced": lambda: os.replace(other, raw),
        "overwritten": lambda: raw.write_bytes(other.read_bytes()),
        "truncated": lambda: os.truncate(raw, 1000),
    }
    while_read(change[how])
    with pytest.raises(IngestError, match=r"raw.h5: expected the file that was there .*found another one; run again"):
        ingested(raw, tmp_path / "part.json")
    assert not list(tmp_path.glob("*part*"))


def test_a_file_replaced_since_the_run_began_waits_for_the_next_run(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20))
    found = fingerprint(raw)
    write_raw(raw, showers_of(20, seed=1))
    with pytest.raises(IngestError, match=rf"expected the content that was found when this run began \(.*{found}\)"):
        ingested(raw, tmp_path / "part.json", expected=found)
    assert ingested(raw, tmp_path / "part.json", expected=fingerprint(raw))["n_showers"] == 20


def test_a_copy_that_keeps_size_and_date_is_seen(tmp_path: Path) -> None:
    raw = tmp_path / "raw.h5"
    raw.write_bytes(b"a" * 100)
    cache, stat = FingerprintCache(tmp_path / "cache.json"), raw.stat()
    before = cache(raw)
    raw.write_bytes(b"b" * 100)
    os.utime(raw, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache(raw) != before


HARMLESS = ("incident_phi", "phi", "r", "z")  # zeros, and coordinates that are made from the manifest


@pytest.mark.parametrize("n", [20, 20_000])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_any_damaged_file_of_a_store_is_found(tmp_path: Path, damage: str, n: int) -> None:
    part = make_part(tmp_path, showers_of(n))
    whole = part.read()
    for path in sorted(p for p in part.store.rglob("*") if p.is_file()):
        kept = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            flipped = bytearray(kept)
            flipped[len(kept) // 2] ^= 0xFF
            path.write_bytes({"empty": b"", "cut": kept[: len(kept) // 2], "flipped": bytes(flipped)}[damage])
        with pytest.raises(StoreError, match=r"a.json: .*(delete|run again)"):
            Part.open(part.path).verify()
        try:
            damaged = Part.open(part.path)
            read = damaged.read()
            damaged.shower_hash  # noqa: B018
        except StoreError as error:
            assert "a.json: expected" in str(error)
        else:
            assert damage == "flipped" or same(read, whole), path
        path.write_bytes(kept)
    Part.open(part.path).verify()


# ------------------------------------------------------------------------------ clocks and processes


def test_a_clock_that_runs_backwards_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_raw(tmp_path / "raw.h5", showers_of(20))
    first = ingested(raw, tmp_path / "part.json")
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    assert ingested(raw, tmp_path / "part.json") == first
    os.utime(raw, (0, 0))
    assert ingested(raw, tmp_path / "part.json") == first


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Three good raw files, one recipe, one small run."""
    from raw_files import valid

    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for seed in (1, 2, 3):
        valid("par04_events", seed).write(tmp_path / "raw" / f"good{seed}.h5")
    workspace = Workspace(tmp_path)
    workspace.configure(content())
    return workspace


def test_a_job_killed_by_the_kernel_is_told_in_status(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.discover(load_config(project.config_file))
    code = f"""
import os, signal
from pipeline.data import part_writer
part_writer.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from pipeline.cli import main
main(["ingest", "--config", {str(project.config_file)!r}, "--dataset", "siw", "--part", "good1"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, env=environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    job = JOBS["ingest"](plan, "siw", "good1")
    assert job.failure() == "the process ended without a word; see the log beside this"
    stages.ingest(plan, "siw", "good1", 1)
    Part.open(job.output).verify()
    assert not list(job.output.parent.glob(".*"))


@pytest.mark.slow
def test_a_dask_worker_killed_by_the_kernel_costs_only_time(tmp_path: Path) -> None:
    fuse = str(tmp_path / "fuse")
    Path(fuse).touch()
    with client_for(ComputeSpec(scheduler="distributed", workers=2)) as workers:
        assert list(workers.in_order(_dying_once, [(i, fuse) for i in range(6)])) == [i * i for i in range(6)]
    assert not Path(fuse).exists()


def _dying_once(item: tuple[int, str]) -> int:
    number, fuse = item
    if number == 3 and os.path.exists(fuse):
        os.unlink(fuse)
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.slow
def test_two_jobs_on_one_part_at_once_leave_it_whole(project: Workspace) -> None:
    plan = Plan.discover(load_config(project.config_file))
    command = [sys.executable, "-m", "pipeline", "ingest", "--config", str(project.config_file), "--dataset", "siw"]
    running = [subprocess.Popen([*command, "--part", "good1"], cwd=project.folder, env=environment()) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    part = Part.open(plan.paths.part("siw", "good1"))
    part.verify()
    assert part.n_showers == 5 and not list(part.path.parent.glob(".*"))


@pytest.mark.slow
def test_two_snakemake_runs_at_once_and_clocks_that_jump_change_no_byte(project: Workspace) -> None:
    running = [
        subprocess.Popen(
            project.command(cores=1), cwd=project.folder, env=environment(), stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    words = [process.communicate()[0] for process in running]
    assert any(process.returncode == 0 for process in running), words
    assert all(p.returncode == 0 or "lock" in w.lower() for p, w in zip(running, words, strict=True)), words
    project.snakemake()
    assert project.jobs() == {}
    first = project.digests()
    made = [path for top in ("data", "results") for path in (project.folder / top).rglob("*") if path.is_file()]
    for instant in (10**8, 4 * 10**9):  # 1973, 2096
        for path in made:
            os.utime(path, (instant, instant))
        project.snakemake()
        assert project.digests() == first


def test_hostile_names_do_not_climb_out(project: Workspace) -> None:
    """A part is named after its file; whatever the name, it lies in the data set's folder."""
    for name in ("..", ".hidden", "a b;rm -rf", "$(touch x)", "é\n"):
        shutil.copy(project.folder / "raw" / "good1.h5", project.folder / "raw" / f"{name}.h5")
    plan = Plan.discover(load_config(project.config_file))
    for manifest in plan.part_manifests("siw"):
        assert manifest.resolve().parent == (project.folder / plan.paths.part("siw", "x").parent).resolve()
        assert all(c.isascii() and (c.isalnum() or c in "._+-") for c in manifest.name)


def test_errors_of_the_file_itself_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no file"):
        ingested(tmp_path / "none.h5", tmp_path / "part.json")
