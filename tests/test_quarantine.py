"""A refused file in quarantine: on record with its reason, and everything else as if it were not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from raw_files import valid
from workflow_fixtures import Workspace

from pipeline import stages
from pipeline.cli import main
from pipeline.config import ConfigError, load_config
from pipeline.data.store import Part, StoreError
from pipeline.figures.report import write_report
from pipeline.plan import Plan, freeze
from pipeline.provenance import file_digest, read_json
from pipeline.quarantine import accepted, check_quarantine, quarantined
from pipeline.survey import survey

MESH = {"cells": [4, 6, 5], "dr_mm": 2.0, "dz_mm": 3.0}
TRAINING = {"samples": 32, "batch_size": 8}
MODEL = {"name": "masked_vit", "patch": [2, 3, 1], "width": 8, "depth": 1, "heads": 2, "decoder_width": 8}


def content(**changes: Any) -> dict[str, Any]:
    """Two good raw files and whatever else lies in `raw/`, one recipe, one run."""
    siw = {"format": "par04_events", "files": "raw/*.h5", "detector": "SiW", "mesh": MESH, "angle_deg": 90}
    return {
        "experiment": "kept",
        "on_bad_file": "quarantine",
        "datasets": {"siw": {**siw, "sampling_corrected": False}},
        "splits": {"train": 0.8, "validation": 0.1, "test": 0.1},
        "preprocessing": {"log": [{"log1p": {"scale_mev": 0.01}}, "standardise"]},
        "runs": {"ssl": {"model": MODEL, "data": ["siw"], "recipe": "log", "training": TRAINING}},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good files and a truncated one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: None)
    (tmp_path / "raw").mkdir()
    for seed in (1, 2):
        valid("par04_events", seed).write(tmp_path / "raw" / f"good{seed}.h5")
    spoil(tmp_path / "raw" / "bad.h5")
    return tmp_path


def spoil(path: Path) -> None:
    whole = valid("par04_events", 3).write(path)
    whole.write_bytes(whole.read_bytes()[:-100])


def run(plan: Plan) -> Path:
    """Ingest, preprocess and merge everything; returns the merged transform."""
    for part in plan.parts("siw"):
        stages.ingest(plan, "siw", part, 1)
        stages.preprocess(plan, "siw", part, "log", 1)
    return stages.merge(plan, "log", "siw", 1)


def discovered(**changes: Any) -> Plan:
    return Plan.discover(load_config(content(**changes)))


def test_everything_is_made_as_if_the_file_were_not_there(folder: Path) -> None:
    with_it = file_digest(run(discovered()))
    shutil.rmtree(folder / "data")
    (folder / "raw" / "bad.h5").unlink()
    assert file_digest(run(discovered())) == with_it


def test_the_reason_is_in_status_and_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = discovered()
    run(plan)
    found = {entry["part"]: entry for entry in survey(plan)["datasets"]["siw"]["files"]}
    assert {part: entry["state"] for part, entry in found.items()} == {
        "bad": "quarantined",
        "good1": "ingested",
        "good2": "ingested",
    }
    assert found["bad"]["reason"].startswith("raw/bad.h5: expected a whole HDF5 file")
    assert found["bad"]["showers"] == 0 and found["bad"]["stored_bytes"] == 0
    (folder / "kept.yaml").write_text(yaml.safe_dump(content()))
    assert main(["status", "kept.yaml"]) == 0
    assert "1 quarantined" in (printed := capsys.readouterr().out) and "expected a whole HDF5 file" in printed
    write_report(folder / "report.html", title="kept", rows=[], figures={}, quarantined=quarantined(plan))
    assert "raw/bad.h5: expected a whole HDF5 file" in (folder / "report.html").read_text()


def test_a_replaced_file_is_taken_back(folder: Path) -> None:
    plan = discovered()
    run(plan)
    manifests = plan.part_manifests("siw")
    assert [path.stem for path in accepted(manifests)] == ["good1", "good2"]
    refused = plan.ingest_key("siw", "bad")
    valid("par04_events", 3).write(folder / "raw" / "bad.h5")
    plan = discovered()
    assert plan.ingest_key("siw", "bad") != refused
    assert {entry["state"] for entry in survey(plan)["datasets"]["siw"]["files"] if entry["part"] == "bad"} == {
        "changed"
    }
    run(plan)
    assert accepted(manifests) == manifests and not quarantined(plan)
    assert Part.open(plan.paths.part("siw", "bad")).n_showers == 5


def test_a_good_file_replaced_by_a_bad_one_leaves_no_old_part(folder: Path) -> None:
    valid("par04_events", 3).write(folder / "raw" / "bad.h5")
    run(discovered())
    spoil(folder / "raw" / "bad.h5")
    plan = discovered()
    run(plan)
    beside = sorted(p.name for top in ("store", "preprocessed") for p in (folder / "data" / top).rglob("bad.*"))
    assert beside == ["bad.json", "bad.json"]
    with pytest.raises(StoreError, match=r"bad.json: expected a part, found the record of a refused raw file"):
        Part.open(plan.paths.part("siw", "bad"))


def test_stop_refuses_the_file_and_what_an_earlier_run_put_into_quarantine(folder: Path) -> None:
    plan = discovered(on_bad_file="stop")
    with pytest.raises(ValueError, match=r"bad.h5: expected a whole HDF5 file"):
        stages.ingest(plan, "siw", "bad", 1)
    assert not plan.paths.part("siw", "bad").exists()
    check_quarantine(plan)
    run(discovered())
    with pytest.raises(ConfigError, match=r"on_bad_file: expected no raw file in quarantine with 'stop', found 1"):
        check_quarantine(plan)
    assert plan.run_key("ssl") == discovered().run_key("ssl")  # the setting itself re-runs nothing
    assert plan.report_key() == discovered().report_key()


def test_what_is_not_the_file_s_fault_is_no_refusal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = discovered()
    (folder / "raw" / "bad.h5").unlink()
    with pytest.raises(ValueError, match="found no file"):
        stages.ingest(plan, "siw", "bad", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.data.part_writer.publish", full)
    with pytest.raises(OSError, match="No space left"):
        stages.ingest(plan, "siw", "good1", 1)
    assert not quarantined(plan)


def test_all_files_refused_is_an_error_and_a_lock_leaves_them_out(folder: Path) -> None:
    plan = discovered()
    run(plan)
    lock = freeze(plan, folder / "lock.json")
    assert sorted(lock["datasets"]["siw"]) == ["good1", "good2"]
    assert Plan.discover(load_config(content(data_lock="lock.json"))).parts("siw") == ["good1", "good2"]
    for seed in (1, 2):
        spoil(folder / "raw" / f"good{seed}.h5")
    with pytest.raises(StoreError, match="merge: expected at least one preprocessed part"):
        run(discovered())


@pytest.mark.slow
def test_the_workflow_ends_well_without_the_bad_file_and_takes_it_back(folder: Path) -> None:
    workspace = Workspace(folder)
    workspace.configure(content())
    assert "in quarantine, and left out: raw/bad.h5: expected a whole HDF5 file" in workspace.snakemake()
    model = folder / "results" / "kept" / "train" / "ssl" / "model.json"
    assert len(read_json(model)["lineage"]["parts"]["siw"]) == 2
    assert "raw/bad.h5" in (folder / "results" / "kept" / "report.html").read_text()
    assert workspace.jobs() == {}
    workspace.configure(content(on_bad_file="stop"))
    with pytest.raises(AssertionError, match="expected no raw file in quarantine with 'stop', found 1"):
        workspace.snakemake()
    workspace.configure(content())
    valid("par04_events", 3).write(folder / "raw" / "bad.h5")
    assert workspace.jobs() == {"ingest": 1, "preprocess": 1, "merge": 1, "train": 1, "figures": 1, "report": 1}
    workspace.snakemake()
    assert len(read_json(model)["lineage"]["parts"]["siw"]) == 3
    left = json.loads(workspace.caloforge("status", "experiment.yaml", "--json").stdout)["datasets"]["siw"]
    assert left["states"] == {"ingested": 3}
