"""The paper of an experiment: each number linked to its data, verified, packed, and redrawn to the byte elsewhere."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_evaluate import MESH, N, parts  # noqa: F401

from pipeline import stages
from pipeline.cli import main
from pipeline.config import Config
from pipeline.evaluation.evaluate import evaluate
from pipeline.jobs import jobs
from pipeline.paper.crate import CONTEXT
from pipeline.paper.hepdata import named
from pipeline.paper.tables import escaped, latex, measure, paper_tables
from pipeline.paper.verify import verify
from pipeline.plan import Plan, freeze
from pipeline.provenance import file_digest, read_json, tree_digest, write_json

RESULTS = "results/toy"
FIGURES = ("hits", "training_curves")
CONTENT = {
    "experiment": "toy",
    "data_lock": "lock.json",
    "datasets": {
        "siw": {
            "format": "calochallenge",
            "files": "raw/*.h5",
            "detector": "SiW",
            "angle_deg": 90,
            "mesh": {"cells": list(MESH.shape), "dr_mm": 2.0, "dz_mm": 3.0},
        }
    },
    "preprocessing": {"plain": ["log1p"]},
    "runs": {
        "generator": {
            "model": {"name": "diffusion", "patch": [4, 6, 1]},
            "data": ["siw"],
            "recipe": "plain",
            "training": {"samples": 10},
        }
    },
    "samples": {"good": {"run": "generator"}},
    "evaluation": {
        "reference": "siw",
        "rebin": [2, 1, 2],
        "threshold_mev": 0.01,
        "showers": N,
        "bootstrap": 3,
        "sensitivity": False,
        "metrics": ["mean_ratio", "l1"],
        "classifiers": [],
    },
    "figures": {"draw": list(FIGURES)},
}


def stored(manifest: Path, **more) -> None:
    """A manifest and its store, of any content."""
    store = manifest.with_suffix(".zarr")
    store.mkdir(parents=True)
    (store / "zarr.json").write_text(manifest.as_posix())
    write_json(manifest, {"kind": "part", "store_digest": tree_digest(store), **more})


def left_behind(plan: Plan) -> None:
    """What the jobs before the evaluation leave, as small as it gets; the evaluation itself is real."""
    for job in jobs(plan):
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if job.stage == "ingest":
            raw = Path(plan.raw_file(*job.name.split("/")))
            stored(job.output, source={"name": raw.name, "digest": file_digest(raw)})
        elif job.stage == "ingest_sample":
            stored(job.output, source={"digest": file_digest(job.inputs[0])})
        elif job.stage == "preprocess":
            stored(job.output)
        elif job.stage == "merge":
            write_json(job.output, {"mean": 1.0})
        elif job.stage == "train":
            weights = job.output.with_suffix(".safetensors")
            weights.write_bytes(b"weights" * 100)
            write_json(job.output, {"run": job.name, "weights_digest": file_digest(weights)})
            lines = [{"samples": i, "split": "train", "loss": 1 / i} for i in (1, 2, 3)]
            job.output.with_name("metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        elif job.stage == "generate":
            job.output.write_bytes(b"showers")
            write_json(job.output.with_suffix(".measured.json"), {"device": "cpu", "ms_per_shower": 12.5})
        elif job.stage == "evaluate":
            evaluate(plan.config, job.name, [], None if job.name == "floor" else [job.name], job.output)


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with the paper of a small experiment."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        Path("raw").mkdir()
        Path("raw/a.h5").write_bytes(b"a" * 1000)
        free = Plan.discover(Config.model_validate({**CONTENT, "data_lock": None}))
        left_behind(free)
        freeze(free, Path("lock.json"))
        plan = Plan.discover(Config.model_validate(CONTENT))
        stages.metrics(plan)
        for figure in FIGURES:
            stages.figures(plan, figure)
        stages.paper(plan)
    return folder


@pytest.fixture
def paper(made: Path, tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A copy of it, as the working directory."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"


def record() -> dict:
    return read_json(f"{RESULTS}/paper/figures.json")


# ------------------------------------------------------------------------------- the folder


def test_every_figure_is_linked_to_what_it_was_made_from(paper) -> None:
    content = record()
    assert set(content["figures"]) == set(FIGURES)
    for name, figure in content["figures"].items():
        assert file_digest(figure["file"]) == figure["digest"]
        assert all(file_digest(path) == digest for path, digest in figure["inputs"].items())
        assert f"{RESULTS}/train/generator/metrics.jsonl" in figure["inputs"]
        assert figure["checkpoints"] == {"generator": file_digest(f"{RESULTS}/train/generator/model.safetensors")}
        assert figure["lock"] == file_digest("lock.json") and figure["code"]["version"]
        assert figure["redraw"] == f"caloforge redraw {RESULTS} --figure {name}"
    assert content["files"]["raw/a.h5"]["digest"] == file_digest("raw/a.h5")
    assert not [path for path in content["files"] if "measured" in path]


@pytest.mark.parametrize("figure", FIGURES)
def test_the_command_beside_a_figure_redraws_it_to_the_byte(paper, capsys, figure) -> None:
    assert main(record()["figures"][figure]["redraw"].split()[1:]) == 0
    assert f"{figure}.pdf: identical to" in capsys.readouterr().out
    assert Path(f"redrawn/{figure}.pdf").read_bytes() == Path(f"{RESULTS}/paper/figures/{figure}.pdf").read_bytes()


def test_a_figure_is_not_redrawn_from_other_tables(paper, capsys) -> None:
    Path(f"{RESULTS}/metrics.json").write_text("[]")
    assert main(["redraw", RESULTS, "--figure", "hits"]) == 1
    assert re.search(r"metrics\.json: expected digest \w+ as when .*hits\.pdf was drawn", capsys.readouterr().err)
    assert main(["redraw", RESULTS, "--figure", "misses"]) == 1
    assert "--figure: expected one of ['hits', 'training_curves'], got 'misses'" in capsys.readouterr().err


def test_made_again_it_is_the_same_to_the_byte(paper) -> None:
    before = {path: path.read_bytes() for path in Path(RESULTS, "paper").rglob("*") if path.is_file()}
    shutil.rmtree(f"{RESULTS}/paper")
    stages.paper(Plan.load(json.loads(before[Path(RESULTS, "paper", "figures.json")])["plan"]))
    assert {path: path.read_bytes() for path in Path(RESULTS, "paper").rglob("*") if path.is_file()} == before


def test_pdfs_embed_their_fonts_and_hold_no_date(paper) -> None:
    for pdf in Path(RESULTS, "paper", "figures").glob("*.pdf"):
        content = pdf.read_bytes()
        assert content.count(b"/FontDescriptor") and content.count(b"/FontFile2") >= content.count(
            b"/Type /FontDescriptor"
        )
        assert b"/Subtype /Type3" not in content and b"Date" not in content


def test_the_configuration_beside_the_paper_is_the_experiment(paper) -> None:
    assert Config.model_validate(yaml.safe_load(Path(RESULTS, "paper", "configuration.yaml").read_text())) == (
        Config.model_validate(CONTENT)
    )


# ------------------------------------------------------------------------------- tables


def test_csv_holds_every_row_with_every_digit(paper) -> None:
    rows = read_json(f"{RESULTS}/metrics.json")
    with open(f"{RESULTS}/paper/tables/metrics.csv", newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [line["metric"] for line in lines] == [row["metric"] for row in rows]
    assert [float(line["value"]) for line in lines] == [row["value"] for row in rows]


def test_times_come_from_recorded_files_and_from_nowhere_else(paper) -> None:
    write_json(f"{RESULTS}/generate/good.measured.json", {"ms_per_shower": 99.0})
    table = paper_tables(Plan.load(record()["plan"]), [])[-1]
    assert table.name == "times.measured"
    assert table.rows == [["generate/good.measured.json", "ms_per_shower", 99.0]]
    assert "12.5" in Path(f"{RESULTS}/paper/tables/times.measured.csv").read_text()
    assert "12.5" not in "".join(p.read_text() for p in Path(RESULTS, "paper", "tables").glob("[!t]*"))


def test_latex_is_balanced_and_escaped(paper) -> None:
    for path in Path(RESULTS, "paper", "tables").glob("*.tex"):
        text = path.read_text()
        assert text.count("{") == text.count("}") and text.count("\\begin") == text.count("\\end{")
        assert not re.search(r"(?<!\\)_(?![^$]*\$)(?!\{)", text.replace("\\_", "")) or "$" in text
    assert escaped("a_b & 5 % ± ~") == r"a\_b \& 5 \% $\pm$ \textasciitilde{}"
    assert measure(6e-5, 3e-5) == r"$(6 \pm 3) \times 10^{-5}$" and measure(None) == ""
    assert measure(1.23e-7) == r"$1.23 \times 10^{-7}$"


def test_a_long_table_goes_over_pages(paper) -> None:
    table = next(
        t
        for t in paper_tables(Plan.load(record()["plan"]), read_json(f"{RESULTS}/metrics.json") * 9)
        if t.name == "metrics"
    )
    assert "\\begin{longtable}{lllllll}" in latex(table) and "\\endfirsthead" in latex(table)


# ------------------------------------------------------------------------------- HEPData


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_hepdata_accepts_the_submission(paper) -> None:
    validator = pytest.importorskip("hepdata_validator.full_submission_validator").FullSubmissionValidator()
    valid = validator.validate(directory=f"{RESULTS}/paper/hepdata")
    assert valid, {path: [m.message for m in messages] for path, messages in validator.get_messages().items()}


def test_hepdata_holds_what_the_figure_shows(paper) -> None:
    table = yaml.safe_load(Path(RESULTS, "paper", "hepdata", "distribution_hits.yaml").read_text())
    drawn = read_json(f"{RESULTS}/figures/hits.json")["numbers"]["hits"]["good"]
    edges, side = drawn["edges"], drawn["sample"]
    (bins,), (_, *samples) = table["independent_variables"], table["dependent_variables"]
    assert [b["low"] for b in bins["values"]] == edges[:-1] and bins["values"][-1]["high"] == edges[-1]
    good = next(s for s in samples if s["qualifiers"][0]["value"] == "good")
    values = [v["value"] for v in good["values"]]
    np.testing.assert_allclose(values, side["counts"] / (side["total"] * np.diff(edges)))
    errors = [v["errors"][0]["symerror"] if "errors" in v else 0 for v in good["values"]]
    np.testing.assert_allclose(errors, np.sqrt(side["counts"]) / (side["total"] * np.diff(edges)))
    assert named("second moment along $z$ [mm$^2$]") == ("second moment along z", "mm²")
    assert named("clusters of cells") == ("clusters of cells", "")


# ------------------------------------------------------------------------------- verify


def test_an_untouched_paper_stands(paper, capsys) -> None:
    assert main(["verify", RESULTS]) == 0
    assert "the paper stands" in capsys.readouterr().out
    verdict = verify(Path(RESULTS))
    assert {"data", "checkpoint", "table", "figure", "record"} == set(verdict.matching) and not verdict.skipped
    assert verify(Path(RESULTS), data=False).skipped["data"] == verdict.matching["data"]


@pytest.mark.parametrize(
    ("path", "kind", "remedy"),
    [
        ("raw/a.h5", "data", "put it back, or (accept what is there now: )?run `snakemake paper`"),
        ("data/store/*/a.zarr/zarr.json", "data", r"or delete data/store/\S+/a\.json and run `snakemake paper`"),
        (
            "results/toy/generate/good.h5",
            "data",
            r"put it back, or (delete results/toy/generate/good\.h5 and )?run `snakemake paper`",
        ),
        ("results/toy/train/generator/model.safetensors", "checkpoint", r"or delete results/toy/train/generator/model"),
        ("results/toy/evaluate/good.json", "table", "put it back, or (delete it and )?run `snakemake paper`"),
        ("results/toy/figures/hits.pdf", "figure", "put it back, or (delete it and )?run `snakemake paper`"),
        ("results/toy/paper/figures/hits.pdf", "figure", "run `snakemake --forcerun paper -- paper`"),
        ("results/toy/paper/tables/summary.csv", "table", "run `snakemake --forcerun paper -- paper`"),
        ("data/store/*/a.json", "record", "put it back, or (delete it and )?run `snakemake paper`"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_what_no_longer_matches_is_named_with_a_remedy(paper, capsys, path, kind, remedy, gone) -> None:
    (place,) = Path().glob(path)
    if gone:
        place.unlink()
    else:
        place.write_bytes(place.read_bytes() + b" ")
    assert main(["verify", RESULTS]) == 1
    finding = next(f for f in verify(Path(RESULTS)).findings if place.as_posix().startswith(f.path))
    assert finding.kind == kind and str(finding) in capsys.readouterr().out
    assert re.search(remedy, finding.remedy)
    assert re.match(r"\S+: expected digest \w{32}, found (\w{32}|no file); ", str(finding))


def test_figures_older_than_their_tables_are_named(paper) -> None:
    rows = read_json(f"{RESULTS}/metrics.json")
    write_json(f"{RESULTS}/metrics.json", rows[1:])
    stages.paper(Plan.load(record()["plan"]))
    found = verify(Path(RESULTS)).findings
    assert {f.path for f in found} == {f"{RESULTS}/paper/figures/{name}.pdf" for name in FIGURES}
    assert "metrics.json of digest" in str(found[0]) and "run `snakemake paper`" in str(found[0])


def test_a_configuration_that_means_something_else_is_named(paper) -> None:
    content = record()
    plan = read_json(content["plan"])
    plan["config"]["evaluation"]["showers"] += 1
    write_json(content["plan"], plan)
    content["files"][content["plan"]]["digest"] = file_digest(content["plan"])
    write_json(f"{RESULTS}/paper/figures.json", content)
    (finding,) = verify(Path(RESULTS)).findings
    assert finding.kind == "configuration" and "verify with the version of Caloforge" in finding.remedy


def test_a_lock_of_other_data_is_named(paper) -> None:
    lock = read_json("lock.json")
    lock["datasets"]["siw"]["a"]["digest"] = "0" * 32
    write_json(f"{RESULTS}/paper/lock.json", lock)
    assert any("as in the lock" in str(f) and f.path == "raw/a.h5" for f in verify(Path(RESULTS)).findings)


def test_other_code_is_a_note_and_no_fault(paper) -> None:
    content = record()
    content["code"]["digest"] = "0" * 32
    write_json(f"{RESULTS}/paper/figures.json", content)
    verdict = verify(Path(RESULTS))
    assert not verdict.findings and "figures redrawn by it may differ" in verdict.notes[0]


def test_without_a_paper_there_is_nothing_to_verify(paper, capsys) -> None:
    content = record()
    write_json(f"{RESULTS}/paper/figures.json", {**content, "version": 99})
    assert main(["verify", RESULTS]) == 1
    assert "expected a paper's record of version 2, found 99; run `snakemake paper`" in capsys.readouterr().err
    Path(f"{RESULTS}/paper/figures.json").unlink()
    assert main(["verify", RESULTS]) == 1
    assert "expected a record, found no file" in capsys.readouterr().err


# ------------------------------------------------------------------------------- bundle


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder


def test_a_bundle_is_verified_and_redrawn_from_in_another_folder(paper, tmp_path, monkeypatch, capsys) -> None:
    assert main(["bundle", RESULTS, "--date", "2026-01-02"]) == 0
    elsewhere = unpacked(paper / "toy.zip", tmp_path / "elsewhere")
    paper.rename(tmp_path / "gone")
    monkeypatch.chdir(elsewhere)
    assert not list(elsewhere.rglob("*.h5")) and not list(elsewhere.rglob("*.zarr"))
    assert main(["verify", RESULTS]) == 0
    assert main(["redraw", RESULTS]) == 0
    for figure in FIGURES:
        original = tmp_path / "gone" / RESULTS / "figures" / f"{figure}.pdf"
        assert Path(f"redrawn/{figure}.pdf").read_bytes() == original.read_bytes()
    Path(f"{RESULTS}/generate/good.measured.json").write_text("{}")
    capsys.readouterr()
    assert main(["verify", RESULTS]) == 1
    assert "good.measured.json: expected digest" in capsys.readouterr().out


@pytest.mark.parametrize("way_out", ["../outside.json", "/dev/zero", "/", "results/link"])
def test_a_bundle_reads_nothing_outside_its_folder(paper, tmp_path, capsys, way_out) -> None:
    assert main(["bundle", RESULTS, "--date", "2026-01-02"]) == 0
    elsewhere = unpacked(paper / "toy.zip", tmp_path / "elsewhere")
    (tmp_path / "outside.json").write_text("{}")
    (elsewhere / "results" / "link").symlink_to(tmp_path / "outside.json")
    content = read_json(elsewhere / RESULTS / "paper" / "figures.json")
    content["files"][way_out] = {"kind": "data", "digest": file_digest(tmp_path / "outside.json")}
    write_json(elsewhere / RESULTS / "paper" / "figures.json", {**content, "plan": way_out})
    found = [f for f in verify(elsewhere / RESULTS).findings if f.path == way_out]
    assert [f.kind for f in found] == ["data", "configuration"]
    assert {f.found for f in found} == {"a path out of it"} and found[0].remedy == "trust nothing of it"


def test_a_damaged_record_of_a_paper_is_told_in_one_line(paper, capsys) -> None:
    content = record()
    write_json(f"{RESULTS}/paper/figures.json", {**content, "files": {"results/toy/metrics.json": "?"}})
    assert main(["verify", RESULTS]) == 1
    write_json(f"{RESULTS}/paper/figures.json", {**content, "figures": ["hits"]})
    assert main(["redraw", RESULTS]) == 1
    write_json(f"{RESULTS}/paper/figures.json", {**content, "figures": {"../x": content["figures"]["hits"]}})
    assert main(["redraw", RESULTS]) == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert "figures.json: expected a paper's record, found TypeError" in first and "unpack the bundle again" in first
    assert "figures.json: expected a paper's record, found AttributeError" in second
    assert "expected the figures ['../x'] in the plan, found none of that name" in third


def test_two_bundles_are_equal_to_the_byte(paper, monkeypatch) -> None:
    for name in ("one.zip", "two.zip"):
        assert main(["bundle", RESULTS, "--date", "2026-01-02", "--output", name]) == 0
        Path(f"{RESULTS}/metrics.json").touch()
    assert Path("one.zip").read_bytes() == Path("two.zip").read_bytes()


def test_large_models_stay_out_and_are_not_missed(paper, tmp_path, monkeypatch, capsys) -> None:
    assert main(["bundle", RESULTS, "--largest-model-mb", "0.0001"]) == 0
    assert "left out: results/toy/train/generator/model.safetensors (0.0 MB, more than" in capsys.readouterr().out
    monkeypatch.chdir(unpacked(paper / "toy.zip", tmp_path / "elsewhere"))
    assert main(["verify", RESULTS]) == 0 and verify(Path(RESULTS)).skipped["checkpoint"] == 1
    assert main(["redraw", RESULTS, "--figure", "hits"]) == 0


def test_the_crate_describes_every_member(paper) -> None:
    licence = "https://creativecommons.org/licenses/by/4.0/"
    assert main(["bundle", RESULTS, "--date", "2026-01-02", "--license", licence]) == 0
    with zipfile.ZipFile("toy.zip") as archive:
        names = set(archive.namelist())
        crate = json.loads(archive.read("ro-crate-metadata.json"))
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert crate["@context"] == CONTEXT and len(entities) == len(crate["@graph"])
    assert entities["ro-crate-metadata.json"]["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    root = entities["./"]
    assert root["datePublished"] == "2026-01-02" and root["license"] == {"@id": licence}
    assert {part["@id"] for part in root["hasPart"]} == names - {"ro-crate-metadata.json"}
    assert all(entities[name]["@type"] == "File" for name in names - {"ro-crate-metadata.json"})
    action = entities["#draw-hits"]
    assert action["result"] == [{"@id": f"{RESULTS}/paper/figures/hits.pdf"}]
    assert {o["@id"] for o in action["object"]} == set(record()["figures"]["hits"]["inputs"])


def test_a_paper_that_does_not_stand_is_not_packed(paper, capsys) -> None:
    Path(f"{RESULTS}/metrics.json").write_text("[]")
    assert main(["bundle", RESULTS]) == 1
    assert "expected a paper that verifies, got: results/toy/metrics.json" in capsys.readouterr().err
    assert not Path("toy.zip").exists()
    assert main(["bundle", RESULTS, "--date", "yesterday"]) == 1
    assert "--date: expected YYYY-MM-DD, got 'yesterday'" in capsys.readouterr().err
