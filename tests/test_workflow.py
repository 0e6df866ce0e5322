"""The whole workflow on config/test.yaml: it runs, it re-runs only what must, and it reproduces itself to the byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from workflow_fixtures import REPOSITORY, Workspace

from pipeline.config import load_config
from pipeline.paths import Paths

CONTENT = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
ALL_BELOW_MERGE = {
    "merge",
    "train",
    "train_slice",
    "generate",
    "ingest_sample",
    "predict",
    "evaluate",
    "metrics",
    "figures",
    "report",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the workflow has run to its end."""
    workspace = Workspace(tmp_path_factory.mktemp("workflow"))
    workspace.configure(CONTENT)
    workspace.snakemake()
    return workspace


@pytest.fixture
def workspace(finished: Workspace) -> Iterator[Workspace]:
    """The finished workspace; what a test adds or changes is undone."""
    raw = finished.folder / "data" / "raw" / "test_siw"
    before = {path: (path.read_bytes(), path.stat()) for path in raw.iterdir()}
    yield finished
    for path in raw.iterdir():
        if path not in before:
            path.unlink()
    for path, (content, stat) in before.items():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    finished.configure(CONTENT)


def add_file(workspace: Workspace, name: str = "late") -> None:
    """One more raw file, as a detector group would drop it in."""
    done = workspace.caloforge(
        "simulate",
        "--engine",
        "parametric",
        "--showers",
        "40",
        "--seed",
        "99",
        "--output",
        f"data/raw/test_siw/{name}.h5",
    )
    assert done.returncode == 0, done.stderr


def part_folder(workspace: Workspace) -> Path:
    """Where the parts of the data set lie."""
    return workspace.folder / Paths(load_config(workspace.config_file)).part("test_siw", "x").parent


