"""`caloforge inspect`: it shows what is inside, takes what ingest takes, and says in one line what it would refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from data_fixtures import make_part, sparse_values, write_raw
from raw_files import valid

from pipeline.calorimeter import CylinderMesh, Showers
from pipeline.cli import main
from pipeline.config import BUILT_IN_DETECTORS, DatasetSpec, RecipeSpec, SplitSpec
from pipeline.data.ingest import ingest
from pipeline.data.preprocess import preprocess_part

Make = Callable[..., Showers]
Capture = pytest.CaptureFixture[str]


def inspect(*arguments: object) -> int:
    return main(["inspect", *map(str, arguments)])


@pytest.mark.parametrize("layout", ["calochallenge", "caloforge", "par04"])
def test_our_own_files_need_no_more_than_three_lines(
    tmp_path: Path, make_showers: Make, capsys: Capture, layout: str
) -> None:
    showers = make_showers(6, incident_energy=np.repeat([1000.0, 4000.0], 3))
    path = write_raw(tmp_path / "a.h5", showers, layout)
    assert inspect(path, "--detector", "SiW") == 0
    shown, _, section = capsys.readouterr().out.partition("It would be ingested")
    for text in ("1, 4 GeV", "90 degrees", "4 x 6 x 5 cells", "visible energy, not divided", "all read: finite"):
        assert text in shown
    spec = yaml.safe_load(section.partition("\n")[2])["datasets"]["a"]
    assert {"format": layout, "files": str(path), "detector": "SiW"}.items() <= spec.items()
    assert "# check" not in section


@pytest.mark.parametrize(
    ("layout", "shape", "marked"),
    [
        ("par04_events", (9, 16, 45), {"detector", "mesh", "angle_deg", "sampling_corrected"}),
        ("lemurs", (9, 16, 45), {"detector", "mesh"}),
        ("calochallenge", (18, 50, 45), {"detector", "angle_deg", "sampling_corrected"}),
        ("par04", (18, 50, 45), {"detector", "angle_deg", "sampling_corrected"}),
    ],
)
def test_the_printed_section_ingests_the_file(
    tmp_path: Path, capsys: Capture, layout: str, shape: tuple[int, int, int], marked: set[str]
) -> None:
    raw, cells = valid(layout), sparse_values((3, *shape))
    shaped = {"showers": cells, "1": cells, "16": cells}
    if layout == "calochallenge":
        shaped["showers"] = cells.reshape(3, -1) * 3
    raw.content = {key: shaped.get(key, values[:3]) for key, values in raw.content.items()}
    path = raw.write(tmp_path / "a.h5")
    assert inspect(path) == 0
    section = capsys.readouterr().out.partition("check the marked lines:")[2]
    spec = yaml.safe_load(section)["datasets"]["a"]
    assert spec["format"] == layout
    assert {line.split(":")[0].strip() for line in section.splitlines() if "# check" in line} == marked
    manifest = ingest(path, tmp_path / "a.json", DatasetSpec.model_validate(spec), BUILT_IN_DETECTORS["SiW"], "a")
    assert tuple(manifest["mesh"]["cells"]) == shape


def test_each_refused_file_is_one_line_and_the_others_are_shown(
    tmp_path: Path, make_showers: Make, capsys: Capture
) -> None:
    good = write_raw(tmp_path / "good.h5", make_showers(3))
    bad, missing = tmp_path / "bad.h5", tmp_path / "missing.h5"
    bad.write_bytes(good.read_bytes()[:-1000])
    assert inspect(bad, good, missing) == 1
    shown = capsys.readouterr()
    assert "good.h5:" in shown.out
    lines = shown.err.strip().splitlines()
    assert [line.partition(": expected")[0] for line in lines] == [f"refused: {bad}", f"refused: {missing}"]


def test_unknown_keys_are_refused(tmp_path: Path, capsys: Capture) -> None:
    raw = valid("par04_events")
    raw.content = {"data": np.zeros(3)}
    assert inspect(raw.write(tmp_path / "a.h5")) == 1
    assert "keys: expected those of a known layout, found ['data']" in capsys.readouterr().err


def test_all_rows_are_read_unless_quick(
    tmp_path: Path, make_showers: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.formats.hdf5._BLOCK_BYTES", 64 * 480)
    raw = valid("calochallenge")
    showers = make_showers(200)
    flat = showers.energy.transpose(0, 3, 2, 1).reshape(200, -1).copy()
    flat[150, 3] = np.nan
    raw.content = {"showers": flat, "incident_energies": showers.incident_energy}
    raw.attributes = {"cells": showers.mesh.shape, "dr_mm": 2.0, "dz_mm": 3.0}
    path = raw.write(tmp_path / "a.h5")
    assert inspect(path) == 1
    assert "expected finite cell energies, got nan" in capsys.readouterr().err
    assert inspect(path, "--quick") == 0
    assert "not all read (--quick)" in capsys.readouterr().out


def test_a_configured_data_set_is_applied(tmp_path: Path, capsys: Capture) -> None:
    path = valid("par04_events").write(tmp_path / "a.h5")
    mesh = {"cells": [4, 6, 5], "dr_mm": 2.0, "dz_mm": 3.0}
    spec = {"format": "par04_events", "files": str(path), "detector": "SciPb", "mesh": mesh, "angle_deg": 90}
    config = tmp_path / "c.yaml"
    for corrected, status in ((True, 0), (None, 1)):
        spec["sampling_corrected"] = corrected
        config.write_text(yaml.safe_dump({"experiment": "x", "datasets": {"mine": spec}}))
        assert inspect(path, "--config", config, "--dataset", "mine") == status
    shown = capsys.readouterr()
    assert "SciPb, e-" in shown.out and "divided by the sampling fraction 0.0334" in shown.out
    assert "It would be ingested" not in shown.out
    assert "sampling_corrected: expected true or false, found nothing" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "c.yaml"), "--config: expected --dataset NAME with it"),
        (("--dataset", "a", "--format", "par04"), "--dataset: expected no --format or --detector with it"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], message: str, capsys: Capture) -> None:
    assert inspect("a.h5", *arguments) == 1
    assert message in capsys.readouterr().err


def test_parts_and_preprocessed_parts_are_shown(tmp_path: Path, make_showers: Make, capsys: Capture) -> None:
    part = make_part(tmp_path, make_showers(8))
    assert inspect(part.path, part.store) == 0
    shown = capsys.readouterr().out
    for text in ("kind", "part", "a.h5,", "n showers", "8", part.digest, "array energy", "all read: finite"):
        assert text in shown
    recipe = RecipeSpec.model_validate(["divide_by_incident_energy", "log1p"])
    preprocess_part(part.path, tmp_path / "p" / "a.json", recipe, SplitSpec())
    assert inspect(tmp_path / "p" / "a.json") == 0
    shown = capsys.readouterr().out
    assert "preprocessed" in shown and "recipe digest" in shown and "visible / incident" not in shown


def test_a_damaged_part_is_refused(tmp_path: Path, make_showers: Make, capsys: Capture) -> None:
    part = make_part(tmp_path, make_showers(8))
    chunk = next(path for path in sorted((part.store / "energy").rglob("*")) if path.name == "0")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert inspect(part.path) == 1
    assert "expected store digest" in capsys.readouterr().err


def test_dense_stores_are_shown_and_others_refused(tmp_path: Path, mesh: CylinderMesh, capsys: Capture) -> None:
    group = zarr.open_group(tmp_path / "d.zarr", mode="w", attributes={"detector": "SiW"})
    cells = sparse_values((7, *mesh.shape))
    array = group.create_array("shower_energy", shape=cells.shape, dtype="f4", attributes={"units": "MeV"})
    array[:] = cells
    assert inspect(tmp_path / "d.zarr") == 0
    assert "(7, 4, 6, 5)" in capsys.readouterr().out
    array[3, 0, 0, 0] = -1
    assert inspect(tmp_path / "d.zarr") == 1
    assert "expected finite energies >= 0" in capsys.readouterr().err
    zarr.open_group(tmp_path / "e.zarr", mode="w")
    (tmp_path / "empty").mkdir()
    assert inspect(tmp_path / "e.zarr", tmp_path / "empty") == 1
    err = capsys.readouterr().err
    assert "expected shower_energy (shower, r, phi, z), found []" in err and "expected a Zarr store" in err
