"""Next month's files: what `status` lists, what `why` explains, and that both agree with what Snakemake does."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from habits_fixtures import CONTENT, add_file, small_workspace, snakemake_options
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.commands.pending import Pending, PendingError, pending
from pipeline.commands.why import explain
from pipeline.config import load_config
from pipeline.jobs import JOBS, jobs, recorded
from pipeline.plan import Plan
from pipeline.provenance import code_digest, read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The small experiment, run to its end."""
    workspace = small_workspace(tmp_path_factory.mktemp("habits"))
    workspace.snakemake()
    return workspace


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished experiment, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def answer(workspace: Workspace, *arguments: str) -> Any:
    """What a command prints as JSON."""
    done = workspace.caloforge(*arguments, "--config", "experiment.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def file_states(workspace: Workspace) -> dict[str, str]:
    files = answer(workspace, "status")["datasets"]["siw"]["files"]
    return {entry["part"]: entry["state"] for entry in files}


def why(workspace: Workspace, *target: str) -> dict[str, dict[str, Any]]:
    return {job["job"]: job for job in answer(workspace, "why", *target, f"--snakemake={snakemake_options()}")}


def test_our_jobs_are_those_of_snakemake(tmp_path, monkeypatch) -> None:
    workspace = Workspace(tmp_path)
    workspace.configure(yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    found = pending([*snakemake_options().split(), "--configfile", "experiment.yaml"])
    theirs = {output for job in found for output in job.outputs if job.rule != "all"}
    every = jobs(Plan.discover(load_config("experiment.yaml")))
    ours = {job.output for job in every}
    assert ours <= theirs
    logs = {output: job.log for job in found for output in job.outputs}
    assert {job.output: job.log for job in every} == {output: logs[output] for output in ours}
    assert {path.with_suffix("") for path in theirs} == {path.with_suffix("") for path in ours} | {
        path.with_suffix("") for path in theirs if path.name.endswith(".h5.json")
    }


def test_a_saved_plan_has_the_same_jobs_and_order_and_another_order_the_same_jobs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
    plan = Plan.discover(load_config(content))
    saved = Plan.load(plan.save())
    assert list(saved.config.samples) == list(plan.config.samples) == list(content["samples"])
    turned = {key: dict(reversed(content[key].items())) for key in ("runs", "samples", "datasets")}
    other = Plan.discover(load_config({**content, **turned}))
    assert other.save() != plan.save()
    assert list(Plan.load(other.save()).config.samples) == list(turned["samples"])
    origins = [{job.output: job.made_from() for job in jobs(p)} for p in (plan, saved, other)]
    assert origins[0] == origins[1] == origins[2]


def test_what_snakemake_refuses_is_told_in_its_words(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with pytest.raises(PendingError, match=r"snakemake --dry-run: .*No Snakefile found"):
        pending([])


def test_when_all_is_made_nothing_would_run_and_all_is_current(finished) -> None:
    assert why(finished) == {}
    found = answer(finished, "status")
    assert found["datasets"]["siw"]["states"] == {"ingested": 2} and found["datasets"]["siw"]["showers"] == 48
    assert {job["state"] for stage in found["stages"].values() for job in stage} == {"current"}
    assert found["stages"]["train"][0]["cost"]["cpu_seconds"] > 0


def test_files_that_come_change_and_go_are_listed_and_explained(workspace) -> None:
    add_file(workspace, "late", seed=3)
    add_file(workspace, "b", seed=7)
    shutil.copy(workspace.folder / "raw" / "late.h5", workspace.folder / "raw" / "twin.h5")
    (workspace.folder / "raw" / "broken.h5").write_bytes(b"not HDF5")
    (workspace.folder / "raw" / "a.h5").unlink()
    states = {"late": "new", "twin": "new", "b": "changed", "broken": "new", "a": "removed"}
    assert file_states(workspace) == states

    found = why(workspace)
    assert {name for name in found if name.startswith("ingest")} == {
        f"ingest siw/{part}" for part in ("late", "twin", "b", "broken")
    }
    assert found["ingest siw/late"]["causes"] == ["raw/late.h5: a new file"]
    assert found["ingest siw/b"]["causes"][0].startswith("raw/b.h5: its content changed (")
    assert not found["ingest siw/b"]["estimated"] and found["ingest siw/late"]["estimated"]
    assert "raw/a.h5: the file is gone" in found["merge log/siw"]["causes"]
    assert found["preprocess log/siw/late"]["below"] == "below ingest siw/late"

    with pytest.raises(AssertionError, match=r"broken\.h5"):
        workspace.snakemake()
    assert file_states(workspace) == {
        **states,
        "late": "ingested",
        "twin": "ingested",
        "b": "ingested",
        "broken": "failed",
    }
    entries = {e["part"]: e for e in answer(workspace, "status")["datasets"]["siw"]["files"]}
    assert "expected a whole HDF5 file" in entries["broken"]["reason"]
    assert entries["twin"]["identical_to"] == "raw/late.h5"
    assert entries["twin"]["duplicated"] == {"showers": 24, "also_in": "late"}
    assert "its last run failed" in why(workspace)["ingest siw/broken"]["causes"][0]

    (workspace.folder / "raw" / "broken.h5").unlink()
    workspace.snakemake()
    merged = read_json(workspace.folder / "results" / "small" / "merge" / "log" / "siw.json")
    assert "/a.json" not in json.dumps(merged) and why(workspace) == {}


def test_a_changed_key_is_named_with_both_values(workspace) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["preprocessing"]["log"] = [{"log1p": {"scale_mev": 0.5}}, "standardise"]
    content["runs"]["representation"]["training"]["batch_size"] = 4
    workspace.configure(content)
    found = why(workspace)
    assert not any(name.startswith("ingest") for name in found)
    changed = "preprocessing.log.steps.log1p.scale_mev: 0.01 -> 0.5"
    assert found["preprocess log/siw/a"]["causes"] == [changed]
    assert found["merge log/siw"]["causes"] == [changed]
    assert found["train representation"]["causes"] == ["runs.representation.training.batch_size: 8 -> 4"]
    states = answer(workspace, "status")["stages"]
    assert states["preprocess"][0]["state"] == "missing" and states["train"][0]["state"] == "outdated"
    assert set(why(workspace, "merge/log/siw")) == {"preprocess log/siw/a", "preprocess log/siw/b", "merge log/siw"}


def test_another_reading_of_the_same_files_is_explained(workspace) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["datasets"]["siw"]["particle"] = "e+"
    workspace.configure(content)
    assert why(workspace)["ingest siw/a"]["causes"] == ["datasets.siw.particle: e- -> e+"]
    assert file_states(workspace) == {"a": "new", "b": "new"}


def test_an_unknown_target_is_refused(finished) -> None:
    done = finished.caloforge("why", "train/nobody", "--config", "experiment.yaml")
    assert done.returncode == 1 and "expected an output or one of merge/log/siw" in done.stderr


def test_status_says_it_in_a_table(finished) -> None:
    done = finished.caloforge("status", "small", "--config", "experiment.yaml", "--all")
    assert "siw: 2 ingested; 48 showers" in done.stdout and "raw/a.h5  ingested" in done.stdout
    assert "preprocess" in done.stdout


def test_a_job_killed_without_a_word_has_failed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.h5").write_bytes(b"a")
    plan = Plan.discover(load_config(CONTENT))
    job = JOBS["ingest"](plan, "siw", "a")
    with recorded(plan, job):
        assert job.state({}) == "running"
        record = job.record("error")
        killed = record.read_text()
    assert job.measured()["peak_mb"] > 0 and job.failure() is None
    assert job.measured()["code"] == code_digest()[:12]
    record.write_text(killed.replace(f'"process": {json.loads(killed)["process"]}', '"process": 999999999'))
    assert job.state({}) == "failed" and "without a word" in str(job.failure())
    (tmp_path / "raw" / "a.h5").write_bytes(b"another")
    assert JOBS["ingest"](Plan.discover(load_config(CONTENT)), "siw", "a").state({}) == "missing"


def prune(workspace: Workspace, *arguments: str) -> tuple[int, str]:
    done = workspace.caloforge("prune", "--config", "experiment.yaml", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_what_nothing_asks_for_is_listed_and_then_pruned(workspace) -> None:
    assert prune(workspace) == (0, "nothing to prune: all is asked for by small\n")
    folder = workspace.folder
    store = next((folder / "data" / "store").iterdir())
    (folder / "raw" / "a.h5").unlink()
    shutil.copytree(store, folder / "data" / "store" / "other-01234567")
    (store / "killed.zarr").mkdir()
    (folder / "data" / "preprocessed" / "old-0123").mkdir()
    (folder / "results" / "small" / "train" / "gone").mkdir()
    (folder / "results" / "small" / "generate").mkdir()
    (folder / "results" / "small" / "generate" / "gone.h5").write_bytes(b"x")
    (folder / "results" / "small" / "plans" / "0123.json").write_text("{}")
    (folder / "results" / "else").mkdir()
    leftover = store / f".b.json.{socket.gethostname()}-999999999.tmp"
    leftover.write_text("")
    before = {path for path in (folder / "raw").iterdir()}

    status, listed = prune(workspace)
    assert status == 0 and "nothing was removed: add --yes" in listed and (store / "a.json").exists()
    for path, reason in {
        f"{store.relative_to(folder)}/a.json": "its raw file is gone",
        "data/store/other-01234567": "no configuration has such a data set",
        f"{store.relative_to(folder)}/killed.zarr": "its raw file is gone",
        "data/preprocessed/old-0123": "no configuration has this recipe",
        "results/small/train/gone": "has no such run any more",
        "results/small/generate/gone.h5": "does not name it any more",
        "results/small/plans/0123.json": "a plan that nothing lying here was made under",
        str(leftover.relative_to(folder)): "left behind by a process that is dead",
        "results/else: results of an experiment whose configuration was not given": "left alone",
    }.items():
        assert any(path in line and reason in line for line in listed.splitlines()), (path, listed)

    status, removed = prune(workspace, "--yes")
    assert status == 0 and removed.rstrip().endswith("removed")
    assert sorted(p.name for p in store.iterdir()) == ["b.json", "b.zarr"]
    assert {path for path in (folder / "raw").iterdir()} == before and (folder / "results" / "else").exists()
    assert prune(workspace)[1].endswith("nothing to prune: all is asked for by small\n")


def test_prune_keeps_what_a_lock_names_and_refuses_beside_a_run(workspace) -> None:
    assert workspace.caloforge("freeze", "experiment.yaml", "--output", "lock.json").returncode == 0
    add_file(workspace, "late", seed=3)
    workspace.configure({**CONTENT, "data_lock": "lock.json"})
    assert "nothing to prune" in prune(workspace)[1]
    lock = workspace.folder / ".snakemake" / "locks" / "0.input.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("x")
    status, message = prune(workspace, "--yes")
    assert status == 1 and "expected no lock of Snakemake here, found one" in message


def test_files_that_are_still_to_be_simulated_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.discover(load_config(REPOSITORY / "config" / "test.yaml"))
    job = JOBS["ingest"](plan, "test_siw", "test_siw_0001")
    (told,) = explain(plan, jobs(plan), [Pending("ingest", (job.output,), "Missing output files: x")])
    assert told["causes"] == ["data/raw/test_siw/test_siw_0001.h5: to be simulated"]
    assert told["wall_seconds"] is None and told["estimated"]