def test_everything_is_made(finished: Workspace) -> None:
    results = finished.folder / "results" / "test"
    config = load_config(finished.config_file)
    for figure in config.figures.draw:
        assert (results / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        record = json.loads((results / "figures" / f"{figure}.json").read_text())
        assert record["provenance"]["redraw"].startswith(f"caloforge figures --figure {figure} --plan ")
    page = (results / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(config.figures.draw) - 1  # the summary stands as a table
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page


def test_a_figure_is_redrawn_to_the_byte_by_the_command_beside_it(finished: Workspace) -> None:
    figure = finished.folder / "results" / "test" / "figures" / "hits.pdf"
    before = figure.read_bytes()
    command = json.loads(figure.with_suffix(".json").read_text())["provenance"]["redraw"].split()
    figure.unlink()
    done = finished.caloforge(*command[1:])
    assert done.returncode == 0, done.stderr
    assert figure.read_bytes() == before


def test_metric_rows_are_complete(finished: Workspace) -> None:
    rows = json.loads((finished.folder / "results" / "test" / "metrics.json").read_text())
    keys = {
        "experiment",
        "sample",
        "reference",
        "selection",
        "observable",
        "metric",
        "value",
        "error",
        "floor",
        "sigma",
        "n",
        "bins",
        "seed",
    }
    assert all(set(row) == keys for row in rows)
    assert {row["sample"] for row in rows} >= {
        "generator",
        "independent_cells",
        "floor",
        "energy",
        "calibrated_cell_sum",
    }
    assert all(row["n"] > 0 and isinstance(row["value"], float) for row in rows)
    assert all(row["floor"] is not None for row in rows if row["sample"] == "generator")


def test_run_again_does_nothing(workspace: Workspace) -> None:
    assert workspace.jobs() == {}


def test_touched_and_recopied_raw_files_do_nothing(workspace: Workspace) -> None:
    first, second = sorted((workspace.folder / "data" / "raw" / "test_siw").glob("*.h5"))[:2]
    os.utime(first)
    shutil.copy(second, second.with_suffix(".tmp"))
    os.replace(second.with_suffix(".tmp"), second)
    assert workspace.jobs() == {}


def test_one_more_file_costs_its_own_jobs_and_what_lies_below_the_merge(workspace: Workspace) -> None:
    add_file(workspace)
    jobs = workspace.jobs()
    assert jobs["ingest"] == 1 and jobs["preprocess"] == 1 and jobs["merge"] == 1
    assert set(jobs) == {"ingest", "preprocess"} | ALL_BELOW_MERGE


def test_a_replaced_raw_file_costs_its_own_jobs_and_what_lies_below_the_merge(workspace: Workspace) -> None:
    add_file(workspace, name="test_siw_0001")
    jobs = workspace.jobs()
    assert jobs["ingest"] == 1 and jobs["preprocess"] == 1 and "simulate" not in jobs


def test_a_removed_raw_file_costs_only_what_lies_below_the_merge(workspace: Workspace) -> None:
    """Fewer files are asked for: the third one, simulated before, is no longer of the data set."""
    raw = CONTENT["datasets"]["test_siw"]
    workspace.configure({**CONTENT, "datasets": {"test_siw": {**raw, "simulate": {**raw["simulate"], "files": 2}}}})
    jobs = workspace.jobs()
    assert not set(jobs) & {"simulate", "ingest", "preprocess"} and jobs["merge"] == 1


def test_a_setting_changed_and_changed_back_finds_the_old_parts(workspace: Workspace) -> None:
    spec = CONTENT["datasets"]["test_siw"]
    workspace.configure({**CONTENT, "datasets": {"test_siw": {**spec, "particle": "e+"}}})
    assert workspace.jobs()["ingest"] == 3
    workspace.configure(CONTENT)
    assert workspace.jobs() == {}


def test_with_a_data_lock_a_new_file_does_nothing(workspace: Workspace) -> None:
    done = workspace.caloforge("freeze", str(workspace.config_file), "--output", "lock.json")
    assert done.returncode == 0, done.stderr
    add_file(workspace)
    workspace.configure({**CONTENT, "data_lock": "lock.json"})
    assert workspace.jobs() == {}


def test_a_changed_simulation_costs_everything_below_it(workspace: Workspace) -> None:
    """Raw files are ancient(), and yet what lies below a simulation that runs again is not forgotten."""
    simulate = {**CONTENT["datasets"]["test_siw"]["simulate"], "seed": 2}
    workspace.configure(
        {**CONTENT, "datasets": {"test_siw": {**CONTENT["datasets"]["test_siw"], "simulate": simulate}}}
    )
    jobs = workspace.jobs()
    assert (
        jobs["simulate"] == 3
        and jobs["ingest"] == 3
        and set(jobs) == {"simulate", "ingest", "preprocess", *ALL_BELOW_MERGE}
    )


def test_somebodys_files_are_a_sample_like_any_other(workspace: Workspace, tmp_path: Path) -> None:
    add_file(workspace, name="peer")
    peer = tmp_path / "peer.h5"
    shutil.move(workspace.folder / "data" / "raw" / "test_siw" / "peer.h5", peer)
    sample = {"files": str(tmp_path / "*.h5"), "format": "calochallenge"}
    workspace.configure({**CONTENT, "samples": {**CONTENT["samples"], "peer": sample}})
    jobs = workspace.jobs()
    assert set(jobs) == {"ingest", "evaluate", "metrics", "figures", "report"}
    assert jobs["ingest"] == jobs["evaluate"] == 1
    workspace.snakemake("results/test/evaluate/peer.json")
    content = json.loads((workspace.folder / "results" / "test" / "evaluate" / "peer.json").read_text())
    assert {row["sample"] for row in content["rows"]} == {"peer", "floor_of_peer"}
    assert all(row["n"] <= 40 for row in content["rows"] if row["observable"] != "cell_energy")


def test_a_changed_evaluation_costs_the_evaluation_and_below(workspace: Workspace) -> None:
    workspace.configure({**CONTENT, "evaluation": {**CONTENT["evaluation"], "bins": 8}})
    assert set(workspace.jobs()) == {"evaluate", "metrics", "figures", "report"}


def test_a_user_file_is_never_overwritten_by_the_simulation(workspace: Workspace) -> None:
    add_file(workspace, name="test_siw_0009")
    assert "simulate" not in workspace.jobs()


def test_a_bad_raw_file_is_named_and_the_others_go_on(workspace: Workspace) -> None:
    (workspace.folder / "data" / "raw" / "test_siw" / "broken.h5").write_bytes(b"not HDF5")
    add_file(workspace, name="good")
    parts = part_folder(workspace)
    with pytest.raises(AssertionError, match=r"broken\.h5"):
        workspace.snakemake(*(f"{parts.relative_to(workspace.folder)}/{name}.json" for name in ("broken", "good")))
    assert (parts / "good.json").exists() and not (parts / "broken.json").exists()
    (parts / "good.json").unlink()


@pytest.mark.slow
def test_the_frozen_paper_stays_and_the_unfrozen_run_moves(workspace: Workspace) -> None:
    done = workspace.caloforge("freeze", str(workspace.config_file), "--output", "lock.json")
    assert done.returncode == 0, done.stderr
    workspace.configure({**CONTENT, "data_lock": "lock.json"})
    workspace.snakemake("paper")
    before = workspace.digests("results/test/paper")
    add_file(workspace)
    assert workspace.jobs("paper") == {}
    done = workspace.caloforge("verify", "results/test")
    assert done.returncode == 0 and "the paper stands" in done.stdout, done.stdout + done.stderr
    assert workspace.digests("results/test/paper") == before and "results/test/paper/lock.json" in before
    workspace.configure(CONTENT)
    jobs = workspace.jobs("paper")
    assert jobs["ingest"] == jobs["preprocess"] == jobs["paper"] == 1 and ALL_BELOW_MERGE - {"report"} <= set(jobs)


@pytest.mark.slow
def test_deleted_and_made_again_elsewhere_the_paper_is_the_same(finished: Workspace, tmp_path: Path) -> None:
    """Results and data gone, in another folder, on one core, jobs in another order; then a bundle in a third folder."""
    finished.snakemake("paper")
    other = Workspace(tmp_path / "other")
    shutil.copytree(finished.folder, other.folder, ignore=shutil.ignore_patterns("*.zarr"))
    for top in ("data", "results"):
        shutil.rmtree(other.folder / top)
    order = ("--prioritize", "results/test/evaluate/nearest_energy.json", "results/test/train/generator/model.json")
    other.snakemake(*order, "--scheduler", "greedy", "--scheduler-greediness", "0.1", "--", "all", "paper", cores=1)
    assert other.digests() == finished.digests()
    packed = other.caloforge("bundle", "results/test", "--output", str(tmp_path / "test.zip"))
    assert packed.returncode == 0, packed.stderr
    shutil.rmtree(other.folder)
    third = Workspace(tmp_path / "third")
    shutil.unpack_archive(tmp_path / "test.zip", third.folder)
    verified, redrawn = (third.caloforge(command, "results/test") for command in ("verify", "redraw"))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert redrawn.returncode == 0, redrawn.stdout + redrawn.stderr
    drawn = {path.name: path.read_bytes() for path in (third.folder / "redrawn").glob("*.pdf")}
    figures = finished.folder / "results" / "test" / "figures"
    assert drawn == {path.name: path.read_bytes() for path in figures.glob("*.pdf")} and len(drawn) > 10
